"""A model that is stuck, however it is stuck, is its own session's affair; an abort frees that
session at whatever step its turn stands, and ends it once."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Wire, said, types

WORKING = 50
STUCK = {
    "before the first byte": "[[fake-hang]]",
    "before the first delta": "[[fake-slowstart600000]]",
    "in the middle of the answer": "[[fake-n9-stall2]]",
    "in the middle of a tool call": "[[fake-toollook-stall1]]",
}


def stuck(wire: Wire, model: ModelThread, prompt: str) -> str:
    """A session whose turn stands where `prompt` says."""
    session = wire.create(model.provider(), streaming=True)
    wire.call("session.send", sessionId=session, prompt=prompt)
    model.until_active(1)
    if "stall" in prompt:
        wire.event(session, "assistant.message_delta")
    return session


def check_one_end(wire: Wire, session: str) -> None:
    """The turn has ended, once, and nothing came after it."""
    kinds = types(wire.events(session))
    assert kinds.count("session.idle") == 1, kinds
    assert kinds[-1] == "session.idle", kinds
    assert kinds.count("assistant.turn_end") == kinds.count("assistant.turn_start") == 1, kinds


@pytest.mark.parametrize("prompt", STUCK.values(), ids=STUCK)
def test_a_stuck_model_keeps_none_of_fifty_others_waiting(
    stdio: DaemonProcess, model: ModelThread, prompt: str
) -> None:
    wire = stdio.wire
    held_up = stuck(wire, model, prompt)
    others = [wire.create(model.provider(), streaming=True) for _ in range(WORKING)]
    for number, session in enumerate(others):
        wire.call("session.send", sessionId=session, prompt=f"[[say:number {number}]]")
    for number, session in enumerate(others):
        wire.event(session, "session.idle")
        assert said(wire.events(session)) == [f"number {number}"]
    assert "session.idle" not in types(wire.events(held_up))
    model.until(lambda: model.stats.active == 1)  # it is stuck still
    assert wire.call("session.abort", sessionId=held_up)["success"] is True
    assert wire.event(held_up, "session.idle")["data"]["aborted"] is True
    model.until(lambda: model.stats.active == 0)
    assert said(wire.turn(held_up, "[[say:free again]]")) == ["free again"]


@pytest.mark.parametrize("prompt", STUCK.values(), ids=STUCK)
def test_several_aborts_at_once_are_each_answered_and_end_a_stuck_turn_once(
    stdio: DaemonProcess, model: ModelThread, prompt: str
) -> None:
    wire = stdio.wire
    session = stuck(wire, model, prompt)
    asked = [wire.ask("session.abort", {"sessionId": session}) for _ in range(5)]
    assert [wire.answer(one)["result"]["success"] for one in asked] == [True] * 5
    wire.call("session.name.get", sessionId=session)
    check_one_end(wire, session)
    model.until(lambda: model.stats.active == 0)


def test_an_abort_sent_with_its_message_ends_that_turn_once(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    """Both requests are in one write, so that the abort meets the message at its very beginning."""
    wire = stdio.wire
    session = wire.create(model.provider(), streaming=True)
    send = wire.ask("session.send", {"sessionId": session, "prompt": "[[fake-hang]]"})
    stop = wire.ask("session.abort", {"sessionId": session})
    assert "messageId" in wire.answer(send)["result"]
    assert wire.answer(stop)["result"]["success"] is True
    wire.event(session, "session.idle")
    wire.call("session.name.get", sessionId=session)
    check_one_end(wire, session)
    assert said(wire.turn(session, "[[say:and on]]")) == ["and on"]


def test_a_message_behind_an_abort_is_answered_where_roles_must_alternate(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    wire = stdio.wire
    session = wire.create(model.provider(), model="fake-n9-stall2-strict", streaming=True)
    wire.call("session.send", sessionId=session, prompt="one")
    wire.event(session, "assistant.message_delta")
    assert wire.call("session.abort", sessionId=session)["success"] is True
    wire.event(session, "session.idle")
    assert said(wire.turn(session, "two [[fake-strict]] [[say:on again]]")) == ["on again"]
    assert [len(users) for users in model.users()] == [1, 2, 1]
    kept = [e["data"]["content"] for e in wire.history(session) if e["type"] == "user.message"]
    assert kept == ["one", "two [[fake-strict]] [[say:on again]]"]


def test_an_abort_between_two_tries_of_a_call_ends_the_turn(home: Path, model: ModelThread) -> None:
    """The waits between tries are as long as the daemon makes any, so the abort falls into one."""
    with stdio_daemon(home, bounds={"RETRY_FIRST_WAIT_S": 16.0}) as daemon:
        wire = daemon.wire
        session = wire.create(model.provider(), streaming=True)
        wire.call("session.send", sessionId=session, prompt="[[fake-e503]]")
        model.until(lambda: len(model.chats) == 1 and model.stats.active == 0)
        wire.event(session, "assistant.turn_retry")
        assert wire.call("session.abort", sessionId=session)["success"] is True
        assert wire.event(session, "session.idle")["data"]["aborted"] is True
        check_one_end(wire, session)
        assert len(model.chats) == 1, "it was not asked again"
        assert said(wire.turn(session, "[[say:free again]]")) == ["free again"]


def test_a_message_that_waits_behind_a_stuck_turn_has_its_own_after_the_abort(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    wire = stdio.wire
    session = stuck(wire, model, "[[fake-hang]]")
    wire.call("session.send", sessionId=session, prompt="[[say:the one that waited]]")
    assert wire.call("session.abort", sessionId=session)["success"] is True
    wire.event(session, "session.idle")
    assert said(wire.events(session)) == ["the one that waited"]
    assert types(wire.events(session)).count("session.idle") == 1


@contextlib.contextmanager
def deaf_host() -> Iterator[int]:
    """A port that answers no attempt to connect: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(socket.socket())
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        for _ in range(3):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(host.getsockname())
        yield host.getsockname()[1]


def knocking_at(port: int) -> int:
    """How many sockets of this machine ask for a connection that nobody gives them."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    syn_sent = "02"
    return sum(row[2].endswith(f":{port:04X}") and row[3] == syn_sent for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="others answer when the queue is full")
def test_an_abort_ends_a_turn_whose_host_takes_no_connection(home: Path) -> None:
    patient = {"CONNECT_TIMEOUT_S": 600.0}
    with deaf_host() as port, stdio_daemon(home, bounds=patient) as daemon:
        wire, before = daemon.wire, knocking_at(port)
        url = f"http://127.0.0.1:{port}/v1"
        session = wire.create({"type": "openai", "baseUrl": url, "apiKey": "k"}, streaming=True)
        wire.call("session.send", sessionId=session, prompt="is anybody there")
        end = time.monotonic() + BOUND_S
        while knocking_at(port) == before:
            assert time.monotonic() < end, "it does not connect"
            wire.call("ping")
        assert wire.call("session.abort", sessionId=session)["success"] is True
        assert wire.event(session, "session.idle")["data"]["aborted"] is True
        check_one_end(wire, session)
