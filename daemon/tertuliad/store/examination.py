"""SQL of a look at a database that may be damaged: it is opened for reading only, beside a daemon
too.

Every call raises `Unreadable` where SQLite cannot read what is there, `NotOpened` where something
else keeps it from it, and nothing else of SQLite's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from tertuliad.store import logs, rows, search
from tertuliad.store.base import MAX_SEQ, Range, Record, Row
from tertuliad.store.schema import (
    APPLICATION_ID,
    GIVEN_UP,
    MAX_SEGMENT,
    SAID_TYPES,
    SCHEMA_VERSION,
    SEQ_BITS,
    read_only,
)

if TYPE_CHECKING:
    import sqlite3

SESSIONS_AT_ONCE = 200
FAULTS_TOLD = 20  # of SQLite's own check

_KINDS = ", ".join(f"'{kind}'" for kind in SAID_TYPES)
_TO_INDEX = (
    "SELECT events.id FROM events JOIN segments ON segments.id = events.id >> ?1"  # noqa: S608
    f" WHERE events.type IN ({_KINDS}) AND events.id & ?2 <= segments.indexed"
    f" AND {search.TEXT} IS NOT NULL"
)
_INDEXED = "SELECT id FROM said_docsize"
# Segments that no session's log leads through, but for those that are being removed.
ORPHANS = f"""
WITH RECURSIVE used (id) AS (
    SELECT segment FROM sessions
    UNION
    SELECT parent FROM segments JOIN used USING (id) WHERE parent < segments.id
)
SELECT id FROM segments WHERE head <> {GIVEN_UP} AND id NOT IN (SELECT id FROM used)
"""  # noqa: S608 - a constant
# Segments that end a log, by what goes on from them, and that no session's row names.
_LEFT_ALONE = f"""
SELECT id FROM segments WHERE head <> {GIVEN_UP} AND id NOT IN (SELECT segment FROM sessions)
AND id NOT IN (
    SELECT c.parent FROM segments c WHERE c.parent IS NOT NULL AND c.head <> {GIVEN_UP}
    AND ?2 IS NOT (
        SELECT type FROM events WHERE events.id > c.id << ?1 ORDER BY events.id LIMIT 1
    )
)
"""  # noqa: S608 - a constant
# A jump from segment to segment, without looking at each event.
_EVENT_SEGMENTS = """
WITH RECURSIVE found (segment) AS (
    SELECT min(id) >> ?1 FROM events
    UNION
    SELECT (SELECT min(id) >> ?1 FROM events WHERE id > found.segment << ?1 | ?2)
    FROM found WHERE found.segment IS NOT NULL
)
SELECT segment FROM found WHERE segment IS NOT NULL AND segment NOT IN (SELECT id FROM segments)
"""
# All that a daemon reads and writes, by its columns.
_COLUMNS = (
    f"pk, segment, {rows.LISTED} FROM sessions",
    "id, parent, parent_seq, head, indexed FROM segments",
    "id, type, body FROM events",
    "segment, seq, body FROM snapshots",
    "id, text FROM spoken",
    "text FROM said",
    *(f"* FROM {table}" for table in ("said_data", "said_idx", "said_docsize", "said_config")),
    "name, seq FROM sqlite_sequence",
)
_NOT_IN_LOGS = {
    "sessions": ("id", "segment", "created_ms", "modified_ms", "head"),
    "segments": ("parent", "parent_seq", "head", "indexed"),
}
_MISPLACED = "SELECT id FROM segments WHERE parent >= id LIMIT ?"
# Such a one, or the next one that is made.
_OUT_OF_RANGE = """
SELECT id FROM segments WHERE id > ?1 UNION
SELECT seq FROM sqlite_sequence WHERE name = 'segments' AND typeof(seq) = 'integer' AND seq > ?1
LIMIT ?2
"""
_SURPLUS = (
    "SELECT (SELECT coalesce(sum(length(block)), 0) FROM said_data)"
    " - (SELECT coalesce(sum(length(body)), 0) FROM events WHERE type IN (?, ?))"
)
_TEMPORARY_WORDS = "CREATE VIRTUAL TABLE temp.words USING fts5vocab ('main', 'said', 'row')"
_RANKED = "SELECT rank FROM said WHERE said MATCH ? ORDER BY rank LIMIT 1"


class Unreadable(Exception):
    """SQLite cannot read this; the message has its words."""


class NotOpened(Exception):
    """It is not the database's fault: no rights, no space, another process in the way."""


