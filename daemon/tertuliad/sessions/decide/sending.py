"""A message is accepted: it starts a turn, or waits behind the one that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tertulia_protocol import events, faults
from tertulia_protocol.attachments import chars_of
from tertulia_protocol.errors import Overloaded, SeqMoved, TurnBusy
from tertuliad import limits
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, Draft
from tertuliad.sessions.decide.turns import begin
from tertuliad.sessions.state import SessionState, title_of, with_added

_WAITS_FOR_PROVIDER = events.SessionWarning(
    warning_type="provider_needed",
    message="The messages of this session wait: the key of its provider was given to an earlier"
    " process and is kept nowhere. Resume the session with its provider and key, or empty the"
    " queue.",
)


def send(
    state: SessionState,
    message: facts.MessageQueued,
    result: Callable[[str], Any],
    *,
    if_idle: bool = False,
    expected_seq: int | None = None,
    has_keys: bool = True,
) -> Decision:
    """Start a turn, or put the message behind the one that runs. `result` gets the message's id:
    that of the first one, where a message with the same key was accepted before. Where messages
    were left waiting, sending one lets them go on, unless they wait for the keys of their model:
    without `has_keys` it waits with them."""
    before = accepted_before(state, message, result, if_idle, expected_seq)
    if before is not None:
        return before
    answer = result(message.message_id)
    if state.turn is None and not state.pending and not state.paused:
        drafts = [Draft(events.PendingMessagesModified())]
        if state.title is None and (title := title_of(message.content)):
            drafts.append(Draft(events.SessionTitleChanged(title=title)))
        if message.key is not None:
            drafts.append(Draft(facts.Accepted(message.key, message.message_id)))
        drafts += begin(state, message, "idle")
        return Decision(drafts=tuple(drafts), result=answer, starts_turn=True)
    check_room(state, [*state.pending, message])
    drafts = [Draft(message), Draft(events.PendingMessagesModified())]
    if state.turn is None and not has_keys:
        drafts.append(Draft(_WAITS_FOR_PROVIDER, live_only=True))
    if state.turn is not None or state.paused or not has_keys:
        return Decision(drafts=tuple(drafts), result=answer)
    drafts += begin(state, with_added(state.pending, message)[0], "queued")
    return Decision(drafts=tuple(drafts), result=answer, starts_turn=True)


def accepted_before(
    state: SessionState,
    message: facts.MessageQueued,
    result: Callable[[str], Any],
    if_idle: bool,
    expected_seq: int | None,
) -> Decision | None:
    """What to do about a message whose key was accepted before: nothing, with the first one's id.
    None for a new one; `TurnBusy` and `SeqMoved` where it is not wanted as the session is now."""
    if message.key is not None and message.key in state.keys:
        return Decision(result=result(state.keys[message.key]))
    if if_idle:
        _check_idle(state)
    if expected_seq is not None:
        check_seq(state, expected_seq)
    return None


def _check_idle(state: SessionState) -> None:
    if state.turn is not None or state.pending:
        advice, retry_ms = _until_idle(state, limits.TURN_RETRY_MS)
        raise TurnBusy(
            "A turn runs or messages wait, and the message was to be sent only if the session is"
            f" idle; without ifIdle it waits as well. {advice}",
            {"seq": state.seq},
            retry_ms=retry_ms,
        )


def _until_idle(state: SessionState, retry_ms: int) -> tuple[str, int | None]:
    """What to do until the messages that wait are gone, and when to try again, if that helps."""
    if state.pending and state.paused:
        return (
            "The queue is paused: let it go on with session.queue.setDrainPaused, or empty it with"
            " session.queue.clear.",
            None,
        )
    if state.pending and state.turn is None:
        return (
            "They were left waiting: session.resume lets them go on, and session.queue.clear"
            " forgets them.",
            None,
        )
    return "Wait for session.idle.", retry_ms


def check_seq(state: SessionState, expected: int) -> None:
    """Raise `SeqMoved` where the log does not end at `expected`."""
    if expected != state.seq:
        raise SeqMoved(
            f"The session's log is at {state.seq}, not at {expected}: somebody has written to"
            " it meanwhile. Read what is new, then send again.",
            {"seq": state.seq},
        )


def check_room(state: SessionState, pending: list[facts.MessageQueued]) -> None:
    """Raise `Overloaded` where more would wait than may."""
    if len(pending) > limits.PENDING_MESSAGES:
        over = f"{limits.PENDING_MESSAGES} messages wait for their turn in this session already."
    elif sum(map(size_of, pending)) > limits.PENDING_BYTES:
        over = (
            f"The messages that wait in this session would have more than {limits.PENDING_BYTES}"
            " bytes together."
        )
    else:
        return
    advice, retry_ms = _until_idle(state, limits.PENDING_RETRY_MS)
    raise Overloaded(f"{over} {advice}", retry_ms=retry_ms)


def size_of(message: facts.MessageQueued) -> int:
    """What it takes while it waits, in characters."""
    return _given_size(message) + len(message.transformed_content or "")


def check_size(message: facts.MessageQueued, path: str) -> None:
    """Raise `InvalidParams` for one that is too long as it was given, at `path`."""
    size = _given_size(message)
    if size > limits.PROMPT_BYTES:
        raise faults.invalid(
            path,
            f"the message has {size} characters with all that belongs to it, more than the"
            f" {limits.PROMPT_BYTES} that are taken. Make it shorter, or send it in parts",
        )


def _given_size(message: facts.MessageQueued) -> int:
    texts = (message.content, message.display, message.source)
    return sum(len(text or "") for text in texts) + chars_of(message.attachments)
