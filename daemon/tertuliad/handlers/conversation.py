"""Methods about what is said in a session. The caller has to be attached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events, shapes
from tertulia_protocol.attachments import echoed
from tertulia_protocol.errors import (
    INTERNAL_ERROR,
    REQUEST_CANCELLED,
    Draining,
    RpcError,
)
from tertulia_protocol.methods import log as methods_log
from tertulia_protocol.methods import session as methods
from tertuliad.handlers.context import Caller, Context
from tertuliad.ids import new_id
from tertuliad.replies import Reply, mapped, then
from tertuliad.sessions import attached
from tertuliad.sessions.decide import Decide, Decision, queue, sending, settings, turns
from tertuliad.sessions.facts import MessageQueued, is_internal
from tertuliad.sessions.state import SessionState
from tertuliad.sessions.waits import TurnEnd
from tertuliad.store.base import Range, Record


def send(ctx: Context, caller: Caller, params: methods.SessionSendParams) -> Reply:
    reply = _sent(ctx, caller, params)
    if not params.wait:
        return reply

    def idle(sent: methods.SessionSendResult) -> Reply:
        return then(ctx.sessions.when_idle(params.session_id), lambda _: Reply.of(sent))

    return then(reply, idle)


def send_and_wait(ctx: Context, caller: Caller, params: methods.SessionSendParams) -> Reply:
    def ended(sent: methods.SessionSendResult) -> Reply:
        end = ctx.sessions.turn_of(params.session_id, sent.message_id)
        return then(end, lambda end: Reply.of(_turn_result(end)))

    return then(_sent(ctx, caller, params), ended)


def _turn_result(end: TurnEnd) -> methods.SessionSendAndWaitResult:
    """The answer, or the turn's failure as an error."""
    if end.error is not None:
        raise RpcError(
            INTERNAL_ERROR,
            end.error.message,
            {
                "kind": "turn_failed",
                "errorType": end.error.error_type,
                "completionEventId": end.error_id,
            },
        )
    return methods.SessionSendAndWaitResult(
        response=None if end.answer is None else msgspec.Raw(end.answer),
        aborted=end.aborted,
        completion_event_id=end.idle_id,
    )


def _sent(ctx: Context, caller: Caller, params: methods.SessionSendParams) -> Reply:
    def command(state: SessionState, message: MessageQueued) -> Decision:
        return sending.send(
            state,
            message,
            lambda message_id: message_id,
            if_idle=bool(params.if_idle),
            expected_seq=params.expected_seq,
            has_keys=ctx.world.has_keys(state),
        )

    put = put_message(ctx, caller, params.session_id, params, command)
    return mapped(put, lambda accepted: methods.SessionSendResult(message_id=accepted))


Given = methods.SessionSendParams | methods_log.QueueMessage
PutMessage = Callable[[SessionState, MessageQueued], Decision]
"""What accepting a message makes of the state; its result is the id that stands for it."""


def put_message(
    ctx: Context,
    caller: Caller,
    session_id: str,
    given: Given,
    command: PutMessage,
    path: str = "$",
) -> Reply:
    """Have a new message accepted, which was given at `path`; answers the id that stands for it.
    Where it would start a turn, the caller has to have room for one."""
    created_ms = ctx.need_attached(caller, session_id)

    def with_room(state: SessionState, message: MessageQueued) -> Decision:
        decision = command(state, message)
        if decision.starts_turn:
            ctx.need_turn(caller)
        return decision

    message = MessageQueued(
        message_id=new_id(),
        content=given.prompt,
        attachments=[echoed(item) for item in given.attachments or ()] or None,
        agent_mode=given.agent_mode,
        source=given.source,
        display=given.display_prompt,
        key=given.idempotency_key,
        first=given.mode == "immediate" or bool(given.prepend),
    )
    sending.check_size(message, path)
    headers = ctx.world.request_headers

    def forget_unused(done: Any) -> None:
        if done.exception() is not None or done.result() != message.message_id:
            headers.forget(session_id, message.message_id)

    if given.request_headers:
        headers.keep(session_id, message.message_id, given.request_headers)

    def post(command: Decide) -> Reply:
        return ctx.sessions.post(session_id, command, created_ms=created_ms)

    reply = _put(ctx, session_id, post, message, with_room, f"{path}.attachments")
    ctx.hub.expect(session_id, reply)
    if given.request_headers:
        reply.add_done_callback(forget_unused)
    return reply


