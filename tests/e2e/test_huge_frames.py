"""Messages of the largest size, both ways: the others are served meanwhile, and the memory that
they took is given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, resident, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire, frame, said

MIB = 2**20
LIMIT = 64 * MIB
NEAR = LIMIT - 4096
"""Room for what stands around a text of this size in a message or an event."""
LOOKS = 2000
WINDOWS = LIMIT // MIB
GIVEN_BACK = 96 * MIB
"""The daemon may keep so much more than it had before: less than two messages of that size."""


@pytest.fixture
def served(home: Path) -> Iterator[DaemonProcess]:
    with tcp_daemon(home, "--allow-anonymous", token=None) as daemon:
        yield daemon


def gives_back(daemon: DaemonProcess, wire: Wire, before: int, *, but: int = GIVEN_BACK) -> None:
    """Fails unless the daemon's memory falls back, while it answers small requests."""
    for _ in range(LOOKS):
        wire.call("ping")
        if resident(daemon) - before < but:
            return
    raise AssertionError(f"{before} bytes before, {resident(daemon)} now")


def test_a_message_and_an_answer_of_the_largest_size_pass_while_another_client_is_served(
    served: DaemonProcess, model: ModelThread
) -> None:
    big, other = served.connect(), served.connect()
    session = other.create(model.provider(), streaming=True)
    assert said(other.turn(session, "[[say:before]]")) == ["before"]
    before = resident(served)
    text = "x" * NEAR
    whole = frame({"jsonrpc": "2.0", "id": "big", "method": "ping", "params": {"message": text}})
    for _ in range(2):
        big.send_bytes(whole[: len(whole) // 2])
        assert said(other.turn(session, "[[say:in the middle of it]]")) == ["in the middle of it"]
        big.send_bytes(whole[len(whole) // 2 :])
        other.call("session.list")
        assert big.answer("big")["result"]["message"] == f"pong: {text}"
        big.frames.clear()
        big.raw.clear()
    assert said(other.turn(session, "[[say:after]]")) == ["after"]
    gives_back(served, other, before)


@pytest.mark.parametrize(
    ("params", "outcome"),
    [
        (b'{"message":"\\ud83d","more":"' + b"x" * NEAR + b'"}', "pong: \ufffd"),
        (b'{"message":"\\ud83d","more":[' + b'"abc",' * (NEAR // 6) + b"1]}", "pong: \ufffd"),
        (b'{"message":"never","more":["' + b"x" * NEAR + b'"}', -32700),
    ],
    ids=["a lone surrogate before a long text", "and before many short ones", "no JSON"],
)
def test_what_is_read_the_slow_way_lets_the_others_in(
    served: DaemonProcess, params: bytes, outcome: object
) -> None:
    big, other = served.connect(), served.connect()
    whole = frame(b'{"jsonrpc":"2.0","id":"big","method":"ping","params":%b}' % params)
    big.send_bytes(whole[:-1])
    other.call("ping")
    big.send_bytes(whole[-1:])
    meanwhile = 0
    while not big.answers("big") and meanwhile < LOOKS:
        other.call("ping")
        meanwhile += 1
    answer = big.answer("big")
    assert outcome in (answer.get("error", {}).get("code"), answer.get("result", {}).get("message"))
    assert meanwhile >= WINDOWS // 8, "it is searched in so many windows, with a pause after each"


def test_memory_of_many_large_messages_is_given_back(served: DaemonProcess) -> None:
    """Of a size that a C library takes for one that is needed again and again."""
    wire = served.connect()
    wire.create({"type": "openai", "baseUrl": "http://127.0.0.1:9/v1"})
    before = resident(served)
    for _ in range(4):
        assert wire.call("ping", message="x" * 20 * MIB)["message"].endswith("x")
    gives_back(served, wire, before, but=15 * MIB)


def test_an_event_of_the_largest_size_is_stored_and_reaches_all_who_follow(
    served: DaemonProcess,
) -> None:
    writes, follows, other = (served.connect() for _ in range(3))
    session = writes.create({"type": "openai", "baseUrl": "http://127.0.0.1:9/v1"})
    follows.call("session.resume", sessionId=session)
    before = resident(served)
    text = "y" * NEAR
    asked = writes.ask("session.log", {"sessionId": session, "message": text})
    other.call("session.list")
    event_id = writes.answer(asked)["result"]["eventId"]
    event = follows.event(session, "session.info")
    assert (event["id"], event["data"]["message"]) == (event_id, text)
    kept = follows.history(session)[-1]
    assert (kept["id"], kept["data"]["message"]) == (event_id, text)
    gives_back(served, other, before)


def test_a_message_over_the_largest_size_is_skipped_without_being_kept(
    served: DaemonProcess,
) -> None:
    wire, other = served.connect(), served.connect()
    before = resident(served)
    text = "z" * LIMIT
    wire.send({"jsonrpc": "2.0", "id": "over", "method": "ping", "params": {"message": text}})
    error = wire.answer("over")["error"]
    assert error["code"] == -32600
    assert str(LIMIT) in error["message"]
    assert resident(served) - before < LIMIT / 2
    assert wire.call("ping")["message"] == other.call("ping")["message"] == "pong"
