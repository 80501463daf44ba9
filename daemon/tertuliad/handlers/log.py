"""Methods that read a session's log by pages, with a cursor. The caller has to be attached.

A cursor is a place between two events and the direction in which it goes: `f` and the seq before
it, or `b` and the seq behind it; and then a mark of the log that it is of, so that no place of
another log is taken for one of this. Seqs are never used again, so a place stays good when what was
around it is left out by a rewind: reading goes on from there.
"""

from __future__ import annotations

import re
from binascii import crc32

import anyio
import msgspec

from tertulia_protocol import shapes
from tertulia_protocol.methods import log as methods_log
from tertuliad import limits
from tertuliad.handlers.context import Caller, Context
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions.facts import is_internal
from tertuliad.store.base import Range, Record, Row

_CURSOR = re.compile(r"([fb])(0|[1-9][0-9]{0,15})\.([0-9a-f]{8})")


class _Cursor(msgspec.Struct, frozen=True):
    """Forward, events above `seq` follow; backward, those below it. `mark` is that of its log."""

    backward: bool
    seq: int
    mark: str

    def __str__(self) -> str:
        return f"{'b' if self.backward else 'f'}{self.seq}.{self.mark}"


def _mark(row: Row) -> str:
    """What tells a log from others, also from an earlier one of the same id."""
    return f"{crc32(f'{row.id} {row.created_ms}'.encode()):08x}"


class _Page(msgspec.Struct, frozen=True):
    """`records` are the oldest first."""

    records: list[Record]
    cursor: _Cursor
    has_more: bool


def tail(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    def answer(row: Row) -> methods_log.SessionEventLogTailResult:
        cursor = _Cursor(False, row.head, _mark(row))
        return methods_log.SessionEventLogTailResult(cursor=str(cursor), seq=row.head)

    return mapped(ctx.row(caller, params.session_id), answer)


async def read(
    ctx: Context, caller: Caller, params: methods_log.SessionEventLogReadParams
) -> methods_log.SessionEventLogReadResult:
    row = await settled(ctx.row(caller, params.session_id))
    cursor, is_good = _start(row, params)
    patience = 0 if cursor.backward else min(params.wait_ms or 0, limits.READ_WAIT_MS)
    with anyio.move_on_after(patience / 1000):
        while True:
            news = ctx.hub.news(caller, params.session_id)  # before reading: nothing is missed
            with anyio.CancelScope(shield=True):
                page = await _page(ctx, row, params, cursor)
            if page.records or not patience or news is None or caller.ending:
                break
            cursor = page.cursor
            await news.wait()
    return methods_log.SessionEventLogReadResult(
        events=[msgspec.Raw(record.body) for record in page.records],
        cursor=str(page.cursor),
        has_more=page.has_more,
        cursor_status="ok" if is_good else "expired",
    )


def _start(row: Row, params: methods_log.SessionEventLogReadParams) -> tuple[_Cursor, bool]:
    """Where to read from, and whether that is where the caller wants it."""
    mark = _mark(row)
    found = _CURSOR.fullmatch(params.cursor or "")
    backward = found[1] == "b" if found else params.direction == "backward"
    behind_end = row.head + 1
    if found and found[3] == mark and int(found[2]) <= (behind_end if backward else row.head):
        return _Cursor(backward, int(found[2]), mark), True
    return _Cursor(backward, behind_end if backward else 0, mark), params.cursor is None


async def _page(
    ctx: Context, row: Row, params: methods_log.SessionEventLogReadParams, cursor: _Cursor
) -> _Page:
    """The next events that are for clients."""
    limit = min(params.max or limits.READ_EVENTS, limits.READ_EVENTS_MAX)
    shown: list[Record] = []
    room = limits.READ_BYTES
    while True:
        found = await settled(ctx.read(row.id, _range(row, params, cursor, limit + 1)))
        for record in found:
            if not is_internal(record.type):
                if len(shown) == limit or room <= 0:
                    return _made(shown, cursor, has_more=True)
                shown.append(record)
            room -= len(record.body)
            cursor = _Cursor(cursor.backward, record.seq, cursor.mark)
        if not found or (len(found) <= limit and room > 0):
            return _made(shown, cursor, has_more=False)


def _range(
    row: Row, params: methods_log.SessionEventLogReadParams, cursor: _Cursor, limit: int
) -> Range:
    """Records from the cursor on, in its direction."""
    return Range(
        after=0 if cursor.backward else cursor.seq,
        before=cursor.seq if cursor.backward else None,
        limit=limit,
        max_bytes=limits.READ_BYTES,
        backward=cursor.backward,
        types=_types(params),
        created_ms=row.created_ms,
    )


def _made(shown: list[Record], cursor: _Cursor, *, has_more: bool) -> _Page:
    return _Page(shown[::-1] if cursor.backward else shown, cursor, has_more)


def _types(params: methods_log.SessionEventLogReadParams) -> tuple[str, ...] | None:
    if params.agent_ids is not None:
        return ()  # there are no subagents, so no event is of one
    if params.types is None or "*" in params.types:
        return None
    return tuple(params.types)
