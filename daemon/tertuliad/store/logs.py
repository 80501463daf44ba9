"""SQL about logs: segments and their events.

A segment that no log leads through any more is given up: its `head` says so from the commit on that
left it, and its rows go afterwards, by transactions of `REMOVED_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.store import search
from tertuliad.store.base import MAX_SEQ, Range, Record
from tertuliad.store.schema import GIVEN_UP, SAID_TYPES, event_id, seq_of

if TYPE_CHECKING:
    import sqlite3


def chain_of(newest: str) -> str:
    """SQL of the segments that a log leads through, the one that `newest` stands for first, and up
    to which seq each belongs to it: a fork of a fork ends where the first of them was made. What
    it goes on from is older and has a lower id: any other is damage, and might lead in a circle."""
    return f"""
WITH RECURSIVE chain (segment, upto) AS (
    SELECT {newest}, {MAX_SEQ}
    UNION ALL
    SELECT s.parent, min(chain.upto, s.parent_seq)
    FROM segments s JOIN chain ON s.id = chain.segment
    WHERE s.parent < s.id
)
SELECT chain.segment, chain.upto FROM chain
"""  # noqa: S608 - no value of anybody's


_CHAIN = chain_of("?1")


# Once the index is behind, how far it is does not matter: mostly, nothing has to be written.
_HAS_NEWS = "UPDATE segments SET head = ? WHERE id = ? AND indexed = head"


def chain(
    db: sqlite3.Connection, segment: int, at_most: int | None = None
) -> list[tuple[int, int]]:
    """(segment, last seq that belongs to the log), the oldest first; the newest `at_most`."""
    found = db.execute(_CHAIN, (segment,))
    return (found.fetchall() if at_most is None else found.fetchmany(at_most))[::-1]


def new_segment(
    db: sqlite3.Connection, head: int, parent: int | None = None, parent_seq: int | None = None
) -> int:
    """A segment whose first event will have the seq `head + 1`."""
    cursor = db.execute(
        "INSERT INTO segments (parent, parent_seq, head, indexed) VALUES (?, ?, ?, ?)",
        (parent, parent_seq, head, head),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def set_aside(db: sqlite3.Connection) -> int:
    """A segment that counts as given up until it is taken back."""
    segment = new_segment(db, 0)
    db.execute("UPDATE segments SET head = ? WHERE id = ?", (GIVEN_UP, segment))
    return segment


def take_back(db: sqlite3.Connection, segment: int, records: tuple[Record, ...]) -> None:
    """The segment, which has these records, is one of a log from now on."""
    said = any(record.type in SAID_TYPES for record in records)
    head = records[-1].seq if said else 0
    db.execute("UPDATE segments SET head = ? WHERE id = ?", (head, segment))


def count(db: sqlite3.Connection, segment: int) -> int:
    """How many events of its own the segment has."""
    span = (event_id(segment, 0), event_id(segment, MAX_SEQ))
    (found,) = db.execute("SELECT count(*) FROM events WHERE id BETWEEN ? AND ?", span).fetchone()
    return int(found)


def insert(db: sqlite3.Connection, segment: int, records: tuple[Record, ...]) -> None:
    db.executemany(
        "INSERT INTO events (id, type, body) VALUES (?, ?, ?)",
        [
            # Of other bytes sqlite3 asks each time whether they adapt themselves: that costs more.
            (event_id(segment, record.seq), record.type, bytearray(record.body))
            for record in records
        ],
    )
    if any(record.type in SAID_TYPES for record in records):
        db.execute(_HAS_NEWS, (records[-1].seq, segment))


def read(db: sqlite3.Connection, parts: list[tuple[int, int]], wanted: Range) -> list[Record]:
    """The records of the log that leads through `parts`, a `chain`. Raises `StoreFailed` for one
    that no daemon has written."""
    found: list[Record] = []
    room = MAX_SEQ if wanted.max_bytes is None else wanted.max_bytes
    for part, upto in reversed(parts) if wanted.backward else parts:
        left = -1 if wanted.limit is None else wanted.limit - len(found)
        if left == 0 or room <= 0:
            break
        for record in read_part(db, part, upto, wanted, left):
            if not is_event(record):
                raise damaged(record, _whose(db, parts[-1][0]))
            found.append(record)
            room -= len(record.body)
            if room <= 0:
                break
    return found


_SMALL = """
SELECT id, type, CASE WHEN length(body) <= ? THEN body END
FROM events WHERE id BETWEEN ? AND ? ORDER BY id
"""


def read_small(
    db: sqlite3.Connection, parts: list[tuple[int, int]], after: int, most: int
) -> list[Record] | None:
    """The records behind seq `after`; None: they have more bytes than `most`, and what is large
    among them was not read, or one of them is damaged."""
    found: list[Record] = []
    for part, upto in parts:
        wanted = (most, event_id(part, after + 1), event_id(part, upto))
        for row_id, kind, body in db.execute(_SMALL, wanted):
            record = Record(seq_of(row_id), kind, body)
            if not is_event(record) or len(body) > most:
                return None
            most -= len(body)
            found.append(record)
    return found


def is_event(record: Record) -> bool:
    """Whether it is made of what an event is made of: SQLite takes anything in any column."""
    return isinstance(record.body, bytes) and isinstance(record.type, str)


def damaged(record: Record, session_id: str | None) -> StoreFailed:
    """What is told of an event that cannot be shown; `session_id` None: no session has it."""
    whose = "" if session_id is None else f" of session {session_id}"
    return StoreFailed(
        f"Event {record.seq}{whose} is damaged. It was left as it is: `tertulia doctor` looks into"
        " it."
    )


def _whose(db: sqlite3.Connection, segment: int) -> str | None:
    found = db.execute("SELECT id FROM sessions WHERE segment = ?", (segment,)).fetchone()
    return None if found is None else found[0]


def read_part(
    db: sqlite3.Connection, segment: int, upto: int, wanted: Range, limit: int = -1
) -> Iterator[Record]:
    """The records of a segment up to a seq, one by one, whatever they are made of."""
    last = upto if wanted.before is None else min(upto, wanted.before - 1)
    arguments: list[object] = [event_id(segment, wanted.after + 1), event_id(segment, max(last, 0))]
    kinds = ""
    if wanted.types is not None:
        kinds = f" AND type IN ({', '.join('?' * len(wanted.types))})"
        arguments += wanted.types
    arguments.append(limit)
    direction = "DESC" if wanted.backward else "ASC"
    rows = db.execute(
        f"SELECT id, type, body FROM events WHERE id BETWEEN ? AND ?{kinds}"  # noqa: S608
        f" ORDER BY id {direction} LIMIT ?",
        arguments,
    )
    return (Record(seq_of(row_id), kind, body) for row_id, kind, body in rows)


def has(db: sqlite3.Connection, segment: int, seq: int) -> bool:
    """Whether the segment has an event of its own with this seq."""
    row = db.execute("SELECT 1 FROM events WHERE id = ?", (event_id(segment, seq),)).fetchone()
    return row is not None


def find(db: sqlite3.Connection, segment: int, wanted_id: str) -> int | None:
    """The seq of the event whose envelope has this id; what was said last is looked at first."""
    for part, upto in reversed(chain(db, segment)):
        row = db.execute(
            "SELECT id FROM events WHERE id BETWEEN ? AND ?"
            " AND json_extract(CAST(body AS TEXT), '$.id') = ? ORDER BY id DESC LIMIT 1",
            (event_id(part, 0), event_id(part, upto), wanted_id),
        ).fetchone()
        if row is not None:
            return seq_of(row[0])
    return None


def give_up(db: sqlite3.Connection, segment: int | None) -> list[int]:
    """Mark `segment` and what is before it, as far as no log leads through them any more. What is
    marked is never read again: its rows go by and by (`remove`)."""
    given: list[int] = []
    while segment is not None and not _used(db, segment):
        db.execute("UPDATE segments SET head = ? WHERE id = ?", (GIVEN_UP, segment))
        given.append(segment)
        segment = _parent(db, segment)
    return given


def given_up(db: sqlite3.Connection) -> list[int]:
    """The segments that are marked, and of which something is left."""
    found = db.execute("SELECT id FROM segments WHERE head = ?", (GIVEN_UP,))
    return [segment for (segment,) in found]


def is_given_up(db: sqlite3.Connection, segment: int) -> bool:
    """Whether it is there, and no log leads through it."""
    found = db.execute("SELECT head FROM segments WHERE id = ?", (segment,)).fetchone()
    return found is not None and found[0] == GIVEN_UP


def remove(db: sqlite3.Connection, segments: list[int]) -> list[int]:
    """Remove segments that were given up, as much as one transaction takes; those that are left.
    One that was taken back meanwhile stays: it is a session's by now."""
    room = limits.REMOVED_BYTES
    for number, segment in enumerate(segments):
        if not is_given_up(db, segment):
            continue
        room = _remove_some(db, segment, room) if room > 0 else 0
        if room <= 0:
            return segments[number:]
        room -= limits.KIB  # for the segment itself
    return []


