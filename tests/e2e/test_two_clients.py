"""Promise 3: whoever watches a session sees the same events in the same order."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from tests.support.daemon_process import DaemonProcess, resident, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Wire, frame, said, types

EVENTS, EVENT_BYTES = 150, 1_000_000


def stored(wire: Wire, session: str) -> list[dict[str, Any]]:
    return [e for e in wire.events(session) if not e.get("ephemeral")]


def test_two_clients_of_one_session_see_the_same_events_in_the_same_order(
    shared: DaemonProcess, model: ModelThread
) -> None:
    asks, watches = shared.connect(), shared.connect()
    session = asks.create(model.provider(), streaming=True)
    watches.call("session.resume", sessionId=session)
    for prompt in ("[[fake-n30-d1]]", "[[fake-e500]]", "[[say:and done]]"):
        asks.turn(session, prompt)
    watches.event(session, "session.idle", 3)
    seen = watches.events(session)
    theirs = asks.events(session)
    assert theirs[theirs.index(seen[0]) :] == seen, "deltas and idle included"
    assert types(seen).count("user.message") == 3
    assert stored(watches, session) == watches.history(session)[-len(stored(watches, session)) :]
    assert watches.history(session) == asks.history(session)


def test_both_clients_may_ask_and_the_turns_follow_each_other(
    shared: DaemonProcess, model: ModelThread
) -> None:
    one, two = shared.connect(), shared.connect()
    session = one.create(model.provider())
    two.call("session.resume", sessionId=session)
    asked = []
    for number in range(5):
        for wire in (one, two):
            prompt = {"sessionId": session, "prompt": f"[[say:{number}]]"}
            asked.append((wire, wire.ask("session.send", prompt)))
    assert all("result" in wire.answer(ident) for wire, ident in asked)
    for wire in (one, two):
        wire.event(session, "assistant.message", 10)
        wire.event(session, "session.idle")
    assert said(one.events(session)) == said(two.events(session))
    turns = [e for e in one.history(session) if "turn_" in e["type"]]
    assert types(turns) == ["assistant.turn_start", "assistant.turn_end"] * 10


def test_a_client_that_comes_in_the_middle_of_a_turn_sees_its_end(
    shared: DaemonProcess, model: ModelThread
) -> None:
    asks, comes = shared.connect(), shared.connect()
    session = asks.create(model.provider(), streaming=True)
    asks.call("session.send", sessionId=session, prompt="[[fake-n9-stall2]]")
    asks.event(session, "assistant.message_delta")
    comes.call("session.resume", sessionId=session)
    asks.call("session.abort", sessionId=session)
    for wire in (asks, comes):
        assert wire.event(session, "session.idle")["data"]["aborted"] is True
    seen = comes.events(session)
    assert "abort" in types(seen)
    assert asks.events(session)[-len(seen) :] == seen


def test_a_client_that_did_not_read_for_long_catches_up_without_gap_or_repeat(
    shared: DaemonProcess, model: ModelThread
) -> None:
    """Twelve turns of 2 MB each pass it by: more than the kernel and its queue hold."""
    asks = shared.connect()
    session = asks.create(model.provider(), streaming=True)
    with socket.create_connection(("localhost", shared.port), BOUND_S) as stream:
        stream.sendall(frame({"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {}}))
        resume = {"method": "session.resume", "params": {"sessionId": session}}
        stream.sendall(frame({"jsonrpc": "2.0", "id": 2, **resume}))
        asks.event(session, "session.resume")
        for _ in range(12):
            asks.turn(session, "[[fake-n16-s65536]]")
        stream.settimeout(None)
        late = shared.adopt(Wire(lambda: stream.recv(1 << 20), stream.sendall, stream.close))
        kept = asks.history(session)
        kept = kept[types(kept).index("session.resume") :]
        late.until(lambda: True if len(stored(late, session)) >= len(kept) else None, "the events")
        assert stored(late, session) == kept
        delta = "assistant.message_delta"
        assert len(late.events(session, delta)) < len(asks.events(session, delta)), "it fell behind"
        idles = len(late.events(session, "session.idle"))
        if types(late.events(session))[-1] != "session.idle":
            late.event(session, "session.idle", idles + 1)
        assert types(late.events(session))[-1] == "session.idle"


def test_a_client_that_reads_nothing_costs_bounded_memory(home: Path, model: ModelThread) -> None:
    """What it could not take would be twenty times as much."""
    with (
        tcp_daemon(home, "--allow-anonymous", token=None) as daemon,
        socket.create_connection(("localhost", daemon.port), BOUND_S) as stream,
    ):
        speaks = daemon.connect()
        session = speaks.create(model.provider())
        stream.sendall(frame({"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {}}))
        resume = {"method": "session.resume", "params": {"sessionId": session}}
        stream.sendall(frame({"jsonrpc": "2.0", "id": 2, **resume}))
        speaks.event(session, "session.resume")
        before = resident(daemon)
        for number in range(EVENTS):
            speaks.call("session.log", sessionId=session, message=f"{number} " + "x" * EVENT_BYTES)
        speaks.event(session, "session.info", EVENTS)
        assert resident(daemon) - before < EVENTS * EVENT_BYTES / 3


def test_a_client_that_left_hears_no_more(shared: DaemonProcess, model: ModelThread) -> None:
    stays, leaves = shared.connect(), shared.connect()
    session = stays.create(model.provider())
    leaves.call("session.resume", sessionId=session)
    assert leaves.call("session.detach", sessionId=session) == {"success": True}
    heard = len(leaves.events(session))
    stays.turn(session, "[[say:among us]]")
    assert "Session not found" in leaves.refused("session.getMessages", sessionId=session).message
    assert len(leaves.events(session)) == heard


def test_every_client_learns_of_sessions_that_come_change_and_go(
    shared: DaemonProcess, model: ModelThread
) -> None:
    acts, hears = shared.connect(), shared.connect()
    session = acts.create(model.provider())
    acts.turn(session, "[[say:a change]]")
    assert acts.call("session.delete", sessionId=session) == {"success": True}

    def told() -> list[str] | None:
        notes = hears.notes("session.lifecycle")
        kinds = [note["type"] for note in notes if note["sessionId"] == session]
        return kinds if "session.deleted" in kinds else None

    kinds = hears.until(told, "the deletion")
    assert kinds[0] == "session.created"
    assert "session.updated" in kinds
    assert kinds[-1] == "session.deleted"


def test_a_client_that_has_said_nothing_is_told_nothing(
    shared: DaemonProcess, model: ModelThread
) -> None:
    """A thousand of them would make each turn of the others a thousand writes longer."""
    acts = shared.connect()
    with socket.create_connection(("localhost", shared.port), BOUND_S) as stream:
        stream.settimeout(None)
        late = shared.adopt(Wire(lambda: stream.recv(1 << 20), stream.sendall, stream.close))
        acts.turn(acts.create(model.provider()), "[[say:a change]]")
        late.call("connect")
        acts.turn(session := acts.create(model.provider()), "[[say:another one]]")
        acts.call("session.delete", sessionId=session)

        def told() -> set[str] | None:
            notes = late.notes("session.lifecycle")
            deleted = any(note["type"] == "session.deleted" for note in notes)
            return {note["sessionId"] for note in notes} if deleted else None

        assert late.until(told, "the deletion") == {session}
