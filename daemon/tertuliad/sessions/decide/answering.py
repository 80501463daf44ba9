"""What comes of a turn's model call: pieces of the answer, the whole of it, or its failure.

`Progress` belongs to one turn. What is told of a turn that has ended meanwhile changes nothing. A
model's failure is an event of the session, not an answer to anybody's request.
"""

from __future__ import annotations

import msgspec

from tertulia_protocol import events
from tertuliad.providers.base import Done, ProviderFailed, Target
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, Draft, drafts_of
from tertuliad.sessions.decide.turns import end
from tertuliad.sessions.state import OpenTurn, SessionState

DEFAULT_WINDOW = 128_000
TOOLS = "not_supported"
"""The `errorType` of a turn whose model asked to run a tool."""


class Progress(msgspec.Struct):
    """How far the running turn's answer has come. Lives in memory with the turn.

    The pieces from `shown_text` and `shown_reasoning` on were not published yet; `unsent` says that
    a command which does so is waiting; `over` that the call was hung up on, and nothing of it
    counts any more.
    """

    turn_id: str
    message_id: str
    text: list[str] = []
    reasoning: list[str] = []
    shown_text: int = 0
    shown_reasoning: int = 0
    started: bool = False
    unsent: bool = False
    over: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a turn's model call ended, with its times in ms."""

    done: Done
    target: Target
    duration_ms: float
    first_delta_ms: float | None


def delta(state: SessionState, progress: Progress) -> Decision:
    """Pieces of the answer, shown only where the session streams. Marks them as shown."""
    text = "".join(progress.text[progress.shown_text :])
    reasoning = "".join(progress.reasoning[progress.shown_reasoning :])
    progress.shown_text, progress.shown_reasoning = len(progress.text), len(progress.reasoning)
    progress.unsent = False
    if not _current(state, progress) or not state.config.streaming:
        return Decision()
    drafts: list[events.EventData] = []
    if (text or reasoning) and not progress.started:
        progress.started = True
        drafts.append(events.AssistantMessageStart(message_id=progress.message_id))
    if reasoning:
        drafts.append(
            events.AssistantReasoningDelta(
                reasoning_id=progress.message_id, delta_content=reasoning
            )
        )
    if text:
        drafts.append(
            events.AssistantMessageDelta(message_id=progress.message_id, delta_content=text)
        )
    return Decision(drafts=drafts_of(*drafts))


def _current(state: SessionState, progress: Progress) -> bool:
    """Whether the turn that made the progress is still the one that runs."""
    turn = state.turn
    return turn is not None and turn.id == progress.turn_id and not progress.over


def done(state: SessionState, progress: Progress, outcome: Outcome) -> Decision:
    """The model has answered."""
    turn = state.turn
    if turn is None or not _current(state, progress):
        return Decision()
    drafts: list[Draft] = []
    reasoning = "".join(progress.reasoning)
    if reasoning:
        drafts.append(
            Draft(events.AssistantReasoning(reasoning_id=progress.message_id, content=reasoning))
        )
    drafts.append(Draft(_answer(turn, progress, outcome, reasoning)))
    drafts += drafts_of(_usage(outcome), _used(outcome), _usage_info(state, outcome))
    error = _unrun_tools(turn, outcome) or _cut_short(outcome)
    return end(state, turn, drafts, error)


def _answer(
    turn: OpenTurn, progress: Progress, outcome: Outcome, reasoning: str
) -> events.AssistantMessage:
    calls = [
        events.ToolRequest(
            tool_call_id=call.id, name=call.name, arguments=call.arguments, type="function"
        )
        for call in outcome.done.tool_calls
    ]
    return events.AssistantMessage(
        message_id=progress.message_id,
        content="".join(progress.text),
        model=outcome.target.display_name,
        tool_requests=calls or None,
        reasoning_text=reasoning or None,
        output_tokens=outcome.done.usage.output_tokens,
        interaction_id=turn.message_id,
        turn_id=turn.id,
        api_call_id=outcome.done.call_id,
        originating_message_id=turn.message_id,
    )


def _usage(outcome: Outcome) -> events.AssistantUsage:
    usage = outcome.done.usage
    return events.AssistantUsage(
        model=outcome.target.display_name,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        duration=round(outcome.duration_ms, 1),
        time_to_first_token_ms=(
            None if outcome.first_delta_ms is None else round(outcome.first_delta_ms, 1)
        ),
        finish_reason=outcome.done.finish_reason,
        api_call_id=outcome.done.call_id,
        api_endpoint="/chat/completions",
        is_byok=True,
    )


def _used(outcome: Outcome) -> facts.Used:
    usage = outcome.done.usage
    return facts.Used(
        model=outcome.target.id or outcome.target.display_name,
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cached_tokens=usage.cached_tokens or 0,
        reasoning_tokens=usage.reasoning_tokens or 0,
        duration_ms=round(outcome.duration_ms, 1),
    )


def _usage_info(state: SessionState, outcome: Outcome) -> events.SessionUsageInfo:
    usage = outcome.done.usage
    counted = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    return events.SessionUsageInfo(
        token_limit=outcome.target.context_window or DEFAULT_WINDOW,
        current_tokens=counted or max(1, state.said_chars // 4),
        messages_length=state.messages + 1,
    )


def _unrun_tools(turn: OpenTurn, outcome: Outcome) -> events.SessionError | None:
    names = sorted({call.name for call in outcome.done.tool_calls})
    if not names:
        return None
    return events.SessionError(
        error_type=TOOLS,
        error_code="tools_not_run",
        message=f"The model asked to run {', '.join(names)}, and this version runs no tools yet."
        " Declare none, or hide them with excludedTools.",
        originating_message_id=turn.message_id,
    )


_CUT_SHORT = {
    "length": "The answer reached the most tokens that the model may write and ends there.",
    "content_filter": "The provider's filter has cut the answer, or kept it back.",
}
"""What is said of an answer, by the reason why it ends."""


def _cut_short(outcome: Outcome) -> events.SessionWarning | None:
    told = _CUT_SHORT.get(outcome.done.finish_reason)
    return None if told is None else events.SessionWarning(warning_type="answer_cut", message=told)


def retrying(
    state: SessionState,
    progress: Progress,
    failure: ProviderFailed,
    model: str | None,
    wait_s: float,
) -> Decision:
    """The model call failed and will be tried again: those who watch see that, and the log does
    not change."""
    if not _current(state, progress):
        return Decision()
    reason = f"{failure.message} Trying again in {wait_s:.1f} s."
    retry = events.AssistantTurnRetry(turn_id=progress.turn_id, model=model, reason=reason)
    return Decision(drafts=drafts_of(_call_failure(failure, model), retry))


def failed(
    state: SessionState, progress: Progress, failure: ProviderFailed, model: str | None
) -> Decision:
    """The model call failed: an event of the session, not an answer to anybody's request."""
    turn = state.turn
    if turn is None or not _current(state, progress):
        return Decision()
    error = events.SessionError(
        error_type=failure.kind,
        message=failure.message,
        error_code=failure.code,
        status_code=failure.status,
        originating_message_id=turn.message_id,
    )
    return end(state, turn, [Draft(_call_failure(failure, model))], error)


def _call_failure(failure: ProviderFailed, model: str | None) -> events.ModelCallFailure:
    return events.ModelCallFailure(
        source="top_level",
        model=model,
        error_type=failure.kind,
        error_code=failure.code,
        error_message=failure.message,
        status_code=failure.status,
        failure_kind="api" if failure.status is not None else "transport",
        is_byok=True,
    )
