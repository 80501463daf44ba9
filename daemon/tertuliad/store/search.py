"""SQL about the words that were said: the index is written off the path of a turn.

What is not indexed yet is indexed before a search, so that a search finds all that is stored. It is
indexed by small transactions, and a long log in pieces: nobody who writes waits for all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tertuliad import limits
from tertuliad.store.base import MARKS, MAX_SEQ
from tertuliad.store.schema import SAID_TYPES, event_id, seq_of
from tertuliad.store.snippets import around

if TYPE_CHECKING:
    import sqlite3

SNIPPET_TOKENS = 24
_KINDS = ", ".join(f"'{kind}'" for kind in SAID_TYPES)

TEXT = (
    "CASE WHEN json_valid(CAST(events.body AS TEXT))"
    " THEN json_extract(CAST(events.body AS TEXT), '$.data.content') END"
)
"""What an event of `events` says: nothing, where its body is damaged, so that one session's damage
does not stop the index of all others."""

_WORDS = (
    f"SELECT events.id, substr({TEXT}, 1, {limits.INDEXED_CHARS}) AS text FROM events"  # noqa: S608
    f" WHERE id BETWEEN ? AND ? AND events.type IN ({_KINDS}) AND {TEXT} IS NOT NULL"
)

# What the next events of a segment cost.
_COSTS = (
    f"SELECT id, max(length(body), {limits.KIB}) FROM events"  # noqa: S608 - a constant
    " WHERE id BETWEEN ? AND ? ORDER BY id"
)

_FIND = (
    "SELECT said.rowid FROM said JOIN events ON events.id = said.rowid"
    " WHERE said MATCH ? ORDER BY said.rank, said.rowid DESC LIMIT ? OFFSET ?"
)
# What was said may have the characters that mark a word that was found.
_HAS_MARKS = " OR ".join(f"instr(CAST(body AS TEXT), '\\u{ord(mark):04x}')" for mark in MARKS)
# Of a text that SQLite's `snippet` is not for, all of it.
_PLACE = (
    "SELECT CASE WHEN json_valid(CAST(body AS TEXT))"  # noqa: S608 - constants
    " THEN json_extract(CAST(body AS TEXT), '$.id') ELSE '' END, type,"
    f" CASE WHEN length(body) > ? OR {_HAS_MARKS} THEN {TEXT} END FROM events WHERE id = ?"
)
_SNIPPET = (
    f"SELECT snippet(said, 0, '{MARKS[0]}', '{MARKS[1]}', '…', {SNIPPET_TOKENS})"  # noqa: S608
    " FROM said WHERE said MATCH ? AND rowid = ?"
)


def index(db: sqlite3.Connection) -> bool:
    """Index some of what is new, as much as one transaction takes; whether more is left."""
    room = limits.INDEXED_BYTES
    while (segment := _behind(db)) is not None:
        if room <= 0:
            return True
        try:
            room = _index_next(db, segment, room)
        except _corrupt() as error:
            _pass_over(db, segment, error)
    return False


def _behind(db: sqlite3.Connection) -> int | None:
    """A segment that has something new."""
    found = db.execute("SELECT id FROM segments WHERE indexed < head LIMIT 1").fetchone()
    return None if found is None else found[0]


def _corrupt() -> type[Exception]:
    import sqlite3

    return sqlite3.DatabaseError


def _pass_over(db: sqlite3.Connection, segment: int, error: Exception) -> None:
    """What cannot be read is not searched, so that the others are. Raises `error` where it is
    something else that fails."""
    head, indexed = db.execute(
        "SELECT head, indexed FROM segments WHERE id = ?", (segment,)
    ).fetchone()
    try:
        db.execute(
            f"SELECT count(text) FROM ({_WORDS})",  # noqa: S608 - constants
            (event_id(segment, indexed + 1), event_id(segment, MAX_SEQ)),
        ).fetchone()
    except _corrupt():
        db.execute("UPDATE segments SET indexed = ? WHERE id = ?", (head, segment))
    else:
        raise error


def _index_next(db: sqlite3.Connection, segment: int, room: int) -> int:
    """Index the next events of a segment, up to the one that fills `room` bytes; what is left of
    those."""
    (indexed,) = db.execute("SELECT indexed FROM segments WHERE id = ?", (segment,)).fetchone()
    new = (event_id(segment, indexed + 1), event_id(segment, MAX_SEQ))
    (last,) = db.execute("SELECT max(id) FROM events WHERE id BETWEEN ? AND ?", new).fetchone()
    last = last or event_id(segment, indexed)  # a repair may have left none
    upto, room = reach(db, new, room)
    upto = upto or last
    db.execute(f"INSERT INTO said (rowid, text) {_WORDS}", (new[0], upto))
    db.execute(
        "UPDATE segments SET head = ?, indexed = ? WHERE id = ?",
        (seq_of(last), seq_of(upto), segment),
    )
    return room


def reach(db: sqlite3.Connection, span: tuple[int, int], room: int) -> tuple[int | None, int]:
    """How far `room` bytes reach in a span of row ids: (the last event that they reach, None where
    there is none; how many of the bytes are left: none, if there may be more events)."""
    upto = None
    for row_id, cost in db.execute(_COSTS, span):
        upto, room = row_id, room - cost
        if room <= 0:
            break
    return upto, room


def unindex(db: sqlite3.Connection, segment: int, upto: int) -> None:
    """Take a segment's words out of the index, before its events go: those up to a row id."""
    found = db.execute("SELECT indexed FROM segments WHERE id = ?", (segment,)).fetchone()
    if found is not None:
        db.execute(
            f"INSERT INTO said (said, rowid, text) SELECT 'delete', w.* FROM ({_WORDS}) AS w",  # noqa: S608
            (event_id(segment, 0), min(upto, event_id(segment, found[0]))),
        )


def query_of(text: str) -> str:
    """An FTS5 query for all of the words of `text`, whatever characters they have; the last word
    may be the beginning of one."""
    words = [f'"{word}"' for word in words_of(text)]
    return " ".join(words) + ("*" if words else "")


def words_of(text: str) -> list[str]:
    """Each once: a word that is said again finds nothing more, and costs as much again."""
    words = text.replace('"', " ").replace("\0", " ").split()
    last_first = {word.casefold(): word for word in reversed(words)}
    return list(last_first.values())[::-1]


def find(db: sqlite3.Connection, text: str, limit: int, offset: int) -> list[int]:
    """The row ids of events that match, the best first."""
    query = query_of(text)
    if not query:
        return []
    return [row_id for (row_id,) in db.execute(_FIND, (query, limit, offset))]


def place(db: sqlite3.Connection, row_id: int, text: str) -> tuple[str, str, str]:
    """(event's id, its type, snippet) of a place that was found."""
    event_id, kind, whole = db.execute(_PLACE, (limits.MARKED_BYTES, row_id)).fetchone()
    if whole is not None:
        return event_id, kind, around(whole, words_of(text))
    (snippet,) = db.execute(_SNIPPET, (query_of(text), row_id)).fetchone()
    return event_id, kind, snippet