def _remove_some(db: sqlite3.Connection, segment: int, room: int) -> int:
    """Remove of a segment as much as `room` bytes allow; gives how many of them are left: some,
    only if all of the segment is gone."""
    first, last = event_id(segment, 0), event_id(segment, MAX_SEQ)
    upto, room = search.reach(db, (first, last), room)
    if upto is not None:
        search.unindex(db, segment, upto)
        db.execute("DELETE FROM events WHERE id BETWEEN ? AND ?", (first, upto))
    if room > 0:
        discard(db, segment)
    return room


def _used(db: sqlite3.Connection, segment: int) -> bool:
    row = db.execute(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE segment = ?1)"
        " OR EXISTS (SELECT 1 FROM segments WHERE parent = ?1 AND id > ?1 AND head <> ?2)",
        (segment, GIVEN_UP),
    ).fetchone()
    return bool(row[0])


def _parent(db: sqlite3.Connection, segment: int) -> int | None:
    row = db.execute(
        "SELECT parent FROM segments WHERE id = ? AND parent < id", (segment,)
    ).fetchone()
    return None if row is None else row[0]


def discard(db: sqlite3.Connection, segment: int) -> None:
    """Remove a segment with all that is of it, but for its words in the index."""
    db.execute(
        "DELETE FROM events WHERE id BETWEEN ? AND ?",
        (event_id(segment, 0), event_id(segment, MAX_SEQ)),
    )
    db.execute("DELETE FROM snapshots WHERE segment = ?", (segment,))
    db.execute("DELETE FROM segments WHERE id = ?", (segment,))


def newest_snapshot(
    db: sqlite3.Connection, parts: list[tuple[int, int]]
) -> tuple[int, int, int] | None:
    """(segment, seq, bytes) of the snapshot nearest to the end of the log that leads through
    `parts`, a `chain`; it may be of the log that it was forked from."""
    for part, upto in reversed(parts):
        found = db.execute(
            "SELECT seq, length(body) FROM snapshots WHERE segment = ? AND seq <= ?", (part, upto)
        ).fetchone()
        if found is not None:
            return part, found[0], found[1]
    return None


def snapshot(db: sqlite3.Connection, segment: int) -> bytes:
    """The body of the snapshot that `newest_snapshot` found."""
    body: bytes
    (body,) = db.execute(
        "SELECT CAST(body AS BLOB) FROM snapshots WHERE segment = ?", (segment,)
    ).fetchone()
    return body


def size(db: sqlite3.Connection, segment: int) -> int:
    """The bytes of the segment's own events."""
    row = db.execute(
        "SELECT coalesce(sum(length(body)), 0) FROM events WHERE id BETWEEN ? AND ?",
        (event_id(segment, 0), event_id(segment, MAX_SEQ)),
    ).fetchone()
    return int(row[0])