class Listed(msgspec.Struct, frozen=True):
    """A session as its row has it."""

    row: Row
    segment: int


class Place(msgspec.Struct, frozen=True):
    """A piece of a log: a segment, and up to which seq it belongs to the log."""

    segment: int
    upto: int


class Snapshot(msgspec.Struct, frozen=True):
    segment: int
    seq: int
    body: bytes


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What SQLite raises inside, as ours."""
    import sqlite3

    not_its_fault = (
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    )
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in not_its_fault:
            raise NotOpened(str(error)) from error
        raise Unreadable(str(error)) from error
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise Unreadable(f"a value of a wrong kind: {error}") from error


class Database:
    """Open from its construction to `close`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Raises `Unreadable` where it cannot even be opened."""
        with explained():
            return cls(read_only(path))

    def close(self) -> None:
        self._db.close()

    def version(self) -> int | None:
        """The format; None: this is no database of ours. 0: it is empty, as a new one, or its
        format is lost."""
        with explained():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if version > SCHEMA_VERSION:
            return int(version)
        if application != APPLICATION_ID:
            return None if version or not self.is_empty() else 0
        return int(version)

    def is_empty(self) -> bool:
        """Whether it has not even a table."""
        with explained():
            (things,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return not things

    def faults(self) -> list[str]:
        """What SQLite's own check finds, at most `FAULTS_TOLD` of it."""
        with explained():
            found = self._db.execute(f"PRAGMA integrity_check({FAULTS_TOLD})").fetchall()
        return [str(text) for (text,) in found if text != "ok"]

    def missing(self) -> list[str]:
        """What of the tables is not there, or not as it has to be, in SQLite's words."""
        words: list[str] = []
        for columns in _COLUMNS:
            try:
                with explained():
                    self._db.execute(f"SELECT {columns} LIMIT 0")
            except Unreadable as error:
                words.append(str(error))
        return words

    def mixed_up(self) -> list[str]:
        """The columns in which something has another kind than they are declared for, of those that
        no log has."""
        with explained():
            return [
                f"{table}.{name}"
                for table, names in _NOT_IN_LOGS.items()
                for _, name, kind, needed, _, _ in self._db.execute(f"PRAGMA table_info({table})")
                if name in names
                and self._db.execute(
                    f"SELECT EXISTS (SELECT 1 FROM {table} WHERE typeof({name}) <> ?"  # noqa: S608
                    f" AND typeof({name}) <> ?)",
                    (kind.lower(), kind.lower() if needed else "null"),
                ).fetchone()[0]
            ]

    def misplaced(self) -> list[int]:
        """Segments that are said to go on from one that is not older, `FAULTS_TOLD` at most."""
        with explained():
            found = self._db.execute(_MISPLACED, (FAULTS_TOLD,)).fetchall()
        return [segment for (segment,) in found]

    def out_of_range(self) -> list[int]:
        """Numbers of segments that no event can be of, `FAULTS_TOLD` at most."""
        with explained():
            found = self._db.execute(_OUT_OF_RANGE, (MAX_SEGMENT, FAULTS_TOLD)).fetchall()
        return [segment for (segment,) in found]

    def size(self) -> tuple[int, int]:
        """The bytes of the database, and how many of them nothing uses. What the index has beyond
        what is said counts: it keeps words of what was deleted."""
        with explained():
            (page,) = self._db.execute("PRAGMA page_size").fetchone()
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (unused,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (surplus,) = self._db.execute(_SURPLUS, SAID_TYPES).fetchone()
        return pages * page, unused * page + max(0, surplus)

    def sessions(self) -> Iterator[Listed]:
        """Every session, the oldest first. Those behind a row that cannot be read are not seen."""
        after = 0
        while True:
            with explained():
                found = self._db.execute(
                    f"SELECT pk, segment, {rows.LISTED} FROM sessions WHERE pk > ?"  # noqa: S608
                    " ORDER BY pk LIMIT ?",
                    (after, SESSIONS_AT_ONCE),
                ).fetchall()
                listed = [Listed(rows.made(values[2:]), values[1]) for values in found]
            yield from listed
            if not found:
                return
            after = found[-1][0]

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is read inside is of one moment, and what is written holds together."""
        with explained():
            self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(Unreadable, NotOpened), explained():
                self._db.execute("ROLLBACK")
            raise
        with explained():
            self._db.execute("COMMIT")

    def again(self, session_id: str) -> Listed | None:
        """The session as it is now."""
        with explained():
            row, segment = rows.get(self._db, session_id), rows.segment(self._db, session_id)
        return None if row is None or segment is None else Listed(row, segment)

    def places(self, segment: int) -> list[Place]:
        """The pieces of the log that ends in `segment`, the oldest first."""
        with explained():
            return [Place(part, upto) for part, upto in logs.chain(self._db, segment)]

    def records(self, segment: int) -> Iterator[Record]:
        """The log that ends in `segment`, from its beginning, one record in memory. What is sound
        comes before `Unreadable` is raised."""
        with explained():
            for part, upto in logs.chain(self._db, segment):
                for record in logs.read_part(self._db, part, upto, Range()):
                    if not logs.is_event(record):
                        raise Unreadable(f"event {record.seq} is no event")
                    yield record

    def snapshots(self, segment: int) -> list[Snapshot]:
        """Those that the log may be loaded from: one for each piece at most."""
        with explained():
            return [
                Snapshot(part, seq, body)
                for part, upto in logs.chain(self._db, segment)
                for seq, body in self._db.execute(
                    "SELECT seq, CAST(body AS BLOB) FROM snapshots WHERE segment = ? AND seq <= ?",
                    (part, upto),
                ).fetchall()
            ]

    def orphans(self) -> list[int]:
        """Segments that no session's log leads through."""
        with explained():
            return [segment for (segment,) in self._db.execute(ORPHANS).fetchall()]

    def left_alone(self, forked: str) -> list[int]:
        """Segments that end a log and that no session's row names, though forks may go on from
        them. `forked` is the type of the first event of a fork's own."""
        with explained():
            found = self._db.execute(_LEFT_ALONE, (SEQ_BITS, forked)).fetchall()
        return [segment for (segment,) in found]

    def strays(self) -> list[int]:
        """Segments that events are of and that have no row."""
        with explained():
            return [
                segment for (segment,) in self._db.execute(_EVENT_SEGMENTS, (SEQ_BITS, MAX_SEQ))
            ]

    def to_index(self) -> int:
        """Segments whose newest words are not indexed yet."""
        with explained():
            found = self._db.execute("SELECT count(*) FROM segments WHERE indexed < head")
            return int(found.fetchone()[0])

    def index_fault(self) -> str | None:
        """What is wrong with the full-text index."""
        arguments = (SEQ_BITS, MAX_SEQ)
        try:
            with explained():
                self._db.execute(_TEMPORARY_WORDS)
                self._db.execute("SELECT count(*), sum(doc) FROM temp.words").fetchone()
                for (word,) in self._db.execute("SELECT term FROM temp.words LIMIT 1").fetchall():
                    self._db.execute(_RANKED, (f'"{word}"',)).fetchone()  # as a search does
                missing = f"SELECT EXISTS ({_TO_INDEX} EXCEPT {_INDEXED})"
                more = f"SELECT EXISTS ({_INDEXED} EXCEPT {_TO_INDEX})"
                if self._db.execute(missing, arguments).fetchone()[0]:
                    return "messages are missing in it"
                if self._db.execute(more, arguments).fetchone()[0]:
                    return "it points at messages that are not there"
        except Unreadable as error:
            return str(error)
        finally:
            with contextlib.suppress(Unreadable, NotOpened), explained():
                self._db.execute("DROP TABLE IF EXISTS temp.words")
        return None
