"""A stored session comes back into memory: its log is read and folded.

A snapshot of another version is passed over, and the log folded from its beginning. A log that
cannot be folded is left as it is.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future

import msgspec

from tertuliad.replies import Reply, mapped
from tertuliad.sessions.refusals import unreadable
from tertuliad.sessions.state import SessionState, folded
from tertuliad.store.base import Log, Range, Row, Store

log = logging.getLogger(__name__)


class Loaded(msgspec.Struct, frozen=True, gc=False):
    """`owner` is the process that a turn left open belongs to; `snapshot_seq` the seq that the
    stored snapshot is of, 0 without one."""

    state: SessionState
    owner: str | None
    snapshot_seq: int


def load(store: Store, session_id: str) -> Reply:
    """Answers a `Loaded`, None where there is no such session. Fails with `StoreFailed`, also where
    the log cannot be folded."""
    final = Reply()

    def fold(done: Future[Log | None]) -> None:
        if (error := done.exception()) is not None:
            final.fail(error)
            return
        found = done.result()
        try:
            state = None if found is None else folded(found)
        except (msgspec.MsgspecError, ValueError) as fault:
            log.error("session %s cannot be folded: %s", session_id, fault)
            final.fail(unreadable(session_id))
            return
        if found is None:
            final.give(None)
        elif state is None:
            _whole(store, found.row).add_done_callback(fold)
        else:
            final.give(Loaded(state, found.row.owner, state.seq - len(found.records)))

    store.load(session_id).add_done_callback(fold)
    return final


def _whole(store: Store, row: Row) -> Reply:
    """The log from its beginning, without the snapshot."""
    read = store.read(row.id, Range(before=row.head + 1))
    return mapped(read, lambda records: Log(row, None, records))
