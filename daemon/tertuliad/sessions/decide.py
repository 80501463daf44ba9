"""What a session does about each command: pure decisions over a folded state.

Every function takes the state and the command's facts and gives a `Decision`; it does not change
the state, reads no clock and raises only `RpcError`, for the command's sender. The actor commits
the stored drafts in one transaction, and only then answers, publishes everything in order, and
starts or stops the turn.

| state | command | becomes |
|---|---|---|
| no turn | send | turn |
| turn | send | turn, the message pending |
| turn | done, failed, abort, interrupt | the next pending message's turn, else no turn |
| any | log, rename, switch model, resume | the same |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events
from tertulia_protocol.config import SessionConfig, merged, stored
from tertulia_protocol.errors import Overloaded, SeqMoved, TurnBusy
from tertuliad import limits
from tertuliad.providers.base import Done, ProviderFailed, Target
from tertuliad.sessions import facts
from tertuliad.sessions.state import OpenTurn, SessionState, title_of, with_added

LOG_VERSION = 1
PRODUCER = "tertulia"
DEFAULT_WINDOW = 128_000
INTERRUPTED = (
    "The daemon stopped while this turn ran, and its answer is lost. Send the message again."
)


class Draft(msgspec.Struct, frozen=True):
    """An event that is decided and not yet numbered. `live_only` keeps a storable one unstored."""

    data: events.EventData
    live_only: bool = False
    id: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """`drafts` in their order of publication; `result` answers the command. With `keep_to` the log
    is rewound to that seq in the same step."""

    drafts: tuple[Draft, ...] = ()
    result: Any = None
    starts_turn: bool = False
    stops_turn: bool = False
    keep_to: int | None = None


class Progress(msgspec.Struct):
    """How far the running turn's answer has come. Lives in memory with the turn.

    The pieces from `shown_text` and `shown_reasoning` on were not published yet; `unsent` says that
    a command which does so is waiting.
    """

    turn_id: str
    message_id: str
    text: list[str] = []
    reasoning: list[str] = []
    shown_text: int = 0
    shown_reasoning: int = 0
    started: bool = False
    unsent: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a turn's model call ended, with its times in ms."""

    done: Done
    target: Target
    duration_ms: float
    first_delta_ms: float | None


def _drafts(*data: events.EventData) -> tuple[Draft, ...]:
    return tuple(Draft(item) for item in data)


def create(
    state: SessionState, config: SessionConfig, version: str, start_time: str, result: Any
) -> Decision:
    """The first two records of every session."""
    kept = stored(config)
    start = events.SessionStart(
        session_id=state.id,
        version=LOG_VERSION,
        producer=PRODUCER,
        copilot_version=version,
        start_time=start_time,
        selected_model=kept.model,
        reasoning_effort=kept.reasoning_effort,
        context=_context(kept),
    )
    return Decision(drafts=_drafts(start, facts.Configured(kept)), result=result)


def resume(
    state: SessionState,
    given: SessionConfig,
    *,
    resume_time: str,
    was_active: bool,
    continue_work: bool,
    silent: bool,
    result: Any,
) -> Decision:
    """Settings that were given replace the old ones; `silent` writes no `session.resume`."""
    config = stored(merged(state.config, given))
    drafts: list[events.EventData] = []
    if config != state.config:
        drafts.append(facts.Configured(config))
    if not silent:
        drafts.append(
            events.SessionResume(
                resume_time=resume_time,
                event_count=state.shown_events,
                continue_pending_work=continue_work,
                session_was_active=was_active,
                selected_model=config.model,
                reasoning_effort=config.reasoning_effort,
                context=_context(config),
            )
        )
    return Decision(drafts=_drafts(*drafts), result=result)


def _context(config: SessionConfig) -> events.WorkingDirectory | None:
    cwd = config.working_directory
    return events.WorkingDirectory(cwd=cwd) if cwd else None


