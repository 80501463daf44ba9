"""A stored session comes back into memory: its log is read and folded.

A snapshot of another version is passed over, and the log folded from its beginning. A log that
cannot be folded is left as it is. What is long is folded by the store's thread that reads: the
event loop's has no step that grows with a log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import msgspec

from tertuliad import limits
from tertuliad.replies import Reply, mapped, then
from tertuliad.sessions.refusals import unreadable
from tertuliad.sessions.state import SessionState, folded, snapshot
from tertuliad.store.base import Append, Log, Record, Row, Store

log = logging.getLogger(__name__)

T = TypeVar("T")


class Loaded(msgspec.Struct, frozen=True, gc=False):
    """`row` is as it is stored: its owner is the process that an open turn belongs to.
    `snapshot_seq` is the seq of the stored snapshot, 0 without one."""

    state: SessionState
    row: Row
    snapshot_seq: int


def load(store: Store, session_id: str, upto: int | None = None) -> Reply:
    """Answers a `Loaded`, None where there is no such session; at once where its log is short. With
    `upto`, the state is that at this seq. Fails with `StoreFailed`, also where the log cannot be
    folded."""
    return then(store.load(session_id, upto), partial(_loaded, store, upto))


def made_of(store: Store, records: list[Record], make: Callable[[], T]) -> Future[T]:
    """What `make` makes of these records: at once where they are few, else by the thread that
    reads, which leaves the interpreter to the event loop again and again."""
    if len(records) <= limits.LIGHT_EVENTS:
        size = sum(len(record.body) for record in records)
        if size <= limits.LIGHT_BYTES:
            return mapped(Reply.of(None), lambda _: make())
    return store.beside(make)


def _loaded(store: Store, upto: int | None, found: Log | None) -> Reply:
    if found is None:
        return Reply.of(None)

    def answer(state: SessionState | None) -> Reply:
        if state is None:
            return then(store.whole(found.row.id), partial(_loaded, store, upto))
        kept = upto is None and _keep(store, found, state)
        snapshot_seq = state.seq if kept else state.seq - len(found.records)
        return Reply.of(Loaded(state, found.row, snapshot_seq))

    return then(made_of(store, found.records, partial(_folded, found, upto)), answer)


def _keep(store: Store, found: Log, state: SessionState) -> bool:
    """Have the state stored as the log's snapshot where many events were folded, as those behind a
    rewind are. Nobody waits for it: where it fails, whoever folds the log next tries again."""
    if len(found.records) < limits.SNAPSHOT_EVENTS or (made := snapshot(state)) is None:
        return False
    store.append(Append(found.row.head, found.row, (), snapshot=made, before=found.row))
    return True


def _folded(found: Log, upto: int | None) -> SessionState | None:
    try:
        return folded(found, upto)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        log.error("session %s cannot be folded: %s", found.row.id, fault)
        raise unreadable(found.row.id) from None
