"""One blocking connection: what is said not to have been sent is not, and what a client leaves."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tertulia import Client, Timeout, limits
from tertulia.attachments import Hold
from tertulia.errors import ConnectionLost, TertuliaError
from tertulia.link import Link
from tests.clients.conftest import Served
from tests.support.wire import BOUND_S, frame


class Pipe:
    """A daemon that takes what is written to it only when it is `free`, and says what it is told to
    say."""

    def __init__(self) -> None:
        self.written = b""
        self.entered = threading.Event()
        self.free = threading.Event()
        self._says: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read(self) -> bytes:
        return self._says.get()

    def say(self, **message: Any) -> None:
        self._says.put(frame({"jsonrpc": "2.0", **message}))

    def write(self, data: bytes) -> None:
        self.entered.set()
        assert self.free.wait(BOUND_S)
        self.written += data

    def reason(self) -> ConnectionLost:
        return ConnectionLost("It is over.")

    def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        return error

    def hang_up(self) -> None:
        self._says.put(b"")

    end = hang_up

    def release(self) -> None:
        pass


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def link(pipe: Pipe) -> Iterator[Link]:
    link = Link(pipe)
    yield link
    link.close()


def test_a_request_that_was_not_sent_is_not_sent_later(link: Link, pipe: Pipe) -> None:
    def ask(text: str, timeout: float) -> Timeout:
        with pytest.raises(Timeout) as caught:
            link.request("session.send", {"prompt": text}, timeout)
        return caught.value

    first = threading.Thread(target=ask, args=("the first", 0.2))
    first.start()
    assert pipe.entered.wait(BOUND_S)
    assert "it was not sent" in str(ask("the second", 0.01))
    pipe.free.set()
    first.join(BOUND_S)
    assert "it was sent" in str(ask("the third", 0.01))
    assert b"the first" in pipe.written
    assert b"the second" not in pipe.written
    assert b"the third" in pipe.written


def test_an_answer_that_comes_with_the_time_out_is_the_answer(
    link: Link, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Future.result

    def late(answer: Future[Any], timeout: float | None = None) -> Any:
        """As if it came between the end of the wait and what follows."""
        if timeout is None:
            return result(answer)
        pipe.say(id=1, result="here")
        result(answer, BOUND_S)
        raise TimeoutError

    monkeypatch.setattr(Future, "result", late)
    pipe.free.set()
    assert link.request("ping", {}, 0.01) == "here"


def test_a_write_that_is_interrupted_loses_the_connection(
    link: Link, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(data: bytes) -> None:
        pipe.written += data[: len(data) // 2]
        raise KeyboardInterrupt

    monkeypatch.setattr(pipe, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.request("session.send", {"prompt": "the first"}, BOUND_S)
    half = pipe.written
    monkeypatch.undo()
    pipe.free.set()
    assert link.lost
    with pytest.raises(ConnectionLost, match="interrupted"):
        link.request("ping", {}, 0.01)
    assert pipe.written == half


def test_a_client_that_reconnects_keeps_nothing_of_what_it_had() -> None:
    links: list[weakref.ref[Link]] = []

    def opened() -> Link:
        link = Link(Pipe())
        links.append(weakref.ref(link.stream))  # type: ignore[arg-type]
        return link

    client = Client(opened, owns_daemon=False)
    client.start()
    for _ in range(5):
        assert client._link is not None
        client._link.close()
        client.reconnect()
    assert [link() is not None for link in links] == [False] * 5 + [True]
    client.close()
    assert links[-1]() is None


FORKS = """
import os, sys
from tertulia import Client, TertuliaError
client = Client.connect(sys.argv[1], "") if sys.argv[1] else Client.spawn()
with client, client.create_session("s") as session:
    events, turn = session.events(), session.stream("[[fake-n1]]")
    child = os.fork()
    if child == 0:
        {then}
        sys.exit(3)
    _, status = os.waitpid(child, 0)
    print(client.ping("x"), client.closed, os.waitstatus_to_exitcode(status))
    session.log("a note")
    print(next(event.data["message"] for event in events if event.type == "session.info"))
    print([event.type for event in turn][-1])
print(client.closed)
"""
REFUSED = """
        old = lambda: next(events), lambda: next(turn)
        new = client.ping, client.start, client.reconnect, session.messages, session.events
        for use in (*old, *new):
            try:
                use()
            except TertuliaError as error:
                assert "a fork of the one" in str(error)
            else:
                sys.exit(4)
"""


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize(
    "then", ["pass", "client.close()", "session.close(); client.close(); client.close()", REFUSED]
)
def test_a_fork_leaves_its_parent_the_connection(served: Served, then: str, shared: bool) -> None:
    program, address = FORKS.replace("{then}", then.strip()), served.address if shared else ""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, address],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert ran.stdout == "pong: x False 3\na note\nsession.idle\nTrue\n", ran.stderr
    assert ran.returncode == 0, ran.stderr


def test_a_session_is_closed_while_another_thread_writes_much_and_the_reader_reads_on(
    link: Link, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "THREAD_JOIN_S", 0.01)
    hold, others = Hold(), Hold()
    pipe.free.set()
    for number, (session_id, each) in enumerate((("s", hold), ("another", others)), 1):
        attaching = threading.Thread(
            target=link.attach, args=("session.resume", {"sessionId": session_id}, BOUND_S, each)
        )
        attaching.start()
        assert pipe.entered.wait(BOUND_S)
        pipe.say(id=number, result={"sessionId": session_id})
        attaching.join(BOUND_S)
        pipe.entered.clear()
    feed = link.subscribe("another", others)
    pipe.free.clear()
    asks = threading.Thread(target=link.request, args=("ping", {"message": "x" * 9999}, BOUND_S))
    asks.start()
    assert pipe.entered.wait(BOUND_S)
    closes = threading.Thread(target=link.release, args=("s", hold, BOUND_S))
    closes.start()
    for number in range(3):
        event = {"id": str(number), "timestamp": "t", "type": "x", "data": {}}
        pipe.say(method="session.event", params={"sessionId": "another", "event": event})
        told = feed.take(BOUND_S)
        assert told is not None
        assert told.id == str(number)
    pipe.free.set()
    pipe.say(id=3, result={})
    pipe.say(id=4, result={"success": True})
    asks.join(BOUND_S)
    closes.join(BOUND_S)
    assert not link.lost
    assert b"session.d" in pipe.written.rpartition(b"ping")[2]
