"""Methods that take a session back to an earlier message, for an attached caller."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import msgspec

from tertulia_protocol import shapes
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.errors import Draining, TurnBusy
from tertulia_protocol.methods import library as methods
from tertuliad.handlers.context import Caller, Context
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions import branching
from tertuliad.sessions.decide import Decision, rewinding
from tertuliad.sessions.loading import made_of
from tertuliad.sessions.refusals import overtaken
from tertuliad.sessions.state import SessionState
from tertuliad.store.base import Range, Record


def truncate(ctx: Context, caller: Caller, params: methods.SessionHistoryTruncateParams) -> Reply:
    removed = _rewound(ctx, caller, params.session_id, params.event_id)
    return mapped(removed, lambda n: methods.SessionHistoryTruncateResult(events_removed=n))


def _rewound(ctx: Context, caller: Caller, session_id: str, event_id: str) -> Reply:
    """Leave out the event and what is behind it; how many events that were. What is sent while the
    log is read for it comes after it."""
    cuts: list[rewinding.Cut] = []

    def read() -> Reply:
        found = Reply()

        async def run() -> None:
            try:
                cuts.append(await branching.cut_before(ctx.world.store, session_id, event_id))
                found.give(None)
            except Exception as error:  # noqa: BLE001 - the gate maps it
                found.fail(error)
            finally:
                found.fail(Draining.of("has left nothing out"))

        ctx.spawn(run)
        return found

    def command(state: SessionState) -> Decision:
        if not cuts:
            rewinding.check_no_turn(state)
            return Decision(after=read())
        cut = cuts.pop()
        if cut.head != state.seq:
            raise overtaken(session_id)
        return rewinding.rewind(state, event_id, cut, cut.removed)

    return ctx.post(caller, session_id, command)


def rewind(
    ctx: Context, caller: Caller, params: methods.SessionHistoryRewindParams
) -> Reply | methods.SessionHistoryRewindResult:
    ctx.need_attached(caller, params.session_id)
    if params.mode == "conversation-and-files":
        return _outcome(
            "file-change-tracking-disabled",
            error="Changes of files are not tracked; rewind the conversation alone.",
        )
    final = Reply()

    def done(removed: Future[Any]) -> None:
        error = removed.exception()
        if isinstance(error, TurnBusy):
            final.give(_outcome("session-busy", error=error.message))
        elif error is not None:
            final.fail(error)
        else:
            final.give(_outcome("success", events_removed=removed.result()))

    _rewound(ctx, caller, params.session_id, params.event_id).add_done_callback(done)
    return final


def _outcome(outcome: Any, **more: Any) -> methods.SessionHistoryRewindResult:
    return methods.SessionHistoryRewindResult(
        outcome=outcome, restored_files=[], skipped_files=[], **more
    )


class _Message(msgspec.Struct):
    content: str


class _UserEvent(msgspec.Struct):
    id: str
    timestamp: str
    data: _Message


async def rewind_points(
    ctx: Context, caller: Caller, params: shapes.SessionParams
) -> methods.SessionHistoryListRewindPointsResult:
    created_ms = ctx.need_attached(caller, params.session_id)
    busy = await ctx.sessions.running(params.session_id).settled()
    wanted = Range(types=("user.message",), created_ms=created_ms)
    records = await settled(ctx.read(params.session_id, wanted))
    points = made_of(ctx.world.store, records, lambda: [_point(record) for record in records])
    return methods.SessionHistoryListRewindPointsResult(
        file_change_tracking_enabled=False,
        unavailable_reason="session-busy" if busy else None,
        points=await settled(points),
    )


def _point(record: Record) -> methods.RewindPoint:
    event = json_decoder(_UserEvent).decode(record.body)
    return methods.RewindPoint(
        event_id=event.id,
        user_message=event.data.content,
        timestamp=event.timestamp,
        can_restore_files=False,
        file_count=0,
        turn_changed_files=False,
        lines_added=0,
        lines_removed=0,
        is_autopilot_continuation=False,
    )


async def preview_rewind(
    ctx: Context, caller: Caller, params: methods.SessionHistoryPreviewRewindParams
) -> methods.SessionHistoryPreviewRewindResult:
    ctx.need_attached(caller, params.session_id)
    await branching.place_before(ctx.world.store, params.session_id, params.event_id, "$.eventId")
    return methods.SessionHistoryPreviewRewindResult(
        available=False, reason="file-change-tracking-disabled", file_count=0, files=[]
    )
