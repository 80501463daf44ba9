"""The blocking client against the real daemon and a scripted model."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

import tertulia
from tertulia import (
    Client,
    ConnectionLost,
    DaemonFailed,
    Event,
    RpcError,
    Session,
    SessionExists,
    SessionNotFound,
    TertuliaError,
    Timeout,
    TurnAborted,
    TurnFailed,
    limits,
    process,
)
from tests.clients.conftest import BOUND_S, Counted, Model, Served, listening_port, wait_until_gone


def test_sessions_answer_from_their_own_history(home: Path) -> None:
    with Client.spawn(home=home) as client:
        sessions = [client.create_session(model="fake-history") for _ in range(3)]
        for number, session in enumerate(sessions):
            session.send_and_wait(f"context {number}", BOUND_S)
        for number, session in enumerate(sessions):
            text = session.send_and_wait("and now", BOUND_S).text
            assert f"context {number}" in text
            assert text.count("context") == 1


def test_a_session_prints_as_its_id(home: Path) -> None:
    with Client.spawn(home=home) as client:
        assert repr(client.create_session("notes")) == "<Session notes>"


def test_a_session_may_bring_its_provider(home: Path, model: Model) -> None:
    with Client.spawn(home=home) as client:
        session = client.create_session(
            "user-123-chat", "fake-n2", provider=model.provider, system_message="Be brief."
        )
        assert session.id == "user-123-chat"
        answer = session.send_and_wait("hello", BOUND_S)
        assert answer.text.startswith("w0")
        assert answer.events[0].type == "user.message"
        assert answer.events[0].data["content"] == "hello"
        assert answer.events[-1].type == "session.idle"


def test_a_stream_is_one_turn_up_to_idle(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session(model="fake-n5-d1") as session:
        for _ in range(2):
            events = list(session.stream("hello", timeout=BOUND_S))
            text = "".join(
                event.data["deltaContent"]
                for event in events
                if event.type == "assistant.message_delta"
            )
            said = [event for event in events if event.type == "assistant.message"]
            assert [event.data["content"] for event in said] == [text]
            assert events[-1].type == "session.idle"
            assert [event.type for event in events].count("session.idle") == 1


def test_without_streaming_there_are_no_deltas(home: Path) -> None:
    with Client.spawn(home=home) as client:
        session = client.create_session(model="fake-n5", streaming=False)
        types = {event.type for event in session.stream("hello", timeout=BOUND_S)}
        assert "assistant.message" in types
        assert "assistant.message_delta" not in types


def test_turns_run_at_the_same_time(home: Path) -> None:
    """No turn ends before every turn has begun to speak: they wait for each other's deltas."""
    together = threading.Barrier(4)

    def speak(session: Session) -> None:
        for event in session.stream("go", timeout=BOUND_S):
            if event.type == "assistant.message_start":
                together.wait(timeout=BOUND_S)

    with Client.spawn(home=home) as client:
        sessions = [client.create_session(model="fake-n200-d20") for _ in range(4)]
        threads = [threading.Thread(target=speak, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=BOUND_S)
        assert not any(thread.is_alive() for thread in threads)
        assert not together.broken


@pytest.mark.parametrize(("spec", "status"), [("fake-e401", 401), ("fake-e429", 429)])
def test_a_failed_turn_says_why_and_the_next_one_works(home: Path, spec: str, status: int) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        with pytest.raises(TurnFailed) as raised:
            session.send_and_wait(f"[[{spec}]]", BOUND_S)
        assert raised.value.status == status
        assert raised.value.error_type
        assert session.send_and_wait("[[say:fine]]", BOUND_S).text == "fine"


def test_what_another_client_logs_as_an_error_does_not_fail_a_turn(served: Served) -> None:
    with Client.connect(served.address) as client, Client.connect(served.address) as other:
        session = client.create_session("s")
        other.resume_session("s")
        noted = {"sessionId": "s", "message": "bad", "level": "error", "type": "lint"}
        seen: list[str] = []
        for event in session.stream("[[fake-n20-d5]]", timeout=BOUND_S):
            if event.type == "assistant.message_start":
                other.request("session.log", noted)
            seen.append(event.type)
    assert {"session.error", "assistant.message"} <= set(seen)


def test_an_aborted_turn_ends_and_the_next_one_works(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        with pytest.raises(TurnAborted):
            for event in session.stream("[[fake-n100000-d20]]", timeout=BOUND_S):
                if event.type == "assistant.message_delta":
                    session.abort()
        session.abort()  # nothing runs: nothing happens
        assert session.send_and_wait("[[say:fine]]", BOUND_S).text == "fine"


def test_a_timeout_tells_the_state_and_ends_no_turn(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        with pytest.raises(Timeout) as raised:
            session.send_and_wait("[[fake-hang]]", timeout=0.2)
        assert "turn" in raised.value.state or "waits" in raised.value.state
        assert "abort" not in [event.type for event in session.messages()]
        session.abort()
        assert session.send_and_wait("[[say:fine]]", BOUND_S).text == "fine"
        assert "abort" in [event.type for event in session.messages()]


def test_two_senders_of_one_session_get_their_own_answers(home: Path) -> None:
    answers: dict[str, str] = {}

    def ask(session: Session, word: str) -> None:
        answers[word] = session.send_and_wait(f"[[say:{word}]]", BOUND_S).text

    words = [f"word{number}" for number in range(6)]
    with Client.spawn(home=home) as client, client.create_session() as session:
        threads = [threading.Thread(target=ask, args=(session, word)) for word in words]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=BOUND_S)
    assert answers == {word: word for word in words}


def test_events_show_what_another_client_does(served: Served) -> None:
    with Client.connect(served.address) as first, Client.connect(served.address) as second:
        mine = first.create_session("shared")
        watcher = second.resume_session("shared").events()
        mine.send_and_wait("[[say:seen]]", BOUND_S)
        seen: list[Event] = []
        for event in watcher:
            seen.append(event)
            if event.type == "session.idle":
                break
        assert "seen" in [e.data["content"] for e in seen if e.type == "assistant.message"]


def test_iterators_end_with_an_error_when_the_daemon_dies(home: Path, counted: Counted) -> None:
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.create_session()
        events = session.events()
        turn = session.stream("[[fake-hang]]")
        os.kill(counted.pids[0], signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="signal 9"):
            list(events)
        with pytest.raises(ConnectionLost):
            list(turn)
        with pytest.raises(ConnectionLost):
            client.ping()


def test_iterators_end_quietly_when_their_session_is_closed(home: Path) -> None:
    with Client.spawn(home=home) as client:
        session = client.create_session()
        events = session.events()
        session.close()
        session.close()
        assert "session.idle" not in [event.type for event in events]


def test_a_deleted_sessions_iterator_ends_with_an_error(home: Path) -> None:
    with Client.spawn(home=home) as client:
        events = client.create_session("gone").events()
        client.delete_session("gone")
        with pytest.raises(SessionNotFound):
            list(events)
        with pytest.raises(SessionNotFound):
            client.delete_session("gone")
        with pytest.raises(SessionNotFound):
            client.resume_session("gone")


def found_of(ask: Callable[[], object]) -> object:
    """What a call comes to; fails where it does not come to its end."""
    asked: Future[object] = Future()

    def run() -> None:
        try:
            asked.set_result(ask())
        except Exception as error:
            asked.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asked.result(BOUND_S)


def test_who_is_not_attached_waits_for_no_events_and_sends_nothing(
    home: Path, counted: Counted
) -> None:
    with Client.spawn(home=home, command=counted.command) as client:
        closed, deleted = client.create_session("closed"), client.create_session("deleted")
        closed.close()
        client.delete_session("deleted")
        again = client.resume_session("closed")
        before = again.tail().cursor
        assert found_of(lambda: list(closed.events())) == []
        for talk in (closed.send_and_wait, closed.stream):
            with pytest.raises(SessionNotFound):
                found_of(partial(talk, "[[say:unseen]]"))
        assert again.read_log(before).events == ()
        with pytest.raises(SessionNotFound):
            found_of(lambda: list(deleted.events()))
        os.kill(counted.pids[0], signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            list(again.events())
        client.reconnect()
        with pytest.raises(SessionNotFound):
            found_of(lambda: list(again.events()))
        with pytest.raises(SessionNotFound):
            found_of(lambda: again.send_and_wait("[[say:unseen]]"))
        assert found_of(lambda: list(closed.events())) == []
        closed.attach()
        events = closed.events()
        noted = closed.log("here")
        assert found_of(lambda: next(events).id) == noted


def test_a_session_is_resumed_by_another_process(home: Path) -> None:
    with Client.spawn(home=home) as client:
        client.create_session("kept", "fake-history").send_and_wait("before", BOUND_S)
    with Client.spawn(home=home) as client:
        assert [info.session_id for info in client.sessions()] == ["kept"]
        assert client.last_session_id() == "kept"
        session = client.resume_session("kept")
        assert "before" in session.send_and_wait("after", BOUND_S).text
        said = [e.data["content"] for e in session.messages() if e.type == "user.message"]
        assert said == ["before", "after"]
        assert not any(event.ephemeral for event in session.messages())


def test_the_small_calls(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        assert client.ping("hi") == "pong: hi"
        assert client.status()["protocolVersion"] == 3
        assert "fake-n3" in [model.id.rpartition("/")[2] for model in client.models()]
        session.set_model("fake-n1")
        assert session.log("a note")
        types = [event.type for event in session.messages()]
        assert "session.model_change" in types
        assert "session.info" in types
        with pytest.raises(SessionExists):
            client.create_session(session.id)
        with pytest.raises(RpcError) as raised:
            client.request("no.such.method")
        assert raised.value.code == -32601
        assert isinstance(raised.value, tertulia.MethodNotFound)
        assert issubclass(tertulia.NobodyListens, tertulia.ConnectionLost)
        assert issubclass(tertulia.NotSupported, tertulia.RpcError)


def test_however_many_threads_need_it_one_daemon_starts(home: Path, counted: Counted) -> None:
    client = Client.spawn(home=home, command=counted.command)
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(client.ping(str(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=BOUND_S)
    client.close()
    assert sorted(answers) == [f"pong: {n}" for n in range(8)]
    assert len(counted.pids) == 1
    wait_until_gone(counted.pids[0])


def test_close_is_final_and_may_come_twice(home: Path, counted: Counted) -> None:
    client = Client.spawn(home=home, command=counted.command)
    client.start()
    client.close()
    client.close()
    wait_until_gone(counted.pids[0])
    with pytest.raises(ConnectionLost, match="closed"):
        client.ping()


def test_an_exception_leaves_no_process(home: Path, counted: Counted) -> None:
    with pytest.raises(ZeroDivisionError), Client.spawn(home=home, command=counted.command):
        raise ZeroDivisionError
    wait_until_gone(counted.pids[0])


@pytest.mark.parametrize("ending", ["", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_program_that_forgets_to_close_leaves_no_process(
    home: Path, counted: Counted, ending: str
) -> None:
    program = f"""
import os
from tertulia import Client
client = Client.spawn(home={str(home)!r}, command={counted.command!r})
client.create_session().send("[[fake-hang]]")
{ending}
"""
    subprocess.run([sys.executable, "-c", program], timeout=BOUND_S, check=False)
    wait_until_gone(counted.pids[0])


def test_a_daemon_that_does_not_end_is_killed(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process answers nothing, and neither end of file nor SIGTERM reaches it."""
    for name in ("SHUTDOWN_TIMEOUT_S", "EOF_GRACE_S", "TERM_GRACE_S"):
        monkeypatch.setattr(limits, name, 0.1)
    client = Client.spawn(home=home, command=counted.command)
    client.start()
    os.kill(counted.pids[0], signal.SIGSTOP)
    client.close()
    wait_until_gone(counted.pids[0])


def test_a_stuck_daemon_holds_no_writer(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHUTDOWN_TIMEOUT_S", "EOF_GRACE_S", "TERM_GRACE_S", "STALL_S"):
        monkeypatch.setattr(limits, name, 0.1)
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.create_session()
        os.kill(counted.pids[0], signal.SIGSTOP)
        with pytest.raises(ConnectionLost, match="took no input"):
            session.send("x" * 10_000_000)
    wait_until_gone(counted.pids[0])


def test_a_stuck_shared_daemon_holds_no_writer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STALL_S", 0.1)
    with Client.connect(served.address) as client:
        session = client.create_session()
        served.process.send_signal(signal.SIGSTOP)
        with pytest.raises(ConnectionLost, match="took no input"):
            session.send("x" * 10_000_000)
        served.process.send_signal(signal.SIGCONT)


def test_a_large_message_crosses_in_pieces(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        prompt = "[[say:fine]] " + "é" * 3_000_000
        assert session.send_and_wait(prompt, BOUND_S).text == "fine"
        assert prompt in [event.data.get("content") for event in session.messages()]


def test_a_client_that_is_dropped_leaves_no_process(home: Path, counted: Counted) -> None:
    client = Client.spawn(home=home, command=counted.command)
    client.start()
    del client
    gc.collect()
    wait_until_gone(counted.pids[0])


def descriptors() -> set[tuple[int, str]]:
    """The pipes and sockets that are open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(("pipe:", "socket:")):
                found.add((int(name), target))
    return found


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """What is opened inside is closed at its end, and nobody was warned of it."""
    gc.collect()
    before = descriptors()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert descriptors() == before
    assert [each.message for each in warned] == []


@pytest.mark.parametrize("ending", ["", "killed", "over"])
def test_a_client_that_is_dropped_leaves_nothing_in_its_process(
    home: Path, counted: Counted, ending: str
) -> None:
    running = set(process._RUNNING)
    with nothing_left():
        client = Client.spawn(home=home, command=counted.command)
        events = client.create_session().events()
        assert client._link is not None
        reader = client._link._reader
        if ending:
            os.kill(counted.pids[0], signal.SIGKILL)
        if ending == "over":
            reader.join(BOUND_S)
        del client, events
        gc.collect()
        reader.join(BOUND_S)
        assert not reader.is_alive()
        del reader
    assert running == process._RUNNING
    with pytest.raises(ChildProcessError):
        os.waitpid(counted.pids[0], os.WNOHANG)


def test_a_shared_daemons_client_that_is_dropped_leaves_nothing(served: Served) -> None:
    with nothing_left():
        client = Client.connect(served.address)
        client.start()
        assert client._link is not None
        reader = client._link._reader
        del client
        gc.collect()
        reader.join(BOUND_S)
        assert not reader.is_alive()
        del reader


def test_a_program_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(DaemonFailed, match="no-such-daemon"):
        Client.spawn(command=["no-such-daemon"]).start()


def test_a_daemon_that_fails_shows_the_end_of_its_stderr(home: Path) -> None:
    client = Client.spawn(home=home, args=["--no-such-flag"])
    with pytest.raises(DaemonFailed, match="--no-such-flag") as raised:
        client.start()
    assert raised.value.returncode == 2
    assert "--no-such-flag" in raised.value.stderr


def test_no_daemon_at_an_address_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="tertulia serve"):
        Client.connect(f"unix:{tmp_path}/none.sock").start()
    with pytest.raises(TertuliaError, match="unix:/path"):
        Client.connect("nonsense")


def test_over_tcp_the_daemons_token_file_lets_its_user_in(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tertuliad", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as daemon:
        port = listening_port(daemon)
        with Client.connect(f"localhost:{port}") as client:
            assert client.create_session().send_and_wait("[[say:hi]]", BOUND_S).text == "hi"
        with pytest.raises(RpcError, match="AUTHENTICATION_FAILED") as raised:
            Client.connect(f"localhost:{port}", token="not-the-token").start()
        assert "not-the-token" not in str(raised.value)
        daemon.terminate()
        daemon.wait(timeout=BOUND_S)


def test_a_client_that_leaves_a_shared_daemon_ends_no_turn(served: Served) -> None:
    with Client.connect(served.address) as client:
        client.create_session("goes-on").send("[[fake-n20-d10]]")
    with Client.connect(served.address) as client:
        session = client.resume_session("goes-on")
        feed = session.events()
        types = [event.type for event in session.messages()]
        while "assistant.turn_end" not in types:
            types.append(next(feed).type)
    assert served.process.poll() is None


def test_the_client_needs_no_event_loop(home: Path) -> None:
    program = f"""
import sys
from tertulia import Client
with Client.spawn(home={str(home)!r}) as client:
    client.create_session().send_and_wait("hello")
assert not {{"asyncio", "anyio", "trio"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], timeout=BOUND_S, check=True)
