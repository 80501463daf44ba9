"""SQL about list rows: written with each append, listed by pages."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from tertulia_protocol import faults
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.errors import InvalidParams
from tertuliad.store.base import Known, ListQuery, News, Order, Page, Row
from tertuliad.store.logs import chain_of
from tertuliad.store.schema import SEQ_BITS

if TYPE_CHECKING:
    import sqlite3

COLUMNS = Row.__struct_fields__
LISTED = ", ".join(f"sessions.{name}" for name in COLUMNS)
_INSERT = (
    f"INSERT INTO sessions ({', '.join(COLUMNS)}, segment)"  # noqa: S608 - constants
    f" VALUES ({'?, ' * len(COLUMNS)}?)"
)
_AT_HEAD = "SELECT pk, segment FROM sessions WHERE id = ? AND head = ? AND created_ms = ?"
_MOVE = "UPDATE sessions SET modified_ms = ?, head = ?, title = ?, owner = ? WHERE pk = ?"
_LASTING = ("named", "model", "cwd", "client_name", "archived", "metadata", "pending")
_CHANGE = f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in _LASTING)} WHERE pk = ?"  # noqa: S608
_lasting = operator.attrgetter(*_LASTING)
_FLAGS = ("named", "archived")
_ORDERS: dict[Order, tuple[str, str]] = {
    "modified": ("modified_ms", "DESC"),
    "created": ("created_ms", "DESC"),
    "id": ("id", "ASC"),
    "title": ("coalesce(title, '')", "ASC"),
}


# A log that nobody spoke in is short; in another one the first message is soon found. With the plus
# SQLite goes by the range, and makes no index of all events for it.
_SPOKEN_IN = f"""EXISTS (
{chain_of("sessions.segment")}
CROSS JOIN events ON events.id
    BETWEEN chain.segment << {SEQ_BITS} AND (chain.segment << {SEQ_BITS} | chain.upto)
WHERE +events.type = 'user.message')"""

_BEHIND_ALL = "\x7f"
"""Behind any character of an id."""

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Place = tuple[str, _Int64 | str, _Int64]


def exists(db: sqlite3.Connection, session_id: str) -> bool:
    found = db.execute("SELECT 1 FROM sessions WHERE id = ?", (session_id,)).fetchone()
    return found is not None


def insert(db: sqlite3.Connection, row: Row, segment: int) -> None:
    db.execute(_INSERT, (*msgspec.structs.astuple(row), segment))


def update(
    db: sqlite3.Connection, row: Row, expected_head: int, before: Row | None = None
) -> int | None:
    """Write a row; gives the session's segment. None: its head is not the expected one, or the
    session is gone, though a later one may have its id. Where the stored row is known, as `before`,
    only what changes is written: a None is costly to bind."""
    found = db.execute(_AT_HEAD, (row.id, expected_head, row.created_ms)).fetchone()
    if found is None:
        return None
    pk, log = found  # two quick statements: RETURNING makes a table of what it returns
    db.execute(_MOVE, (row.modified_ms, row.head, row.title, row.owner, pk))
    if before is None or _lasting(row) != _lasting(before):
        db.execute(_CHANGE, (*_lasting(row), pk))
    return int(log)


def made(values: tuple[Any, ...]) -> Row:
    """The row of a result in the order of `LISTED`."""
    named = dict(zip(COLUMNS, values, strict=True))
    for flag in _FLAGS:
        named[flag] = bool(named[flag])
    return Row(**named)


def get(db: sqlite3.Connection, session_id: str) -> Row | None:
    found = db.execute(
        f"SELECT {LISTED} FROM sessions WHERE id = ?",  # noqa: S608 - constants
        (session_id,),
    ).fetchone()
    return None if found is None else made(found)


def with_segment(db: sqlite3.Connection, session_id: str) -> tuple[Row, int] | None:
    """A row, and the segment that its log ends in."""
    found = db.execute(
        f"SELECT segment, {LISTED} FROM sessions WHERE id = ?",  # noqa: S608 - constants
        (session_id,),
    ).fetchone()
    return None if found is None else (made(found[1:]), found[0])


def segment(db: sqlite3.Connection, session_id: str, created_ms: int = 0) -> int | None:
    """The segment that the session's log ends in; None: there is no such session, or it was made at
    another time."""
    found = db.execute(
        "SELECT segment FROM sessions WHERE id = ?1 AND ?2 IN (0, created_ms)",
        (session_id, created_ms),
    ).fetchone()
    return None if found is None else found[0]


def page(db: sqlite3.Connection, wanted: ListQuery) -> Page:
    """One page. The cursor names the last row's place in the order, so that rows which come and go
    meanwhile shift nothing. Raises `InvalidParams` for a cursor that no page gave."""
    key, direction = _ORDERS[wanted.order]
    conditions, arguments = _conditions(wanted)
    if wanted.after is not None:
        place, pk = _place(wanted.after, wanted.order)
        conditions.append(f"({key}, pk) {'<' if direction == 'DESC' else '>'} (?, ?)")
        arguments += [place, pk]
    limit = -1 if wanted.limit is None else wanted.limit + 1
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    found = db.execute(
        f"SELECT {key}, pk, {LISTED} FROM sessions{where}"  # noqa: S608 - only constants
        f" ORDER BY {key} {direction}, pk {direction} LIMIT ?",
        (*arguments, limit),
    ).fetchall()
    more = wanted.limit is not None and len(found) > wanted.limit
    shown = found[: wanted.limit] if more else found
    cursor = msgspec.json.encode([wanted.order, *shown[-1][:2]]).decode() if more else None
    return Page([made(values[2:]) for values in shown], cursor)


def _place(cursor: str, order: Order) -> tuple[Any, int]:
    try:
        named, place, pk = json_decoder(_Place).decode(cursor)
    except msgspec.MsgspecError:
        raise bad_cursor() from None
    if named != order:
        raise bad_cursor()
    return place, pk


def bad_cursor() -> InvalidParams:
    return faults.invalid(
        "$.cursor", "no page with this order gave such a cursor; begin without one"
    )


_JSON_TYPES = {
    str: "('text')",
    bool: "('true', 'false')",
    int: "('integer', 'real')",
    float: "('integer', 'real')",
}
"""How SQLite calls those of a value: by the value alone, true is 1 and an array is its text."""


def _conditions(wanted: ListQuery) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    arguments: list[Any] = []

    def add(condition: str, value: object) -> None:
        if value is not None:
            conditions.append(condition)
            arguments.append(value)

    add("archived = ?", None if wanted.archived is None else int(wanted.archived))
    add("named = ?", None if wanted.named is None else int(wanted.named))
    if wanted.pending is not None:
        conditions.append("pending > 0" if wanted.pending else "pending = 0")  # as the index says
    if wanted.spoken_in is not None:
        conditions.append(_SPOKEN_IN if wanted.spoken_in else f"NOT {_SPOKEN_IN}")
    add("cwd = ?", wanted.cwd)
    if wanted.prefix:
        add("id >= ?", wanted.prefix)
        add("id < ?", wanted.prefix + _BEHIND_ALL)
    for name, value in (wanted.metadata or {}).items():
        conditions.append(
            "EXISTS (SELECT 1 FROM json_each(metadata) AS m"  # noqa: S608 - what is put in is above
            f" WHERE m.key = ? AND m.value IS ? AND m.type IN {_JSON_TYPES[type(value)]})"
        )
        arguments += [name, value]
    return conditions, arguments


def ahead(db: sqlite3.Connection, known: dict[str, Known]) -> News:
    """Rows with a higher head than the one given, or with an owner; ids without a row, with a lower
    head, or made at another time."""
    found = db.execute(
        f"SELECT known.key, {LISTED} FROM json_each(?) AS known"  # noqa: S608 - constants
        " LEFT JOIN sessions ON sessions.id = known.key"
        " WHERE sessions.head IS NOT json_extract(known.value, '$[0]')"
        " OR sessions.owner IS NOT NULL"
        " OR json_extract(known.value, '$[1]') NOT IN (0, sessions.created_ms)",
        (msgspec.json.encode(known).decode(),),
    )
    news = News([], [])
    for session_id, *values in found:
        row = None if values[0] is None else made(tuple(values))
        if row is None or not is_of(row, known[session_id]):
            news.gone.append(session_id)
        else:
            news.rows.append(row)
    return news


def is_of(row: Row, known: Known) -> bool:
    """Whether a row can be that of the session that is known."""
    return row.head >= known.head and known.created_ms in (0, row.created_ms)


def last_id(db: sqlite3.Connection) -> str | None:
    last = (
        f"SELECT * FROM (SELECT id, modified_ms, pk FROM sessions WHERE archived = {archived}"  # noqa: S608
        " ORDER BY modified_ms DESC, pk DESC LIMIT 1)"
        for archived in (0, 1)  # as the index has them
    )
    found = db.execute(f"{' UNION ALL '.join(last)} ORDER BY modified_ms DESC, pk DESC LIMIT 1")
    row = found.fetchone()
    return None if row is None else str(row[0])
