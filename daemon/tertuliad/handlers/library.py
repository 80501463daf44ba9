"""Methods about many sessions: found, forked, carried elsewhere, cleared away.

None of them needs an attached caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from tertulia_protocol import faults, shapes
from tertulia_protocol import session_id as ids
from tertulia_protocol.errors import SessionExists, SessionNotFound
from tertulia_protocol.methods import library as methods
from tertuliad import limits
from tertuliad.clock import now_ms
from tertuliad.handlers.context import Caller, Context
from tertuliad.handlers.sessions import meta_of
from tertuliad.ids import new_id
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions import branching, documents
from tertuliad.sessions.decide import Decision, turns
from tertuliad.sessions.refusals import check_name, exists
from tertuliad.store.base import MARKS, AlreadyThere, Hit, ListQuery, Page, Row

T = TypeVar("T")

_DAY_MS = 24 * 3600 * 1000
_NOTHING = methods.Nothing()


async def fork(
    ctx: Context, caller: Caller, params: methods.SessionsForkParams
) -> methods.SessionsForkResult:
    child = new_id() if params.new_session_id is None else params.new_session_id
    if not ids.is_valid(child):
        raise faults.invalid("$.newSessionId", ids.RULE)
    check_name(params.name)
    source = params.session_id
    name = (params.name or "").strip() or None
    await ctx.look_at(child)
    with anyio.CancelScope(shield=True):  # what is stored is also told
        parent, row = await branching.fork(
            ctx.world.store, source, child, before=params.to_event_id, name=name
        )
    credentials = ctx.world.credentials
    credentials.copy(credentials.of(source, parent.created_ms), child, row.created_ms)
    ctx.world.lifecycle("session.created", row)
    return methods.SessionsForkResult(session_id=child, name=name)


# Documents


async def export(
    ctx: Context, caller: Caller, params: shapes.SessionParams
) -> methods.SessionExportResult:
    log = await settled(ctx.world.store.whole(params.session_id))
    if log is None:
        raise SessionNotFound.of(params.session_id)
    return methods.SessionExportResult(document=documents.document_of(log.row, log.records))


async def import_(
    ctx: Context, caller: Caller, params: methods.SessionImportParams
) -> methods.MaybeSession:
    wanted, path = params.session_id, "$.sessionId"
    if wanted is None:
        wanted, path = params.document.session_id, "$.document.sessionId"
    if not ids.is_valid(wanted):
        raise faults.invalid(path, ids.RULE)
    try:
        return await _imported(ctx, params.document, wanted)
    except SessionExists:
        if params.if_exists != "rename":
            raise
        return await _imported(ctx, params.document, new_id())


async def _imported(
    ctx: Context, document: methods.Document, session_id: str
) -> methods.MaybeSession:
    append = await anyio.to_thread.run_sync(documents.first_append, document, session_id)
    await ctx.look_at(session_id)
    with anyio.CancelScope(shield=True):
        try:
            await settled(ctx.world.store.create(append))
        except AlreadyThere:
            raise exists(session_id) from None
    ctx.world.lifecycle("session.created", append.row)
    return methods.MaybeSession(session_id=session_id)


# Finding


async def search(
    ctx: Context, caller: Caller, params: methods.SessionsSearchParams
) -> methods.SessionsSearchResult:
    if len(params.text) > limits.SEARCH_CHARS:
        raise faults.invalid(
            "$.text",
            f"at most {limits.SEARCH_CHARS} characters can be searched for. Take the words that"
            " matter",
        )
    limit = min(params.limit or limits.FOUND_AT_ONCE, limits.FOUND_AT_ONCE)
    hits, cursor = await settled(ctx.world.store.search(params.text, limit, params.cursor))
    return methods.SessionsSearchResult(hits=[_hit(hit) for hit in hits], cursor=cursor)


def _hit(hit: Hit) -> methods.SearchHit:
    return methods.SearchHit(
        session=meta_of(hit.row),
        event_id=hit.event_id,
        seq=hit.seq,
        type=hit.type,
        snippet=_snippet(hit.snippet),
    )


def _snippet(marked: str) -> methods.Snippet:
    """The store's marks as offsets."""
    text = ""
    highlights = []
    for number, piece in enumerate(marked.split(MARKS[0])):
        word, mark, rest = piece.partition(MARKS[1])
        if number and mark:
            highlights.append((len(text), len(text) + len(word)))
        text += word + rest
    return methods.Snippet(text=text, highlights=highlights)


def find_by_prefix(
    ctx: Context, caller: Caller, params: methods.SessionsFindByPrefixParams
) -> Reply:
    prefix = params.prefix
    if not ids.is_valid(prefix):
        return Reply.of(methods.MaybeSession())

    def answer(page: Page) -> methods.MaybeSession:
        found = [row.id for row in page.rows]
        whole = prefix if prefix in found else None
        return methods.MaybeSession(session_id=found[0] if len(found) == 1 else whole)

    # An id that is the prefix itself comes first: no other one sorts before it.
    return mapped(ctx.world.store.rows(ListQuery(prefix=prefix, order="id", limit=2)), answer)