def send(
    state: SessionState,
    message: facts.MessageQueued,
    result: Callable[[str], Any],
    *,
    if_idle: bool = False,
    expected_seq: int | None = None,
) -> Decision:
    """Start a turn, or put the message behind the one that runs. `result` gets the message's id:
    that of the first one, where a message with the same key was accepted before. Where messages
    were left waiting, sending one lets them go on."""
    if message.key is not None and message.key in state.keys:
        return Decision(result=result(state.keys[message.key]))
    _check_conditions(state, if_idle, expected_seq)
    answer = result(message.message_id)
    if state.turn is None and not state.pending and not state.paused:
        drafts = [Draft(events.PendingMessagesModified())]
        if state.title is None:
            drafts.append(Draft(events.SessionTitleChanged(title=title_of(message.content))))
        if message.key is not None:
            drafts.append(Draft(facts.Accepted(message.key, message.message_id)))
        drafts += _begin(state, message, "idle")
        return Decision(drafts=tuple(drafts), result=answer, starts_turn=True)
    check_room([*state.pending, message])
    drafts = [Draft(message), Draft(events.PendingMessagesModified())]
    if state.turn is not None or state.paused:
        return Decision(drafts=tuple(drafts), result=answer)
    drafts += _begin(state, with_added(state.pending, message)[0], "queued")
    return Decision(drafts=tuple(drafts), result=answer, starts_turn=True)


def check_room(pending: list[facts.MessageQueued]) -> None:
    """Raise `Overloaded` where more would wait than may."""
    if len(pending) > limits.PENDING_MESSAGES:
        raise Overloaded(
            f"{limits.PENDING_MESSAGES} messages wait for their turn in this session already;"
            " wait for session.idle."
        )
    if sum(map(_size, pending)) > limits.PENDING_BYTES:
        raise Overloaded(
            f"The messages that wait in this session would have more than {limits.PENDING_BYTES}"
            " bytes together; wait for session.idle."
        )


def _size(message: facts.MessageQueued) -> int:
    attached = sum(len(item.get("data") or "") for item in message.attachments or ())
    return len(message.content) + len(message.transformed_content or "") + attached


def _check_conditions(state: SessionState, if_idle: bool, expected_seq: int | None) -> None:
    if if_idle and (state.turn is not None or state.pending):
        raise TurnBusy(
            "A turn runs or messages wait, and the message was to be sent only if the session is"
            " idle. Wait for session.idle, or send without ifIdle.",
            {"seq": state.seq},
        )
    if expected_seq is not None and expected_seq != state.seq:
        raise SeqMoved(
            f"The session's log is at {state.seq}, not at {expected_seq}: somebody has written to"
            " it meanwhile. Read what is new, then send again.",
            {"seq": state.seq},
        )


def _begin(state: SessionState, message: facts.MessageQueued, delivery: Any) -> list[Draft]:
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
    return Decision(drafts=_drafts(*drafts))


def _current(state: SessionState, progress: Progress) -> bool:
    """Whether the turn that made the progress is still the one that runs."""
    return state.turn is not None and state.turn.id == progress.turn_id


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
    drafts += _drafts(_usage(outcome), _used(outcome), _usage_info(state, outcome))
    error = _unrun_tools(turn, outcome) or _cut_short(turn, progress, outcome)
    return _end(state, turn, drafts, error)


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
        model=outcome.target.display_name,
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
        error_type="not_supported",
        error_code="tools_not_run",
        message=f"The model asked to run {', '.join(names)}, and this version runs no tools yet."
        " Declare none, or hide them with excludedTools.",
        originating_message_id=turn.message_id,
    )


def _cut_short(
    turn: OpenTurn, progress: Progress, outcome: Outcome
) -> events.SessionWarning | None:
    if outcome.done.finish_reason != "length":
        return None
    return events.SessionWarning(
        warning_type="answer_cut",
        message="The answer reached the most tokens that the model may write and ends there.",
    )


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
    return _end(state, turn, [Draft(_call_failure(failure, model))], error)


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
    return Decision(drafts=_drafts(_call_failure(failure, model), retry))


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


def abort(state: SessionState, reason: Any, result: Any, *, go_on: bool = True) -> Decision:
    """End the running turn; what is pending keeps its turn, or without `go_on` stays pending.
    Nothing runs: nothing to do."""
    if state.turn is None:
        return Decision(result=result)
    drafts = [Draft(events.Abort(reason=reason))]
    decision = _end(state, state.turn, drafts, None, aborted=True, go_on=go_on)
    return msgspec.structs.replace(decision, result=result, stops_turn=True)


