"""Methods about what a session is: described, measured, said of it by its caller.

The caller has to be attached, but for the caller's own metadata and for what was used: whoever
keeps a list of sessions archives one, and adds them up, without opening them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import faults, shapes
from tertulia_protocol.methods import library as methods
from tertuliad import limits
from tertuliad.clock import iso
from tertuliad.handlers.context import Caller, Context, working_directory
from tertuliad.replies import Reply, mapped
from tertuliad.sessions.decide import Decision, settings
from tertuliad.sessions.state import SessionState
from tertuliad.store.base import Row

_encoder = msgspec.json.Encoder()


def snapshot(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    found = ctx.row(caller, params.session_id)
    others = ctx.hub.followers(params.session_id) - 1

    def answer(row: Row) -> methods.SessionMetadataSnapshotResult:
        return methods.SessionMetadataSnapshotResult(
            session_id=row.id,
            start_time=iso(row.created_ms),
            modified_time=iso(row.modified_ms),
            is_remote=False,
            already_in_use=others > 0,
            workspace_path=None,
            working_directory=row.cwd or working_directory(),
            current_mode="interactive",
            session_limits=None,
            workspace=None,
            initial_name=row.title if row.named else None,
            client_name=row.client_name,
            summary=row.title,
            selected_model=row.model,
        )

    return mapped(found, answer)


def is_processing(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:

    def answer(state: SessionState) -> Decision:
        runs = state.turn is not None
        return Decision(result=methods.SessionMetadataIsProcessingResult(processing=runs))

    return ctx.post(caller, params.session_id, answer)


def activity(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:

    def answer(state: SessionState) -> Decision:
        runs = state.turn is not None
        goes_on = bool(state.pending) and not state.paused
        return Decision(
            result=methods.SessionMetadataActivityResult(
                abortable=runs, has_active_work=runs or goes_on
            )
        )

    return ctx.post(caller, params.session_id, answer)


async def set_working_directory(
    ctx: Context, caller: Caller, params: methods.SessionMetadataSetWorkingDirectoryParams
) -> methods.SessionMetadataSetWorkingDirectoryResult:
    created_ms = ctx.need_attached(caller, params.session_id)
    folder = params.working_directory
    there = os.path.isabs(folder) and await ctx.files.look(
        "$.workingDirectory", lambda: os.path.isdir(folder)
    )
    if not there:
        raise faults.invalid(
            "$.workingDirectory", "this is not the absolute path of a folder that is there"
        )
    result = methods.SessionMetadataSetWorkingDirectoryResult(working_directory=folder)
    moved = ctx.sessions.post(
        params.session_id,
        lambda state: settings.move_to(state, folder, result),
        created_ms=created_ms,
    )
    done: methods.SessionMetadataSetWorkingDirectoryResult = await moved.settled()
    return done


def record_context(
    ctx: Context, caller: Caller, params: methods.SessionMetadataRecordContextChangeParams
) -> Reply:
    return ctx.post(
        caller,
        params.session_id,
        lambda state: settings.note_context(state, params.context, methods.Nothing()),
    )


def describe(ctx: Context, caller: Caller, params: methods.SessionMetadataUpdateParams) -> Reply:
    return ctx.sessions.post(
        params.session_id,
        lambda state: described(state, params.metadata, params.archived, "$.metadata", _metadata),
    )


def described(
    state: SessionState,
    metadata: dict[str, Any] | None,
    archived: bool | None,
    path: str,
    result: Callable[[Any], Any],
) -> Decision:
    """The caller's own metadata changed; `result` is made of what has `metadata` and `archived` as
    they are then. Raises `InvalidParams` for `path` where it is too large."""
    decision = settings.describe(state, metadata, archived, None)
    now: Any = decision.drafts[0].data if decision.drafts else state
    if len(_encoder.encode(now.metadata)) > limits.METADATA_BYTES:
        raise faults.invalid(
            path,
            f"a session's metadata has at most {limits.METADATA_BYTES} bytes."
            " Make it smaller, or take members out of it by null",
        )
    return msgspec.structs.replace(decision, result=result(now))


def get(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return ctx.sessions.post(params.session_id, lambda state: Decision(result=_metadata(state)))


def _metadata(of: Any) -> methods.SessionMetadataGetResult:
    """Of a state, or of the fact that changes it."""
    return methods.SessionMetadataGetResult(metadata=of.metadata or {}, archived=of.archived)


def usage(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return ctx.sessions.post(params.session_id, lambda state: Decision(result=_usage(state)))


def _usage(state: SessionState) -> methods.SessionUsageGetMetricsResult:
    return methods.SessionUsageGetMetricsResult(
        total_premium_request_cost=0,
        total_user_requests=state.turns - state.inherited_turns,
        total_api_duration_ms=state.model_ms,
        session_start_time=iso(state.created_ms),
        code_changes=methods.CodeChanges(
            lines_added=0, lines_removed=0, files_modified_count=0, files_modified=[]
        ),
        model_metrics={
            model: methods.ModelMetric(
                requests=methods.ModelRequests(count=each.calls, cost=0),
                usage=methods.ModelUsage(
                    input_tokens=each.input_tokens,
                    output_tokens=each.output_tokens,
                    cache_read_tokens=each.cached_tokens,
                    cache_write_tokens=0,
                    reasoning_tokens=each.reasoning_tokens,
                ),
            )
            for model, each in state.usage.items()
        },
        last_call_input_tokens=state.last_usage[0],
        last_call_output_tokens=state.last_usage[1],
        current_model=state.config.model,
    )
