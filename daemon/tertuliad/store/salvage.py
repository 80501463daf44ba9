"""What is left of a damaged database, carried into a new one.

Rows are taken as `pages` finds them and told apart by their shape: as many columns as their table
has, each of its kind. What the new database has then is whole for SQLite, while its logs may have
holes: mending those is the doctor's. Snapshots and the index are left behind, since both are made
from the events.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tertulia_protocol.decoding import json_decoder
from tertuliad.store.pages import Found, Image, Value
from tertuliad.store.schema import MAX_SEGMENT, open_database, segment_of, seq_of

if TYPE_CHECKING:
    import sqlite3

CARRIED = ("events", "segments", "sessions")
ROWS_AT_ONCE = 1000
_KINDS: dict[str, tuple[type, ...]] = {"INTEGER": (int,), "TEXT": (str,), "BLOB": (bytes,)}
_HAS_HEAD = ("segments", "sessions")


class Shape(msgspec.Struct, frozen=True):
    """A table's columns: their names, the kinds they take, and whether they may be NULL. The one
    that is the row id is stored as NULL."""

    table: str
    names: tuple[str, ...]
    kinds: tuple[tuple[type, ...], ...]
    nullable: tuple[bool, ...]
    key: str

    def fits(self, values: list[Value]) -> bool:
        return len(values) == len(self.names) and all(
            (value is None and (may or name == self.key)) or isinstance(value, kinds)
            for value, kinds, may, name in zip(
                values, self.kinds, self.nullable, self.names, strict=True
            )
        )


class _Event(msgspec.Struct):
    type: str


def salvage(damaged: Path, fresh: Path) -> bool:
    """Make `fresh` of what `damaged` has. Answers whether pages that were given back could be told
    apart: if not, what was deleted may be among what is found. Raises `OSError`,
    `StoreFailed`."""
    image = Image(damaged)
    try:
        db = open_database(fresh)
        try:
            _carry(image, db)
            _know_segments(db)
        finally:
            db.close()
        return image.free_pages() is not None
    finally:
        image.close()


def _carry(image: Image, db: sqlite3.Connection) -> None:
    shapes = [_shape(db, table) for table in CARRIED]
    db.execute("BEGIN IMMEDIATE")
    for number, (shape, row) in enumerate(_told_apart(image.rows(), shapes)):
        _keep(db, shape, row)
        if number % ROWS_AT_ONCE == 0:
            db.execute("COMMIT")
            db.execute("BEGIN IMMEDIATE")
    db.execute("COMMIT")


def _told_apart(rows: Iterator[Found], shapes: list[Shape]) -> Iterator[tuple[Shape, Found]]:
    for row in rows:
        for shape in shapes:
            if shape.fits(row.values) and _may_be(shape.table, row):
                yield shape, row


def _may_be(table: str, row: Found) -> bool:
    """Whether a row that has the table's shape can be one of it."""
    if table == "segments":
        return 0 < row.row_id <= MAX_SEGMENT
    return table != "events" or _is_event(row)


def _is_event(row: Found) -> bool:
    kind, body = row.values[1], row.values[2]
    if not 0 < segment_of(row.row_id) <= MAX_SEGMENT or not seq_of(row.row_id):
        return False
    try:
        return isinstance(body, bytes) and json_decoder(_Event).decode(body).type == kind
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _shape(db: sqlite3.Connection, table: str) -> Shape:
    columns = db.execute(f"PRAGMA table_info({table})").fetchall()
    return Shape(
        table=table,
        names=tuple(name for _, name, *_ in columns),
        kinds=tuple(_KINDS[kind] for _, _, kind, *_ in columns),
        nullable=tuple(not wanted for _, _, _, wanted, *_ in columns),
        key=next(name for _, name, _, _, _, place in columns if place),
    )


def _keep(db: sqlite3.Connection, shape: Shape, row: Found) -> None:
    """Of two that claim the same place the one with the longer log stays."""
    given = dict(zip(shape.names, row.values, strict=True))
    given[shape.key] = row.row_id
    if shape.table in _HAS_HEAD and not _is_newer(db, shape, given):
        return
    names = ", ".join(shape.names)
    places = ", ".join(f":{name}" for name in shape.names)
    db.execute(
        f"INSERT OR REPLACE INTO {shape.table} ({names}) VALUES ({places})",  # noqa: S608
        given,
    )


def _is_newer(db: sqlite3.Connection, shape: Shape, given: dict[str, Value]) -> bool:
    unique = [name for name in (shape.key, "id", "segment") if name in shape.names]
    where = " OR ".join(f"{name} = :{name}" for name in unique)
    known = db.execute(
        f"SELECT max(head) FROM {shape.table} WHERE {where}",  # noqa: S608
        given,
    ).fetchone()
    return known[0] is None or int(str(given["head"])) > known[0]


def _know_segments(db: sqlite3.Connection) -> None:
    """What is indexed is to be found out anew; a segment never begins before its parent's part."""
    db.execute("UPDATE segments SET indexed = 0")
    db.execute("UPDATE segments SET parent = NULL, parent_seq = NULL WHERE parent >= id")