def _put(
    ctx: Context,
    session_id: str,
    post: Callable[[Decide], Reply],
    message: MessageQueued,
    command: PutMessage,
    field: str,
) -> Reply:
    """Post the command behind those of the session's messages that came before. `field` is where
    attachments were given."""
    if not (message.attachments or ctx.arrivals.any(session_id)):
        return post(lambda state: command(state, message))
    arrival = ctx.arrivals.enter(session_id)
    final = Reply(arrival.cancel)
    folder = post(lambda state: Decision(result=state.config.working_directory))

    async def go() -> None:
        whole = await _with_files(ctx, message, await folder.settled(), field)
        await arrival.its_turn()
        put = post(lambda state: command(state, whole))
        put.add_done_callback(final.follow)

    async def run() -> None:
        try:
            with arrival.way:
                await go()
            if arrival.given_up is not None:  # too late, where it has gone in
                final.fail(arrival.given_up)
        except Exception as error:  # noqa: BLE001 - the gate maps it
            final.fail(error)
        except BaseException:
            final.fail(Draining.of("has not accepted the message"))
            raise
        finally:
            arrival.leave()

    ctx.spawn(run)
    return final


async def _with_files(
    ctx: Context, message: MessageQueued, cwd: str | None, field: str
) -> MessageQueued:
    """The message with the text of what is attached to it."""
    given = message.attachments
    if not given:
        return message

    def text() -> str:
        return attached.prompt_with(message.content, given, cwd)

    whole = await ctx.files.look(field, text) if attached.names_files(given) else text()
    return msgspec.structs.replace(message, transformed_content=whole)


def abort(ctx: Context, caller: Caller, params: methods.SessionAbortParams) -> Reply:
    reason = params.reason or "user_initiated"
    done = shapes.Success(success=True)
    wanted = params.message_id

    def command(state: SessionState) -> Decision:
        if wanted is None and state.turn is None:
            ctx.arrivals.give_up(state.id, _aborted())
        if wanted is None or (state.turn is not None and state.turn.message_id == wanted):
            return turns.abort(state, reason, done)
        return queue.remove(
            state, wanted, lambda removed: done if removed else shapes.Success(success=False)
        )

    return ctx.post(caller, params.session_id, command, first=True)


def _aborted() -> RpcError:
    return RpcError(
        REQUEST_CANCELLED,
        "The session was aborted before this message was accepted; send it again if it is meant.",
    )


def messages(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    created_ms = ctx.need_attached(caller, params.session_id)

    def answer(records: list[Record]) -> methods.SessionGetMessagesResult:
        return methods.SessionGetMessagesResult(
            events=[msgspec.Raw(item.body) for item in records if not is_internal(item.type)]
        )

    return mapped(ctx.read(params.session_id, Range(created_ms=created_ms)), answer)


def note(ctx: Context, caller: Caller, params: methods.SessionLogParams) -> Reply:
    event_id = new_id()
    kind = params.type or "notification"
    data: events.EventData
    match params.level:
        case "error":
            data = events.SessionError(error_type=kind, message=params.message, url=params.url)
        case "warning":
            data = events.SessionWarning(warning_type=kind, message=params.message, url=params.url)
        case _:
            data = events.SessionInfo(
                info_type=kind, message=params.message, url=params.url, tip=params.tip
            )
    decision = settings.note(
        data, event_id, bool(params.ephemeral), methods.SessionLogResult(event_id=event_id)
    )
    return ctx.post(caller, params.session_id, lambda _: decision)


def register_interest(
    ctx: Context, caller: Caller, params: methods.SessionEventLogRegisterInterestParams
) -> methods.SessionEventLogRegisterInterestResult:
    """No event is sent on demand only, so a handle is all there is to it."""
    ctx.need_attached(caller, params.session_id)
    return methods.SessionEventLogRegisterInterestResult(handle=new_id())


def release_interest(
    ctx: Context, caller: Caller, params: methods.SessionEventLogReleaseInterestParams
) -> shapes.Success:
    ctx.need_attached(caller, params.session_id)
    return shapes.Success(success=True)
