"""How a turn ended that is over: read from the log, for who sends a message again by its key."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import msgspec

from tertulia_protocol import events
from tertulia_protocol.decoding import json_decoder
from tertuliad.replies import Reply, then
from tertuliad.sessions.loading import made_of
from tertuliad.sessions.refusals import runs_elsewhere
from tertuliad.sessions.waits import TurnEnd
from tertuliad.store.base import Range, Record, Row, Store

T = TypeVar("T")

_TURN_END = "assistant.turn_end"
_TYPES = ("user.message", "assistant.message", "abort", "session.error", _TURN_END)


class _Event(msgspec.Struct):
    id: str
    data: msgspec.Raw


class _Asked(msgspec.Struct, rename="camel"):
    message_id: str | None = None


def end_of(
    store: Store, runs: Callable[[str | None], bool], session_id: str, message_id: str
) -> Reply:
    """Completed with the `TurnEnd`: `aborted` where the log has no such message, because it was
    taken out of the queue or rewound. Fails with `TurnBusy` where the turn is not over yet and the
    process that owns it still `runs`."""

    def answer(row: Row | None, records: list[Record]) -> TurnEnd:
        turn = _turn(records, message_id)
        is_over = turn is not None and _is_over(turn)
        if not is_over and row is not None and runs(row.owner):
            raise runs_elsewhere(session_id)
        return _end(turn, message_id)

    def found(row: Row | None) -> Reply:
        return _of_log(store, session_id, partial(answer, row))  # newer than the row

    return then(store.row(session_id), found)


def ends_of(store: Store, session_id: str, message_ids: set[str]) -> Reply:
    """Completed with the `TurnEnd` of each of the messages, as `end_of` tells it; those whose turn
    is still open are left out."""

    def answer(records: list[Record]) -> dict[str, TurnEnd]:
        turns = {message_id: _turn(records, message_id) for message_id in message_ids}
        return {
            message_id: _end(turn, message_id)
            for message_id, turn in turns.items()
            if turn is None or _is_over(turn)
        }

    return _of_log(store, session_id, answer)


def _of_log(store: Store, session_id: str, answer: Callable[[list[Record]], T]) -> Reply:
    """What `answer` makes of what the log has of turns."""

    def made(records: list[Record]) -> Future[T]:
        return made_of(store, records, partial(answer, records))

    return then(store.read(session_id, Range(types=_TYPES)), made)


def _is_over(turn: list[Record]) -> bool:
    return any(record.type == _TURN_END for record in turn)


def _turn(records: list[Record], message_id: str) -> list[Record] | None:
    """What the log has of the turn, behind its message; None: it has no such message."""
    turn: list[Record] | None = None
    is_asked = False
    for record in records:
        if record.type == "user.message":
            data = json_decoder(_Event).decode(record.body).data
            is_asked = json_decoder(_Asked).decode(data).message_id == message_id
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
            event = json_decoder(_Event).decode(record.body)
            told = json_decoder(events.SessionError).decode(event.data)
            if told.originating_message_id == message_id:  # others are clients' own lines
                error, error_id = told, event.id
    aborted = any(record.type == "abort" for record in turn)
    return TurnEnd(answer=answer, aborted=aborted, error=error, error_id=error_id)
