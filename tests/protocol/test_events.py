"""The events that the daemon emits: the registry, and what others make of the shapes."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from tertulia_protocol import events
from tertulia_protocol.events import BY_DATA, EVENTS, Envelope, EventData, EventType

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "recorded_events.jsonl").read_text().splitlines()
]
STAMP = "2026-01-02T03:04:05.678Z"

REQUIRED: dict[str, set[str]] = {
    "session.start": {"sessionId", "version", "producer", "copilotVersion", "startTime"},
    "session.resume": {"resumeTime", "eventCount", "continuePendingWork", "sessionWasActive"},
    "session.error": {"errorType", "message"},
    "session.idle": set(),
    "session.title_changed": {"title"},
    "session.snapshot_rewind": {"upToEventId", "eventsRemoved"},
    "session.info": {"infoType", "message"},
    "session.warning": {"warningType", "message"},
    "session.model_change": {"newModel"},
    "session.context_changed": {"cwd"},
    "user.message": {"content"},
    "pending_messages.modified": set(),
    "assistant.turn_start": {"turnId"},
    "assistant.turn_retry": {"turnId"},
    "assistant.message_start": {"messageId"},
    "assistant.reasoning": {"reasoningId", "content"},
    "assistant.reasoning_delta": {"reasoningId", "deltaContent"},
    "assistant.message_delta": {"messageId", "deltaContent"},
    "assistant.message": {"messageId", "content"},
    "assistant.turn_end": {"turnId"},
    "assistant.idle": set(),
    "assistant.usage": {"model"},
    "session.usage_info": {"tokenLimit", "currentTokens", "messagesLength"},
    "abort": {"reason"},
    "session.shutdown": {
        "shutdownType",
        "sessionStartTime",
        "totalApiDurationMs",
        "codeChanges",
        "modelMetrics",
    },
    "model.call_failure": {"source"},
}
"""What section 5 of the wire's reference asks for in each event's data."""

EPHEMERAL = {
    "session.idle",
    "session.title_changed",
    "session.snapshot_rewind",
    "pending_messages.modified",
    "assistant.turn_retry",
    "assistant.message_start",
    "assistant.reasoning_delta",
    "assistant.message_delta",
    "assistant.idle",
    "assistant.usage",
    "session.usage_info",
    "model.call_failure",
}

SAMPLES: dict[str, Any] = {
    "str": "text",
    "int": 7,
    "float": 1.5,
    "bool": True,
}


def sample(kind: Any) -> Any:
    """Some value of a type that stands in an event's data."""
    info = msgspec.inspect.type_info(kind)
    match info:
        case msgspec.inspect.StructType(fields=fields):
            return kind(**{field.name: sample(_plain(field.type)) for field in fields})
        case msgspec.inspect.LiteralType(values=values):
            return values[0]
        case msgspec.inspect.ListType():
            return []
        case msgspec.inspect.DictType():
            return {}
        case _:
            return SAMPLES.get(getattr(kind, "__name__", ""), "anything")


def _plain(kind: msgspec.inspect.Type) -> Any:
    """The Python type behind a field, without null."""
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    match kind:
        case msgspec.inspect.StructType(cls=cls):
            return cls
        case msgspec.inspect.LiteralType(values=values):
            return Literal[values]
        case msgspec.inspect.ListType():
            return list[Any]
        case msgspec.inspect.DictType():
            return dict[str, Any]
        case msgspec.inspect.IntType():
            return int
        case msgspec.inspect.FloatType():
            return float
        case msgspec.inspect.BoolType():
            return bool
    return str


def smallest(event: EventType) -> EventData:
    """The event's data with its required members only."""
    required = [field for field in msgspec.structs.fields(event.data) if field.required]
    kinds = {field.name: field for field in msgspec.inspect.type_info(event.data).fields}  # type: ignore[attr-defined]
    return event.data(**{field.name: sample(_plain(kinds[field.name].type)) for field in required})


def in_envelope(event: EventType, data: EventData) -> dict[str, Any]:
    whole = Envelope(
        id=str(uuid.UUID(int=1)),
        timestamp=STAMP,
        parent_id=None,
        type=event.type,
        data=data,
        ephemeral=event.ephemeral,
    )
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))
    return decoded


def test_the_registry_holds_each_event_once() -> None:
    assert set(EVENTS) == set(REQUIRED)
    assert len(BY_DATA) == len(EVENTS)
    assert {name for name, event in EVENTS.items() if event.ephemeral} == EPHEMERAL


@pytest.mark.parametrize("event", EVENTS.values(), ids=list(EVENTS))
def test_required_members_are_always_sent_and_silent_ones_never(event: EventType) -> None:
    assert set(msgspec.to_builtins(smallest(event))) == REQUIRED[event.type]


@pytest.mark.parametrize("event", EVENTS.values(), ids=list(EVENTS))
def test_an_envelope_says_ephemeral_only_of_what_is_not_stored(event: EventType) -> None:
    envelope = in_envelope(event, smallest(event))
    assert envelope["parentId"] is None
    assert envelope.get("ephemeral", False) is event.ephemeral
    assert ("ephemeral" in envelope) is event.ephemeral


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda event: event["type"])
def test_what_the_reference_runtime_sent_can_be_read(recorded: dict[str, Any]) -> None:
    event = EVENTS[recorded["type"]]
    if recorded["type"] == "session.resume":  # the reference asks for it, the recording lacks it
        recorded = {**recorded, "data": {"continuePendingWork": False, **recorded["data"]}}
    envelope = msgspec.convert(
        {**recorded, "data": msgspec.Raw(msgspec.json.encode(recorded["data"]))}, Envelope
    )
    assert envelope.ephemeral is event.ephemeral or recorded["type"] == "session.info"
    data = msgspec.json.decode(envelope.data, type=event.data)
    kept = msgspec.to_builtins(data)
    assert kept.items() <= {k: v for k, v in recorded["data"].items() if k in kept}.items()
    assert REQUIRED[event.type] <= set(kept)


@pytest.mark.sdk
@pytest.mark.parametrize("full", [False, True], ids=["smallest", "full"])
@pytest.mark.parametrize("event", EVENTS.values(), ids=list(EVENTS))
def test_the_official_python_sdk_reads_every_event(event: EventType, full: bool) -> None:
    sdk = pytest.importorskip("copilot.generated.session_events")
    data = sample(event.data) if full else smallest(event)
    wire = in_envelope(event, data)
    for name in ("startTime", "resumeTime"):
        if name in wire["data"]:
            wire["data"][name] = STAMP
    read = sdk.session_event_from_dict(wire)
    assert read.type.value == event.type
    assert type(read.data).__name__ not in ("RawSessionEventData", "dict")


def test_a_lifecycle_notice_of_a_deletion_has_no_metadata() -> None:
    gone = events.SessionLifecycleParams("session.deleted", "s")
    assert msgspec.to_builtins(gone) == {"type": "session.deleted", "sessionId": "s"}