def last_for_context(
    ctx: Context, caller: Caller, params: methods.SessionsGetLastForContextParams
) -> Reply:
    cwd = params.context.cwd if params.context else None
    rows = ctx.world.store.rows(ListQuery(cwd=cwd, archived=False, limit=1))

    def answer(page: Page) -> methods.MaybeSession:
        return methods.MaybeSession(session_id=page.rows[0].id if page.rows else None)

    return mapped(rows, answer)


def sizes(ctx: Context, caller: Caller, params: Any) -> Reply:
    return mapped(
        ctx.world.store.sizes(), lambda found: methods.SessionsGetSizesResult(sizes=found)
    )


async def in_use(
    ctx: Context, caller: Caller, params: methods.SessionIds
) -> methods.SessionsCheckInUseResult:
    owners = ctx.world.owners
    found = [await settled(ctx.world.store.row(each)) for each in params.session_ids]
    return methods.SessionsCheckInUseResult(
        in_use=[row.id for row in found if row is not None and owners.elsewhere(row.owner)]
    )


# Clearing away


async def bulk_delete(
    ctx: Context, caller: Caller, params: methods.SessionIds
) -> methods.SessionsBulkDeleteResult:
    freed = await _deleted(ctx, params.session_ids)
    return methods.SessionsBulkDeleteResult(freed_bytes=freed)


async def _all(session_ids: list[str]) -> dict[str, Row | None]:
    return dict.fromkeys(session_ids)


async def _deleted(
    ctx: Context,
    session_ids: list[str],
    look: Callable[[list[str]], Awaitable[Mapping[str, Row | None]]] = _all,
) -> dict[str, int]:
    """Delete those that are there, some at once, so that what others store comes between; the
    bytes that each has freed. `look` tells of some, when their turn comes, which of them go, and
    how they are known: one that is not so any more stays."""
    wanted = [each for each in dict.fromkeys(session_ids) if ids.is_valid(each)]
    freed = {}
    for start in range(0, len(wanted), limits.DELETED_AT_ONCE):
        some = wanted[start : start + limits.DELETED_AT_ONCE]
        going = await look(some)
        replies = {each: ctx.delete(each, known) for each, known in going.items()}
        for session_id, reply in replies.items():
            size: int | None = await reply.settled()
            if size is not None:
                freed[session_id] = size
    return freed


async def prune(
    ctx: Context, caller: Caller, params: methods.SessionsPruneOldParams
) -> methods.SessionsPruneOldResult:
    before = now_ms() - round(params.older_than_days * _DAY_MS)
    page = await settled(ctx.world.store.rows(ListQuery()))
    excluded = frozenset(params.exclude_session_ids or ())
    found = {row.id: row async for row in _unhurried(page.rows) if row.modified_ms < before}
    reasons: dict[str, methods.StaysFor] = {}

    def may_go(row: Row) -> bool:
        reason = _stays_for(ctx, row, params, excluded=row.id in excluded)
        if reason is not None:
            reasons[row.id] = reason
        return reason is None

    async def look(session_ids: list[str]) -> dict[str, Row]:
        rows = [await settled(ctx.world.store.row(each)) for each in session_ids]
        old = [row for row in rows if row is not None and row.modified_ms < before]
        return {row.id: row for row in old if may_go(row)}

    going = [row.id async for row in _unhurried(list(found.values())) if may_go(row)]
    freed: dict[str, int] = {}
    if not params.dry_run:
        freed = await _deleted(ctx, going, look)
        found = {each: row for each, row in found.items() if each in freed or each in reasons}
    return methods.SessionsPruneOldResult(
        deleted=list(freed),
        candidates=list(found),
        skipped=list(reasons),
        freed_bytes=sum(freed.values()),
        dry_run=bool(params.dry_run),
        reasons=reasons,
        recent=len(page.rows) - len(found),
    )


async def _unhurried(items: list[T]) -> AsyncIterator[T]:
    """All of `items`; others are served in between."""
    for start in range(0, len(items), limits.LISTED_AT_ONCE):
        await anyio.lowlevel.checkpoint()
        for item in items[start : start + limits.LISTED_AT_ONCE]:
            yield item


def _stays_for(
    ctx: Context, row: Row, params: methods.SessionsPruneOldParams, *, excluded: bool
) -> methods.StaysFor | None:
    """Why a session that is old enough stays all the same; first what no parameter changes."""
    reasons: tuple[tuple[methods.StaysFor, bool], ...] = (
        ("running", row.id in ctx.world.running),
        ("attached", ctx.hub.followers(row.id) > 0),
        ("elsewhere", ctx.world.owners.elsewhere(row.owner)),
        ("pending", row.pending > 0),
        ("excluded", excluded),
        ("named", row.named and not params.include_named),
    )
    return next((reason for reason, holds in reasons if holds), None)


def close(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    """Detach; where nobody else is attached, also end the turn and forget what is in memory."""
    session_id = params.session_id
    ctx.hub.detach(caller, session_id)
    if ctx.hub.followers(session_id):
        return save(ctx, caller, params)

    def answer(_: Any) -> methods.Nothing:
        ctx.sessions.release_soon(session_id)
        return _NOTHING

    ended = ctx.sessions.post(
        session_id,
        lambda state: turns.abort(state, "user_initiated", None, go_on=False),
        first=True,
    )
    return mapped(ended, answer)


def save(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    """What was answered is stored; this waits for what was not answered yet."""
    return ctx.sessions.post(params.session_id, lambda _: Decision(result=_NOTHING))
