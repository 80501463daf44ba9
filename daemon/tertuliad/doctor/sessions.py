"""A session's log, event by event, and what is derived from it: its row and its snapshots."""

from __future__ import annotations

import msgspec

from tertulia_protocol import session_id
from tertuliad.doctor.findings import Finding, finding
from tertuliad.sessions import facts
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.state import SessionState, decoded, fold, from_snapshot, snapshot
from tertuliad.store.base import MAX_SEQ, Record, Row
from tertuliad.store.examination import Database, Listed, Snapshot, Unreadable


class Checked(msgspec.Struct):
    """`state` is the fold up to the event `sound`, the last one without a fault before it; `last`
    is the highest seq that the log may have had: what its row says, if that leaves room for more,
    or what was read."""

    listed: Listed
    state: SessionState
    sound: int = 0
    last: int = 0
    fault: str | None = None
    wrong_snapshots: list[Snapshot] = []

    @property
    def row(self) -> Row:
        """The row as the log has it."""
        known = self.listed.row
        owner = known.owner if self.state.turn is not None else None
        return row_of(self.state, known.modified_ms, owner)


def check(db: Database, listed: Listed) -> Checked:
    """Read all of the log, few records in memory."""
    row = listed.row
    last = row.head if row.head <= MAX_SEQ // 2 else 0
    checked = Checked(listed, SessionState(id=row.id, created_ms=row.created_ms), last=last)
    snapshots = _snapshots(db, listed)
    checked.wrong_snapshots = [k for k in snapshots.values() if not isinstance(k.seq, int)]
    try:
        for record in db.records(listed.segment):
            if not _take(checked, record):
                break
            if (kept := snapshots.get(record.seq)) is not None and _differs(checked, kept):
                checked.wrong_snapshots.append(kept)
    except Unreadable as error:
        checked.fault = f"what follows on event {checked.sound} cannot be read ({error})"
    if checked.fault is None and (checked.sound < row.head or not checked.sound):
        checked.fault = f"it ends at event {checked.sound}, and had {row.head}"
    return checked


def _snapshots(db: Database, listed: Listed) -> dict[int, Snapshot]:
    """By their seq. None where they cannot be read: the log is enough."""
    try:
        return {kept.seq: kept for kept in db.snapshots(listed.segment)}
    except Unreadable:
        return {}


def _take(checked: Checked, record: Record) -> bool:
    """Fold one more event; False: it is at fault."""
    checked.last = max(checked.last, record.seq)
    if record.seq != checked.sound + 1 and not _jumps(record, checked.sound):
        checked.fault = f"event {checked.sound + 1} is missing"
        return False
    try:
        record.body.decode()
        fold(checked.state, [record])
    except (msgspec.MsgspecError, ValueError) as error:
        checked.fault = f"event {record.seq} cannot be decoded ({error})"
        return False
    checked.sound = record.seq
    return True


def _jumps(record: Record, after: int) -> bool:
    try:
        return facts.jumps(decoded(record)[1], after)
    except (msgspec.MsgspecError, ValueError):
        return False


def _differs(checked: Checked, kept: Snapshot) -> bool:
    """One that another version has written is not looked into: it is not used either."""
    state = from_snapshot(kept.body)
    if state is None:
        return False
    state.id, state.created_ms = checked.state.id, checked.state.created_ms
    return snapshot(state) != snapshot(checked.state)


def is_named(row: Row) -> bool:
    """Whether a request can name it."""
    return isinstance(row.id, str) and session_id.is_valid(row.id)


def findings_of(checked: Checked, owner_is_gone: bool) -> list[Finding]:
    """What is to be said about one session."""
    row = checked.listed.row
    whose = row.id if is_named(row) else repr(row.id)
    if checked.fault is not None:
        kind = "log_damaged" if checked.sound else "log_lost"
        return [finding(kind, checked.fault, session=whose)]
    found = [
        finding("snapshot_differs", f"the snapshot at event {kept.seq}", session=whose)
        for kept in checked.wrong_snapshots
    ]
    if not is_named(row):
        found.append(finding("id_unusable", "it is none", session=whose))
    if wrong := differing(row, checked.row):
        found.append(finding("row_differs", f"in {', '.join(wrong)}", session=whose))
    elif checked.state.turn is not None and owner_is_gone:
        detail = f"turn {checked.state.turn.id} has not ended"
        found.append(finding("turn_left_open", detail, session=whose))
    return found


def differing(one: Row, other: Row) -> list[str]:
    """The names of the members in which two rows differ."""
    names = Row.__struct_fields__
    return [name for name in names if getattr(one, name) != getattr(other, name)]
