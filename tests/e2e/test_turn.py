"""One turn as the wire has it: its events in their order, and what of them is kept."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import types

BEFORE = ["user.message", "assistant.turn_start"]
AFTER = [
    "assistant.message",
    "assistant.usage",
    "session.usage_info",
    "assistant.turn_end",
    "assistant.idle",
    "session.idle",
]
STORED = ["user.message", "assistant.turn_start", "assistant.message", "assistant.turn_end"]


@pytest.mark.parametrize("streaming", [False, True])
def test_the_events_of_a_turn_come_in_their_order_and_idle_is_the_last(
    shared: DaemonProcess, model: ModelThread, streaming: bool
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider(), streaming=streaming)
    order = types(wire.turn(session, "[[fake-n5-d20]]"))
    assert order[0] == "pending_messages.modified"
    order = order[order.index("user.message") :]
    assert order[:2] == BEFORE
    assert order[-6:] == AFTER
    between = order[2:-6]
    if streaming:
        assert between[0] == "assistant.message_start"
        assert set(between[1:]) == {"assistant.message_delta"}
    else:
        assert between == []
    seen = len(wire.events(session))
    wire.call("ping")
    assert len(wire.events(session)) == seen, "nothing follows"


def test_what_is_kept_is_what_was_told_and_each_event_names_the_one_before(
    shared: DaemonProcess, model: ModelThread
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider(), streaming=True)
    wire.event(session, "session.start")
    for prompt in ("[[fake-n3]]", "[[fake-e500]]", "[[say:yes]]"):
        wire.turn(session, prompt)
    told = wire.events(session)
    kept = wire.history(session)
    assert [e for e in told if not e.get("ephemeral")] == kept
    assert types(kept)[0] == "session.start"
    assert [t for t in types(kept) if t in STORED][:4] == STORED
    parents = [event["parentId"] for event in kept]
    assert parents == [None, *(event["id"] for event in kept[:-1])]
    for event in told:
        uuid.UUID(event["id"])
        datetime.fromisoformat(event["timestamp"])
    assert len({event["id"] for event in told}) == len(told)


def test_messages_sent_during_a_turn_are_queued_and_an_immediate_one_goes_first(
    shared: DaemonProcess, model: ModelThread
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider())
    wire.call("session.send", sessionId=session, prompt="[[fake-held]]")
    model.until_active(1)
    for prompt, mode in (("second", "enqueue"), ("fourth", "enqueue"), ("third", "immediate")):
        wire.call("session.send", sessionId=session, prompt=prompt, mode=mode)
    model.release()
    wire.event(session, "session.idle")
    asked = [e["data"]["content"] for e in wire.events(session, "user.message")]
    assert asked == ["[[fake-held]]", "third", "second", "fourth"]
    assert types(wire.events(session)).count("session.idle") == 1


def test_a_note_of_a_client_is_an_event_with_exactly_what_it_said(shared: DaemonProcess) -> None:
    wire = shared.connect()
    session = wire.create({"type": "openai", "baseUrl": "http://127.0.0.1:9/v1"})
    for level, kind in (("info", "info"), ("warning", "warning"), ("error", "error")):
        made = wire.call("session.log", sessionId=session, message="mark", level=level)
        event = wire.event(session, f"session.{kind}")
        assert event["id"] == made["eventId"]
        assert event["data"] == {f"{kind}Type": "notification", "message": "mark"}
    wire.call("session.log", sessionId=session, message="live", ephemeral=True)
    assert wire.event(session, "session.info", 2)["ephemeral"] is True
    kept = [e["data"]["message"] for e in wire.history(session) if e["type"] == "session.info"]
    assert kept == ["mark"]


def test_each_session_has_its_own_folder_model_and_streaming(
    home: Path, model: ModelThread, tmp_path: Path
) -> None:
    with stdio_daemon(home) as daemon:
        wire = daemon.wire
        here = wire.create(model.provider(), model="fake-a", workingDirectory=str(tmp_path))
        there = wire.create(model.provider(), model="fake-b", streaming=True)
        for session in (here, there):
            wire.turn(session, "hello [[fake-n2]]")
        assert [chat.body["model"] for chat in model.chats] == ["fake-a", "fake-b"]
        assert [bool(chat.body.get("stream")) for chat in model.chats] == [False, True]
        assert wire.events(here, "assistant.message_delta") == []
        assert wire.events(there, "assistant.message_delta") != []
        rows = wire.call("session.list", filter={"cwd": str(tmp_path)})["sessions"]
        assert [row["sessionId"] for row in rows] == [here]
        rows = wire.call("session.list")["sessions"]
        folders = {row["sessionId"]: row["context"]["cwd"] for row in rows}
        assert folders == {here: str(tmp_path), there: str(home)}


def test_a_session_is_made_and_resumed_without_asking_its_model_or_starting_a_process(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    wire = stdio.wire
    for _ in range(20):
        session = wire.create(model.provider())
        wire.call("session.resume", sessionId=session)
    assert model.stats.requests == 0
    assert not children_of(stdio.pid)


def children_of(parent: int) -> list[str]:
    """The processes that `parent` has started and that are there still."""
    folders = Path(f"/proc/{parent}/task").iterdir()
    return [child for folder in folders for child in (folder / "children").read_text().split()]


def test_a_conversation_goes_on_with_another_model_of_another_provider(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    wire = stdio.wire
    with ModelThread() as second:
        places = [("one", model), ("two", second)]
        providers = [{"name": name, **place.provider(f"key-{name}")} for name, place in places]
        models = [{"id": f"fake-{name}", "provider": name} for name, _ in places]
        session = wire.create(providers=providers, models=models, model="one/fake-one")
        wire.turn(session, "first")
        wire.call("session.model.switchTo", sessionId=session, modelId="two/fake-two")
        wire.turn(session, "second")
        wire.call("session.resume", sessionId=session, model="one/fake-one")
        wire.turn(session, "third")
        assert model.users() == [["first"], ["first", "second", "third"]]
        assert second.users() == [["first", "second"]]
        assert second.chats[0].headers["authorization"] == "Bearer key-two"
        assert [chat.body["model"] for chat in (*model.chats, *second.chats)] == [
            "fake-one",
            "fake-one",
            "fake-two",
        ]
