"""Promise 3: whoever watches a session sees the same events in the same order."""

from __future__ import annotations

from typing import Any

from tests.support.daemon_process import DaemonProcess
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire, said, types


def stored(wire: Wire, session: str) -> list[dict[str, Any]]:
    return [e for e in wire.events(session) if not e.get("ephemeral")]


def test_two_clients_of_one_session_see_the_same_events_in_the_same_order(
    shared: DaemonProcess, model: ModelThread
) -> None:
    asks, watches = shared.connect(), shared.connect()
    session = asks.create(model.provider(), streaming=True)
    watches.call("session.resume", sessionId=session)
    since = len(asks.events(session))
    asks.event(session, "session.resume")
    for prompt in ("[[fake-n30-d1]]", "[[fake-e500]]", "[[say:and done]]"):
        asks.turn(session, prompt)
    watches.event(session, "session.idle", 3)
    seen = watches.events(session)
    theirs = asks.events(session)
    first = theirs.index(seen[0])
    assert first <= since + 1
    assert theirs[first:] == seen, "deltas and idle included"
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
    asks.call("session.send", sessionId=session, prompt="[[fake-n40-d10]]")
    asks.event(session, "assistant.message_delta")
    comes.call("session.resume", sessionId=session)
    comes.event(session, "session.idle")
    asks.event(session, "session.idle")
    assert said(comes.events(session)) == said(asks.events(session)) != []
    assert types(comes.events(session))[-1] == "session.idle"


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
