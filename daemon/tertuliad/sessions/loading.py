"""A stored session comes back into memory: its log is read and folded.

A snapshot of another version is passed over, and the log folded from its beginning. A log that
cannot be folded is left as it is.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial

import msgspec

from tertuliad.replies import Reply, mapped
from tertuliad.sessions.refusals import unreadable
from tertuliad.sessions.state import SessionState, folded
from tertuliad.store.base import Log, Range, Row, Store

log = logging.getLogger(__name__)


class Loaded(msgspec.Struct, frozen=True, gc=False):
    """`row` is as it is stored, with the process that a turn left open belongs to; `snapshot_seq`
    the seq that the stored snapshot is of, 0 without one."""

    state: SessionState
    row: Row
    snapshot_seq: int


def load(store: Store, session_id: str) -> Reply:
    """Answers a `Loaded`, None where there is no such session. Fails with `StoreFailed`, also where
    the log cannot be folded."""
    final = Reply()
    store.load(session_id).add_done_callback(partial(_fold, store, session_id, final))
    return final


def _fold(store: Store, session_id: str, final: Reply, done: Future[Log | None]) -> None:
    if (error := done.exception()) is not None:
        final.fail(error)
        return
    found = done.result()
    try:
        state = None if found is None else folded(found)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        log.error("session %s cannot be folded: %s", session_id, fault)
        final.fail(unreadable(session_id))
        return
    if found is None:
        final.give(None)
    elif state is None:
        whole = _whole(store, found.row)
        whole.add_done_callback(partial(_fold, store, session_id, final))
    else:
        final.give(Loaded(state, found.row, state.seq - len(found.records)))


def _whole(store: Store, row: Row) -> Reply:
    """The log from its beginning, without the snapshot."""
    read = store.read(row.id, Range(before=row.head + 1))
    return mapped(read, lambda records: Log(row, None, records))
