"""Methods under the names that the SDKs generate beside those that their clients call. The work is
done by `handlers.sessions`, `library` and `metadata`. None of them needs an attached caller."""

from __future__ import annotations

from typing import Any

import msgspec

from tertulia_protocol import shapes
from tertulia_protocol.config import SessionConfig
from tertulia_protocol.errors import NotSupported, SessionNotFound
from tertulia_protocol.methods import library as methods_library
from tertulia_protocol.methods import session as methods_session
from tertulia_protocol.methods import sessions as methods
from tertuliad import limits
from tertuliad.handlers import library, metadata, sessions
from tertuliad.handlers.context import Caller, Context
from tertuliad.ids import new_id
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions.decide import Decision
from tertuliad.sessions.state import SessionState
from tertuliad.store.base import ListQuery, Page, Row

_ELSEWHERE = ("remote", "cloud", "handoff")
_NOT_FOUND = methods.SessionsOpenResult(status="not_found")


async def open_(
    ctx: Context, caller: Caller, params: methods.SessionsOpenParams
) -> methods.SessionsOpenResult:
    if params.kind in _ELSEWHERE:
        raise NotSupported(
            f"kind: there is no remote service behind this daemon, so {params.kind} opens nothing:"
            " use create, resume, resumeLast or attach."
        )
    if params.kind == "create":
        return await _created(ctx, caller, params)
    session_id = await _wanted(ctx, caller, params)
    if session_id is None:
        return _NOT_FOUND
    try:
        await _attached(ctx, caller, session_id, params).settled()
    except SessionNotFound:
        return _NOT_FOUND
    return methods.SessionsOpenResult(status="resumed", session_id=session_id, startup_prompts=[])


async def _created(
    ctx: Context, caller: Caller, params: methods.SessionsOpenParams
) -> methods.SessionsOpenResult:
    if params.emit_start is False:
        raise NotSupported("emitStart: every log begins with session.start: leave emitStart out.")
    options = params.options or methods.OpenOptions()
    session_id = options.session_id or params.session_id or new_id()
    await sessions.created(ctx, caller, session_id, options.config()).settled()
    return methods.SessionsOpenResult(status="created", session_id=session_id, startup_prompts=[])


async def _wanted(ctx: Context, caller: Caller, params: methods.SessionsOpenParams) -> str | None:
    """The stored session that is meant, if there is one."""
    if params.kind == "attach":
        return params.session_id
    if params.kind == "resume":
        prefix = methods_library.SessionsFindByPrefixParams(prefix=params.session_id or "")
        reply = library.find_by_prefix(ctx, caller, prefix)
    else:
        context = methods_library.SessionsGetLastForContextParams(context=params.context)
        reply = library.last_for_context(ctx, caller, context)
    found: methods_library.MaybeSession = await reply.settled()
    return found.session_id


def _attached(
    ctx: Context, caller: Caller, session_id: str, params: methods.SessionsOpenParams
) -> Reply:
    """Who only attaches changes nothing, writes nothing and starts nothing."""
    if params.kind == "attach":
        return sessions.resumed(
            ctx, caller, session_id, SessionConfig(), silent=True, continue_work=False
        )
    config = (params.options or methods.OpenOptions()).config()
    return sessions.resumed(ctx, caller, session_id, config, silent=params.resume is False)


def listed(ctx: Context, caller: Caller, params: methods.SessionsListParams) -> Reply:
    if params.source == "remote":
        return Reply.of(methods_session.SessionListResult(sessions=[]))
    return sessions.listed(ctx, caller, params)


def delete(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    def answer(freed: int | None) -> None:
        if freed is None:
            raise SessionNotFound.of(params.session_id)

    return mapped(ctx.delete(params.session_id), answer)


def not_empty(
    ctx: Context, caller: Caller, params: methods.SessionsListNonEmptySessionIdsParams
) -> Reply:
    limit = None if params.limit is None else min(params.limit, limits.LISTED_AT_ONCE)

    def answer(page: Page) -> methods.SessionsListNonEmptySessionIdsResult:
        return methods.SessionsListNonEmptySessionIdsResult(
            session_ids=[row.id for row in page.rows]
        )

    wanted = ListQuery(archived=False, spoken_in=True, limit=limit)
    return mapped(ctx.world.store.rows(wanted), answer)


def of_task(ctx: Context, caller: Caller, params: Any) -> methods.SessionsFindByTaskIdResult:
    return methods.SessionsFindByTaskIdResult()


# The caller's own metadata


def client_metadata(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return ctx.sessions.post(
        params.session_id, lambda state: Decision(result=_texts(state.metadata))
    )


def update_client_metadata(
    ctx: Context, caller: Caller, params: methods.SessionMetadataUpdateClientMetadataParams
) -> Reply:
    def command(state: SessionState) -> Decision:
        cleared = _texts(state.metadata) if params.clear else {}
        taken_out = dict.fromkeys([*cleared, *(params.remove or ())])
        changes = {**taken_out, **(params.set or {})}
        return metadata.described(state, changes, None, "$.set", lambda now: _texts(now.metadata))

    return ctx.sessions.post(params.session_id, command)


async def client_metadata_of_many(
    ctx: Context, caller: Caller, params: methods.SessionsGetClientMetadataParams
) -> methods.ClientMetadataEntries:
    rows = [await settled(ctx.world.store.row(each)) for each in params.session_ids]
    return [
        _entry(session_id, row, params.keys)
        for session_id, row in zip(params.session_ids, rows, strict=True)
    ]


def _entry(session_id: str, row: Row | None, keys: list[str] | None) -> methods.ClientMetadataEntry:
    if row is None:
        return methods.ClientMetadataEntry(session_id=session_id, status="notFound")
    kept = _texts(msgspec.json.decode(row.metadata) if row.metadata else None)
    chosen = {key: kept[key] for key in kept if keys is None or key in keys}
    return methods.ClientMetadataEntry(session_id=session_id, status="ok", metadata=chosen)


def _texts(metadata: dict[str, Any] | None) -> methods.ClientMetadata:
    return {key: value for key, value in (metadata or {}).items() if isinstance(value, str)}
