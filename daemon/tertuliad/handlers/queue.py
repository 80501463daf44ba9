"""Methods about the messages that wait for their turn, and about letting a session rest. The caller
has to be attached."""

from __future__ import annotations

from tertulia_protocol import faults, shapes
from tertulia_protocol.methods import log as methods_log
from tertuliad.handlers.context import Caller, Context, on_success
from tertuliad.handlers.conversation import put_message
from tertuliad.ids import new_id
from tertuliad.replies import Reply, mapped
from tertuliad.sessions.decide import Decide, Decision, queue, turns
from tertuliad.sessions.facts import MessageQueued
from tertuliad.sessions.state import SessionState


def pending_items(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    def command(state: SessionState) -> Decision:
        result = methods_log.SessionQueuePendingItemsResult(
            items=[_item(message) for message in queue.waiting(state)],
            steering_messages=[_shown(message) for message in queue.steering(state)],
            paused=state.paused,
            needs_provider=bool(state.pending)
            and state.turn is None
            and not ctx.world.has_keys(state),
        )
        return Decision(result=result)

    return ctx.post(caller, params.session_id, command)


def has_pending(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    def command(state: SessionState) -> Decision:
        return Decision(
            result=methods_log.SessionQueueHasPendingResult(has_pending=bool(state.pending))
        )

    return ctx.post(caller, params.session_id, command)


def process(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    ctx.need_attached(caller, params.session_id)
    return ctx.sessions.go_on(params.session_id)


def _item(message: MessageQueued) -> methods_log.QueueItem:
    return methods_log.QueueItem(
        id=message.message_id,
        message_id=message.message_id,
        kind="message",
        display_text=_shown(message),
        agent_mode=message.agent_mode or "interactive",
        source=message.source,
    )


def _shown(message: MessageQueued) -> str:
    return message.display if message.display is not None else message.content


def move(ctx: Context, caller: Caller, params: methods_log.SessionQueueMoveItemParams) -> Reply:
    def command(state: SessionState) -> Decision:
        return queue.move(
            state,
            params.id,
            params.to_position,
            lambda changed: methods_log.Changed(changed=changed),
        )

    return ctx.post(caller, params.session_id, command)


def insert(ctx: Context, caller: Caller, params: methods_log.SessionQueueInsertAtParams) -> Reply:
    given = params.message

    def command(state: SessionState, message: MessageQueued) -> Decision:
        return queue.insert(
            state,
            message,
            params.position,
            lambda message_id: message_id,
            if_idle=bool(given.if_idle),
            expected_seq=given.expected_seq,
            has_keys=ctx.world.has_keys(state),
        )

    reply = put_message(ctx, caller, params.session_id, given, command, "$.message")
    return mapped(reply, lambda accepted: methods_log.ItemId(id=accepted))


def remove(ctx: Context, caller: Caller, params: methods_log.QueueItemParams) -> Reply:
    def command(state: SessionState) -> Decision:
        return queue.remove(state, params.id, lambda removed: methods_log.Removed(removed=removed))

    return ctx.post(caller, params.session_id, command)


def remove_most_recent(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    def command(state: SessionState) -> Decision:
        return queue.remove_last(state, lambda removed: methods_log.Removed(removed=removed))

    return ctx.post(caller, params.session_id, command)


def clear(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return ctx.post(caller, params.session_id, lambda state: queue.clear(state, None))


def edit(ctx: Context, caller: Caller, params: methods_log.SessionQueueUpdateTextParams) -> Reply:
    def command(state: SessionState) -> Decision:
        return queue.edit(
            state,
            params.id,
            params.prompt,
            params.display_prompt,
            lambda updated: methods_log.Updated(updated=updated),
        )

    return ctx.post(caller, params.session_id, command)


def duplicate(ctx: Context, caller: Caller, params: methods_log.QueueItemParams) -> Reply:
    copy_id = new_id()

    def command(state: SessionState) -> Decision:
        decision = queue.duplicate(
            state, params.id, copy_id, lambda copy: methods_log.ItemId(id=copy)
        )
        if decision is None:
            raise faults.invalid(
                "$.id", f"no message {params.id} waits; session.queue.pendingItems lists them"
            )
        return decision

    def with_headers() -> None:
        headers = ctx.world.request_headers
        headers.keep(params.session_id, copy_id, headers.of(params.session_id, params.id))

    return on_success(ctx.post(caller, params.session_id, command), with_headers)


def set_paused(
    ctx: Context, caller: Caller, params: methods_log.SessionQueueSetDrainPausedParams
) -> Reply:
    reply = ctx.post(
        caller, params.session_id, lambda state: queue.pause(state, params.paused, None)
    )
    if params.paused:
        return reply
    return on_success(reply, lambda: ctx.sessions.go_on(params.session_id))


def send_now(ctx: Context, caller: Caller, params: methods_log.QueueItemParams) -> Reply:
    def command(state: SessionState) -> Decision:
        return queue.send_now(
            state, params.id, lambda steered: methods_log.Steered(steered=steered)
        )

    return ctx.post(caller, params.session_id, command)


# A session rests


def suspend(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return _rested(
        ctx,
        caller,
        params.session_id,
        lambda state: turns.abort(state, "user_initiated", None, go_on=False),
    )


def shutdown(ctx: Context, caller: Caller, params: methods_log.SessionShutdownParams) -> Reply:
    kind = params.type or "routine"
    return _rested(
        ctx,
        caller,
        params.session_id,
        lambda state: turns.shutdown(state, kind, params.reason),
    )


def _rested(ctx: Context, caller: Caller, session_id: str, command: Decide) -> Reply:
    """Have `command` done before those that wait, and the session let go from memory."""
    reply = ctx.post(caller, session_id, command, first=True)
    return on_success(reply, lambda: ctx.sessions.release_soon(session_id))
