"""Mending a database that SQLite can read whole: the logs first, then what is made from them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import msgspec

from tertulia_protocol import events
from tertulia_protocol import session_id as ids
from tertulia_protocol.decoding import json_decoder
from tertuliad.clock import now_ms
from tertuliad.doctor.findings import counted
from tertuliad.doctor.sessions import Checked, check, differing, is_named
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Draft, turns
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.sealed import fold_in, seal
from tertuliad.store.base import Row
from tertuliad.store.examination import Listed, Unreadable
from tertuliad.store.mending import MendableDatabase

Tell = Callable[[str], None]

ERROR_TYPE = "log_damaged"
_FORKED = facts.INTERNAL[facts.Forked]
MADE_BEFORE_MS = 60_000
"""However slow the machine was."""


def mend(
    db: MendableDatabase, set_aside: str, tell: Tell, *, adopt: bool, index_anew: bool
) -> None:
    """`set_aside` names the copy of the database as it was; `adopt`: logs without a session belong
    to sessions that have lost their rows. Each session is mended in a transaction of its own."""
    for segment in db.strays():
        with db.one_moment():
            db.know(segment)
    _rejoin(db, tell)
    _rename(db, tell)
    if adopt:
        _adopt(db, tell)
    for listed in db.sessions():
        with db.one_moment():
            _mend_session(db, check(db, listed), set_aside, tell)
    if orphans := db.orphans():
        with db.one_moment():
            db.drop(orphans)
        tell(f"Removed: {counted(len(orphans), 'piece')} of logs that no session has.")
    index(db, tell, anew=index_anew)


def _mend_session(db: MendableDatabase, checked: Checked, set_aside: str, tell: Tell) -> None:
    session_id = checked.listed.row.id
    if checked.fault is not None and not checked.sound:
        db.forget(checked.listed)
        tell(f"Session {session_id} was removed: {checked.fault}.")
        return
    for snapshot in checked.wrong_snapshots:
        db.drop_snapshot(snapshot)
        tell(f"A snapshot of session {session_id} was removed.")
    if checked.fault is not None:
        _cut(db, checked, set_aside)
        tell(f"Session {session_id} ends at event {checked.sound} now: {checked.fault}.")
    elif differing(checked.listed.row, checked.row):
        db.refold(checked.row)
        tell(f"The row of session {session_id} is as its log has it now.")


def _cut(db: MendableDatabase, checked: Checked, set_aside: str) -> None:
    """Go on behind the last seq that was ever given: who reads from a cursor misses nothing."""
    state = checked.state
    state.seq = checked.last
    at_ms = now_ms()
    records = fold_in(state, seal(state, tuple(_drafts(checked, set_aside)), at_ms))
    db.cut(checked.listed, checked.sound, row_of(state, at_ms), records)


def _drafts(checked: Checked, set_aside: str) -> Iterator[Draft]:
    """What the session says of it: a fork is one again, and no turn is left open."""
    sound, parent = checked.sound, checked.listed.row.parent
    words = (
        f"The stored log of this session was damaged: {checked.fault}. What came after event"
        f" {sound} is left out; a copy of the database as it was lies in the data folder,"
        f" in {set_aside}."
    )
    yield Draft(facts.Repaired(kept=sound, set_aside=set_aside))
    if parent is not None and checked.state.parent != parent:
        yield Draft(facts.Forked(parent, sound))
    elif checked.state.turn is not None:
        yield from turns.interrupt(checked.state, go_on=False).drafts
    yield Draft(events.SessionError(error_type=ERROR_TYPE, message=words))


class _Start(msgspec.Struct, rename="camel"):
    session_id: str | None = None


class _First(msgspec.Struct):
    timestamp: str
    type: str
    data: _Start


def _rejoin(db: MendableDatabase, tell: Tell) -> None:
    """Bring together a session whose row leads to nothing and its log, which names it and was begun
    when the session was made; forks may go on from it. A fork's own log names another one."""
    for segment, first in _begun(db, db.left_alone(_FORKED)):
        with db.one_moment():
            listed = db.again(first.data.session_id or "")
            if listed is None or not _begins(listed.row, first):
                continue
            found = check(db, Listed(listed.row, segment))
            if found.state.parent is not None or check(db, listed).sound:
                continue
            db.forget(listed)
            db.adopt(listed.row, segment)
        tell(f"Session {listed.row.id} has its log again.")


def _begins(row: Row, first: _First) -> bool:
    """Whether it is the first event of this very session, and of no other that had its id: a
    session is made a moment before its first event is."""
    return 0 <= _ms(first.timestamp) - row.created_ms <= MADE_BEFORE_MS


def _adopt(db: MendableDatabase, tell: Tell) -> None:
    """Give each log that nobody has its session again: under its own id, where the log names it
    and nobody else has it."""
    for segment, first in _begun(db, db.ends_without_session(_FORKED)):
        with db.one_moment():
            session_id = _listed_anew(db, segment, first)
        tell(f"Session {session_id} had lost its row and is listed again.")


def _rename(db: MendableDatabase, tell: Tell) -> None:
    """Give each session that no request can name an id."""
    for listed in [each for each in db.sessions() if not is_named(each.row)]:
        for segment, first in _begun(db, [listed.segment]):
            with db.one_moment():
                db.forget(listed)
                session_id = _listed_anew(db, segment, first)
            tell(f"Session {listed.row.id!r} is listed as {session_id} now.")


def _listed_anew(db: MendableDatabase, segment: int, first: _First) -> str:
    """A row for the log that ends in `segment`; the id that it has now."""
    session_id = first.data.session_id or ""
    row = Row(id=session_id, created_ms=_ms(first.timestamp), modified_ms=now_ms(), head=0)
    checked = check(db, Listed(row, segment))
    is_fork = checked.state.parent is not None  # and begins with the log of another one
    if not ids.is_valid(session_id) or is_fork or db.again(session_id) is not None:
        session_id = checked.state.id = f"recovered-{segment}"
    db.adopt(checked.row, segment)
    return session_id


def _begun(db: MendableDatabase, ends: list[int]) -> Iterator[tuple[int, _First]]:
    """The logs that end in these segments, of those that have their first event, and that event."""
    for segment in ends:
        try:
            record = next(db.records(segment), None)
            first = None if record is None else json_decoder(_First).decode(record.body)
        except (Unreadable, msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if first is not None and record is not None and record.seq == 1:
            yield segment, first


def _ms(timestamp: str) -> int:
    try:
        return round(datetime.datetime.fromisoformat(timestamp).timestamp() * 1000)
    except (ValueError, OverflowError):
        return now_ms()


def index(db: MendableDatabase, tell: Tell, *, anew: bool) -> None:
    """Index what is not, or all that was said; that, too, where the index takes nothing more."""
    if anew:
        with db.one_moment():
            db.index_anew()
    if not db.to_index():
        return
    try:
        more = True
        while more:
            with db.one_moment():
                more = db.index_some()
    except Unreadable:
        if anew:
            raise
        index(db, tell, anew=True)
    else:
        tell("What was said is indexed.")


def remove_all(db: MendableDatabase) -> None:
    """Bring the removal of deleted sessions to its end."""
    more = True
    while more:
        with db.one_moment():
            more = db.remove_some()