def shutdown(state: SessionState, kind: Any, reason: str | None) -> Decision:
    """End the running turn and write what the session took in all; it can be resumed."""
    ended = abort(state, "user_initiated", None, go_on=False)
    last = events.SessionShutdown(
        shutdown_type=kind,
        session_start_time=state.created_ms,
        total_api_duration_ms=sum(one.duration_ms for one in state.usage.values()),
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


def interrupt(state: SessionState, message: str = INTERRUPTED, *, go_on: bool = True) -> Decision:
    """End a turn that nobody runs any more. Without `go_on` the pending messages stay pending."""
    if state.turn is None:
        return Decision()
    error = events.SessionError(
        error_type="interrupted",
        message=message,
        originating_message_id=state.turn.message_id,
    )
    decision = _end(state, state.turn, [], error, go_on=go_on)
    return msgspec.structs.replace(decision, stops_turn=True)


def go_on(state: SessionState) -> Decision:
    """Start the turn of a message that was left pending."""
    if state.turn is not None or not state.pending or state.paused:
        return Decision()
    return Decision(drafts=tuple(_begin(state, state.pending[0], "queued")), starts_turn=True)


def _end(
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
        ahead = msgspec.structs.replace(state, pending=state.pending[1:])
        drafts += _begin(ahead, state.pending[0], "queued")
        return Decision(drafts=tuple(drafts), starts_turn=True)
    drafts.append(Draft(events.AssistantIdle(aborted=aborted)))
    drafts.append(Draft(events.SessionIdle(aborted=aborted)))
    return Decision(drafts=tuple(drafts))


def switch_model(
    state: SessionState, model: str, reasoning_effort: str | None, result: Any
) -> Decision:
    """Turns that start later go to `model`; the one that runs stays where it is."""
    change = events.SessionModelChange(
        new_model=model,
        previous_model=state.config.model,
        reasoning_effort=reasoning_effort,
        previous_reasoning_effort=state.config.reasoning_effort,
        source="sdk",
    )
    return Decision(drafts=_drafts(change), result=result)


def note(data: events.EventData, event_id: str, live_only: bool, result: Any) -> Decision:
    """A client's own line in the log."""
    return Decision(drafts=(Draft(data, live_only=live_only, id=event_id),), result=result)


def rename(name: str | None, result: Any) -> Decision:
    drafts: list[events.EventData] = [facts.Named(name)]
    if name:
        drafts.append(events.SessionTitleChanged(title=name))
    return Decision(drafts=_drafts(*drafts), result=result)


def describe(
    state: SessionState, metadata: dict[str, Any] | None, archived: bool | None, result: Any
) -> Decision:
    """Change the caller's own metadata (None members are taken out), or put the session away."""
    merged_metadata = {**(state.metadata or {}), **(metadata or {})}
    kept = {name: value for name, value in merged_metadata.items() if value is not None}
    described = facts.Described(
        metadata=kept or None, archived=state.archived if archived is None else archived
    )
    unchanged = described == facts.Described(metadata=state.metadata, archived=state.archived)
    return Decision(drafts=() if unchanged else _drafts(described), result=result)


def auto_name(state: SessionState, summary: str, result: Callable[[bool], Any]) -> Decision:
    """Give the session a title that a client made, unless somebody chose one."""
    if state.named:
        return Decision(result=result(False))
    title = title_of(summary)
    drafts = _drafts(facts.Named(title, auto=True), events.SessionTitleChanged(title=title))
    return Decision(drafts=drafts, result=result(True))


def rewind(
    state: SessionState,
    event_id: str,
    *,
    expected_seq: int,
    kept: int,
    removed: int,
    first_words: str | None,
    result: Any,
) -> Decision:
    """Leave out the event and what is behind it. `kept` is the seq before it; `removed` counts the
    shown events that go, and `first_words` are those of the first message that stays, both as of
    `expected_seq`."""
    if state.turn is not None:
        raise TurnBusy(
            "A turn runs in this session. Wait for session.idle, or end it with session.abort.",
            {"sessionId": state.id},
        )
    _check_conditions(state, False, expected_seq)
    carried = facts.Carried(
        config=state.config,
        turns=state.turns,
        name=state.name,
        auto_name=state.auto_name,
        first_words=first_words,
        metadata=state.metadata,
        archived=state.archived,
        parent=state.parent,
        pending=state.pending,
        paused=state.paused,
        keys=state.keys,
        usage=state.usage,
    )
    drafts = _drafts(
        facts.Rewound(kept=kept, removed=removed, carried=carried),
        events.SessionSnapshotRewind(up_to_event_id=event_id, events_removed=removed),
    )
    return Decision(drafts=drafts, result=result, keep_to=kept)
