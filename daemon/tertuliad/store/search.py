"""SQL about the words that were said: the index is written off the path of a turn.

What is not indexed yet is indexed before a search, so that a search finds all that is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tertuliad.store.base import MARKS, MAX_SEQ
from tertuliad.store.schema import SAID_TYPES, event_id, seq_of

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
    f"SELECT events.id, {TEXT} AS text FROM events"  # noqa: S608 - constants
    f" WHERE id BETWEEN ? AND ? AND events.type IN ({_KINDS}) AND {TEXT} IS NOT NULL"
)


_FIND = (
    "SELECT events.id, CASE WHEN json_valid(CAST(events.body AS TEXT))"  # noqa: S608
    " THEN json_extract(CAST(events.body AS TEXT), '$.id') ELSE '' END, events.type,"
    f" snippet(said, 0, '{MARKS[0]}', '{MARKS[1]}', '…', {SNIPPET_TOKENS})"
    " FROM said JOIN events ON events.id = said.rowid"
    " WHERE said MATCH ? ORDER BY said.rank, said.rowid DESC LIMIT ? OFFSET ?"
)


def index(db: sqlite3.Connection, segments: int) -> int:
    """Index what is new in at most so many segments; how many there were."""
    waiting = db.execute(
        "SELECT id FROM segments WHERE indexed < head LIMIT ?", (segments,)
    ).fetchall()
    for (segment,) in waiting:
        try:
            index_segment(db, segment)
        except _corrupt() as error:
            _pass_over(db, segment, error)
    return len(waiting)


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


def index_segment(db: sqlite3.Connection, segment: int) -> None:
    """Index what is new in one segment."""
    indexed, behind = db.execute(
        "SELECT indexed, indexed < head FROM segments WHERE id = ?", (segment,)
    ).fetchone()
    if behind:
        new = (event_id(segment, indexed + 1), event_id(segment, MAX_SEQ))
        (last,) = db.execute("SELECT max(id) FROM events WHERE id BETWEEN ? AND ?", new).fetchone()
        db.execute(f"INSERT INTO said (rowid, text) {_WORDS}", new)
        db.execute(
            "UPDATE segments SET head = ?1, indexed = ?1 WHERE id = ?2", (seq_of(last), segment)
        )


def unindex(db: sqlite3.Connection, segment: int) -> None:
    """Take a segment's words out of the index, before its events go."""
    found = db.execute("SELECT indexed FROM segments WHERE id = ?", (segment,)).fetchone()
    if found is not None:
        db.execute(
            f"INSERT INTO said (said, rowid, text) SELECT 'delete', w.* FROM ({_WORDS}) AS w",  # noqa: S608
            (event_id(segment, 0), event_id(segment, found[0])),
        )


def query_of(text: str) -> str:
    """An FTS5 query for all of the words of `text`, whatever characters they have; the last word
    may be the beginning of one."""
    words = [f'"{word}"' for word in text.replace('"', " ").replace("\0", " ").split()]
    return " ".join(words) + ("*" if words else "")


def find(
    db: sqlite3.Connection, text: str, limit: int, offset: int
) -> list[tuple[int, str, str, str]]:
    """(event's row id, its id, its type, snippet) of the places that match, the best first."""
    query = query_of(text)
    if not query:
        return []
    return db.execute(_FIND, (query, limit, offset)).fetchall()
