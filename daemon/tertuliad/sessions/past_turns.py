"""How a turn ended that is over: read from the log, for who sends a message again by its key."""

from __future__ import annotations

import msgspec

from tertulia_protocol import events
from tertuliad.replies import Reply, mapped
from tertuliad.sessions.waits import TurnEnd
from tertuliad.store.base import Range, Record, Store

_TYPES = ("user.message", "assistant.message", "abort", "session.error")


class _Event(msgspec.Struct):
    id: str
    data: msgspec.Raw


class _Asked(msgspec.Struct, rename="camel"):
    message_id: str | None = None


def end_of(store: Store, session_id: str, message_id: str) -> Reply:
    """Completed with the `TurnEnd`: `aborted` where the log has no such message, because it was
    taken out of the queue or rewound."""
    records = store.read(session_id, Range(types=_TYPES))
    return mapped(records, lambda found: _end(_turn(found, message_id), message_id))


def _turn(records: list[Record], message_id: str) -> list[Record] | None:
    """What the log has of the turn, behind its message; None: it has no such message."""
    turn: list[Record] | None = None
    is_asked = False
    for record in records:
        if record.type == "user.message":
            data = msgspec.json.decode(record.body, type=_Event).data
            is_asked = msgspec.json.decode(data, type=_Asked).message_id == message_id
            turn = [] if is_asked else turn
        elif is_asked and turn is not None:
            turn.append(record)
    return turn


def _end(turn: list[Record] | None, message_id: str) -> TurnEnd:
    if turn is None:
        return TurnEnd(answer=None, aborted=True)
    answer, error, error_id = None, None, None
    for record in turn:
        if record.type == "assistant.message":
            answer = record.body
        elif record.type == "session.error":
            event = msgspec.json.decode(record.body, type=_Event)
            told = msgspec.json.decode(event.data, type=events.SessionError)
            if told.originating_message_id == message_id:  # others are clients' own lines
                error, error_id = told, event.id
    aborted = any(record.type == "abort" for record in turn)
    return TurnEnd(answer=answer, aborted=aborted, error=error, error_id=error_id)
