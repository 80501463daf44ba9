"""How a turn begins, and how it ends by somebody's will or by nobody's fault.

Every turn begins in `begin` and ends in `end`, whatever the reason: after its last events comes the
next pending message's turn, or the session is idle.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tertulia_protocol import events
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, Draft
from tertuliad.sessions.state import OpenTurn, SessionState

LOST = "turn_lost"
"""The `errorType` of a turn that ended with the process that ran it: no model has failed."""
INTERRUPTED = (
    "The daemon stopped while this turn ran, and its answer is lost. Send the message again."
)
UNDELETED = (
    "The session was to be deleted, which ended this turn, and is still there: deleting it failed."
    " The turn's answer is lost; send the message again."
)
UNSTORED = "This turn's end could not be stored, and its answer is lost. Send the message again."


def begin(
    state: SessionState, message: facts.MessageQueued, delivery: events.Delivery
) -> list[Draft]:
    """The message as the log has it, and its turn's start. `delivery`: how it came to its turn."""
    turn_id = str(state.turns)
    if delivery == "queued" and message.first:
        delivery = "steering"
    user = events.UserMessage(
        content=message.content,
        transformed_content=message.transformed_content,
        attachments=message.attachments,
        agent_mode=message.agent_mode,
        source=message.source,
        delivery=delivery,
        message_id=message.message_id,
        interaction_id=message.message_id,
        turn_id=turn_id,
    )
    start = events.AssistantTurnStart(turn_id=turn_id, interaction_id=message.message_id)
    return [Draft(user), Draft(start)]


def go_on(state: SessionState) -> Decision:
    """Start the turn of a message that was left pending."""
    if state.turn is not None or not state.pending or state.paused:
        return Decision()
    return Decision(drafts=tuple(begin(state, state.pending[0], "queued")), starts_turn=True)


def end(
    state: SessionState,
    turn: OpenTurn,
    drafts: list[Draft],
    error: events.EventData | None,
    *,
    aborted: bool = False,
    go_on: bool = True,
) -> Decision:
    """The turn's last events: then the next pending message's turn, or the session is idle."""
    drafts.append(Draft(events.AssistantTurnEnd(turn_id=turn.id)))
    if error is not None:
        drafts.append(Draft(error))
    if state.pending and go_on and not state.paused:
        drafts.append(Draft(events.PendingMessagesModified()))
        drafts += begin(state, state.pending[0], "queued")
        return Decision(drafts=tuple(drafts), starts_turn=True)
    drafts.append(Draft(events.AssistantIdle(aborted=aborted)))
    drafts.append(Draft(events.SessionIdle(aborted=aborted)))
    return Decision(drafts=tuple(drafts))


def abort(
    state: SessionState, reason: events.AbortReason, result: Any, *, go_on: bool = True
) -> Decision:
    """End the running turn; what is pending keeps its turn, or without `go_on` stays pending.
    Nothing runs: nothing to do."""
    if state.turn is None:
        return Decision(result=result)
    drafts = [Draft(events.Abort(reason=reason))]
    decision = end(state, state.turn, drafts, None, aborted=True, go_on=go_on)
    return msgspec.structs.replace(decision, result=result, stops_turn=True)


def interrupt(
    state: SessionState,
    message: str = INTERRUPTED,
    *,
    go_on: bool = True,
    turn_id: str | None = None,
) -> Decision:
    """End a turn that nobody runs any more: the one of `turn_id`, or whichever is open. Without
    `go_on` the pending messages stay pending."""
    if state.turn is None or turn_id not in (None, state.turn.id):
        return Decision()
    error = events.SessionError(
        error_type=LOST,
        message=message,
        originating_message_id=state.turn.message_id,
    )
    decision = end(state, state.turn, [], error, go_on=go_on)
    return msgspec.structs.replace(decision, stops_turn=True)


def shutdown(state: SessionState, kind: events.ShutdownType, reason: str | None) -> Decision:
    """End the running turn and write what the session took in all; it can be resumed."""
    ended = abort(state, "user_initiated", None, go_on=False)
    last = events.SessionShutdown(
        shutdown_type=kind,
        session_start_time=state.created_ms,
        total_api_duration_ms=state.model_ms,
        code_changes=events.CodeChanges(lines_added=0, lines_removed=0, files_modified=[]),
        model_metrics={model: _metrics(totals) for model, totals in state.usage.items()},
        current_model=state.config.model,
        error_reason=reason,
    )
    return msgspec.structs.replace(ended, drafts=(*ended.drafts, Draft(last)))


def _metrics(totals: facts.Totals) -> dict[str, Any]:
    return {
        "requests": {"count": totals.calls},
        "usage": {
            "inputTokens": totals.input_tokens,
            "outputTokens": totals.output_tokens,
            "cacheReadTokens": totals.cached_tokens,
            "cacheWriteTokens": 0,
            "reasoningTokens": totals.reasoning_tokens,
        },
    }
