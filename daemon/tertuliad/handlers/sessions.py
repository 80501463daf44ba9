"""Methods about sessions: made, resumed, listed, let go."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import anyio.to_thread
import msgspec

from tertulia_protocol import VERSION, shapes
from tertulia_protocol.config import (
    CreateParams,
    ResumeParams,
    SessionConfig,
    given_providers,
    merged,
)
from tertulia_protocol.errors import SessionExists, SessionNotFound
from tertulia_protocol.methods import session as methods
from tertuliad import limits
from tertuliad.askers import asker, asking
from tertuliad.clock import iso, now_ms
from tertuliad.handlers.context import Caller, Context, on_success, working_directory
from tertuliad.ids import new_id
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions.decide import Decision, settings
from tertuliad.sessions.refusals import check_given, check_supported
from tertuliad.sessions.state import SessionState
from tertuliad.store.base import ListQuery, Page, Row

_encoder = msgspec.json.Encoder()


def _encoded(result: methods.SessionListResult) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(result))


def create(ctx: Context, caller: Caller, params: CreateParams) -> Reply:
    session_id = params.session_id or new_id()
    if params.if_exists != "resume":
        return created(ctx, caller, session_id, params)
    return _created_or_resumed(
        lambda: created(ctx, caller, session_id, params),
        lambda: resumed(ctx, caller, session_id, params, was_there=True),
    )


def created(ctx: Context, caller: Caller, session_id: str, config: SessionConfig) -> Reply:
    """Make a session and attach the caller; answers a `SessionOpened`."""
    ctx.need_room(caller, session_id)
    check_given(config)
    _check(ctx, config)
    if config.working_directory is None:
        config = msgspec.structs.replace(config, working_directory=working_directory())

    def command(state: SessionState) -> Decision:
        start = iso(state.created_ms)
        return settings.create(state, config, VERSION, start, _opened(state, config.model))

    def make() -> Reply:
        made = ctx.sessions.create(session_id, command)
        return on_success(made, lambda: _attach(ctx, caller, session_id, config))

    return ctx.after_a_look(session_id, make)


def resume(ctx: Context, caller: Caller, params: ResumeParams) -> Reply:
    return resumed(
        ctx,
        caller,
        params.session_id,
        params,
        silent=bool(params.disable_resume),
        continue_work=params.continue_pending_work,
    )


def resumed(
    ctx: Context,
    caller: Caller,
    session_id: str,
    config: SessionConfig,
    *,
    silent: bool = False,
    continue_work: bool | None = None,
    was_there: bool = False,
) -> Reply:
    """Attach the caller to a stored session; answers a `SessionOpened`. `silent`: the log does not
    say so."""
    ctx.need_room(caller, session_id)
    check_given(config)
    others = ctx.hub.followers(session_id) - ctx.hub.follows(caller, session_id)
    names_a_model = config.model is not None or given_providers(config) is not None

    def command(state: SessionState) -> Decision:
        _check(ctx, merged(state.config, config), model=names_a_model)
        result = _opened(state, config.model or state.config.model, resumed=was_there)
        if silent:
            return settings.configure(state, config, result)
        return settings.resume(
            state,
            config,
            resume_time=iso(now_ms()),
            was_active=others > 0,
            continue_work=bool(continue_work),
            result=result,
        )

    def attached() -> None:
        _attach(ctx, caller, session_id, config)
        if continue_work is not False:
            ctx.sessions.go_on(session_id)

    def take_up() -> Reply:
        return on_success(ctx.sessions.post(session_id, command), attached)

    return ctx.after_a_look(session_id, take_up)


def _check(ctx: Context, config: SessionConfig, *, model: bool = True) -> None:
    """Raise for what this version does not do, and for a model that nobody answers for. Without
    `model` that is left to the next turn: a history can be read whoever answers."""
    check_supported(config)
    if model and config.model is not None:
        ctx.models.check(config.model, given_providers(config))


def _attach(ctx: Context, caller: Caller, session_id: str, config: SessionConfig) -> None:
    # The command is done and nothing of it is published yet: it is the first that is heard of.
    told = ctx.sessions.just_told(session_id)
    ctx.forget_others(session_id, told.created_ms)
    ctx.keep_providers(session_id, config)
    if caller.is_over:
        return  # it was let go of already: nobody would end the attachment
    ctx.hub.attach(caller, session_id, told, mid_answer=ctx.sessions.mid_answer(session_id))
    ctx.opened()


def _created_or_resumed(make: Callable[[], Reply], take_up: Callable[[], Reply]) -> Reply:
    """What `make` gives, or `take_up` where the session exists already, or `make` again where it
    was deleted meanwhile."""
    final = Reply()
    who = asker.get()

    def settle(done: Any) -> None:
        error = done.exception()
        if error is None:
            final.give(done.result())
        elif isinstance(error, SessionExists | SessionNotFound):
            again = take_up if isinstance(error, SessionExists) else make
            try:
                with asking(who):
                    again().add_done_callback(settle)
            except Exception as refused:  # noqa: BLE001 - the gate maps it
                final.fail(refused)
        else:
            final.fail(error)

    make().add_done_callback(settle)
    return final


def _opened(
    state: SessionState, model: str | None, *, resumed: bool = False
) -> methods.SessionOpened:
    return methods.SessionOpened(
        session_id=state.id,
        start_time=iso(state.created_ms),
        is_remote=False,
        mode="interactive",
        capabilities=methods.NO_CAPABILITIES,
        model_state=methods.ModelState(model_id=model),
        resumed=resumed,
    )


def listed(ctx: Context, caller: Caller, params: methods.SessionListParams) -> Reply:
    wanted = params.filter or methods.SessionFilter()
    archived = wanted.archived or False
    if wanted.git_root or wanted.repository or wanted.branch:
        # No session knows its repository, so none can be equal to it.
        return Reply.of(methods.SessionListResult(sessions=[]))
    query = ListQuery(
        cwd=wanted.cwd,
        archived=None if archived == "any" else archived,
        named=wanted.named,
        metadata=wanted.metadata,
        prefix=wanted.prefix,
        order=params.order or "modified",
        limit=None if params.limit is None else min(params.limit, limits.LISTED_AT_ONCE),
        after=params.cursor,
    )
    found = ctx.world.store.rows(query)
    return mapped(found, _list_of) if query.limit is not None else _whole_list(ctx, found)


def _list_of(page: Page) -> methods.SessionListResult:
    return methods.SessionListResult(
        sessions=[meta_of(row) for row in page.rows], cursor=page.cursor
    )


def _whole_list(ctx: Context, found: Future[Page]) -> Reply:
    """All that there are: where they are many, the others are served while the answer is made."""
    final = Reply()

    async def run() -> None:
        try:
            page = await settled(found)
            if len(page.rows) <= limits.LISTED_AT_ONCE:
                final.give(_list_of(page))
            else:
                final.give(await anyio.to_thread.run_sync(lambda: _encoded(_list_of(page))))
        except Exception as error:  # noqa: BLE001 - the gate maps it
            final.fail(error)

    ctx.spawn(run)
    return final


def meta_of(row: Row) -> shapes.SessionMeta:
    """A row as clients get it."""
    return shapes.SessionMeta(
        session_id=row.id,
        start_time=iso(row.created_ms),
        modified_time=iso(row.modified_ms),
        is_remote=False,
        summary=row.title,
        name=row.title,
        client_name=row.client_name,
        context=shapes.SessionContext(cwd=row.cwd) if row.cwd else None,
        named=row.named,
        model=row.model,
        archived=row.archived,
        metadata=None if row.metadata is None else msgspec.Raw(row.metadata.encode()),
        parent_session_id=row.parent,
        pending=row.pending,
    )


def metadata(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return mapped(
        ctx.world.store.row(params.session_id),
        lambda row: methods.SessionGetMetadataResult(session=meta_of(row) if row else None),
    )


def last_id(ctx: Context, caller: Caller, params: Any) -> Reply:
    return mapped(
        ctx.world.store.last_id(), lambda found: methods.SessionGetLastIdResult(session_id=found)
    )


def delete(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    session_id = params.session_id

    def answer(freed: int | None) -> shapes.Success:
        if freed is None:
            return shapes.Success(success=False, error=f"Session not found: {session_id}")
        return shapes.Success(success=True)

    return mapped(ctx.delete(session_id), answer)


def destroy(ctx: Context, caller: Caller, params: shapes.SessionParams) -> shapes.Success:
    if ctx.hub.detach(caller, params.session_id):
        return shapes.Success(success=True)
    return shapes.Success(success=False, error=f"Session not found: {params.session_id}")


def detach(ctx: Context, caller: Caller, params: shapes.SessionParams) -> shapes.Success:
    ctx.hub.detach(caller, params.session_id)
    return shapes.Success(success=True)
