"""Decisions about the messages that wait for their turn: looked at, edited, put in another order.

Each edit stores the queue as it is then, in one fact. Messages that steer come first. Positions
count those behind them, from 0, and one outside of the queue is its nearer end. An id is that of
the message, as `session.send` answered it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, Draft, sending
from tertuliad.sessions.facts import MessageQueued
from tertuliad.sessions.state import SessionState

Pending = list[MessageQueued]


def _stored(state: SessionState, pending: Pending, result: Any) -> Decision:
    """The queue as it is from now on."""
    changed = facts.QueueChanged(pending=pending, paused=state.paused)
    drafts = (Draft(changed), Draft(events.PendingMessagesModified()))
    left = {item.message_id for item in pending}
    gone = tuple(item.message_id for item in state.pending if item.message_id not in left)
    return Decision(drafts=drafts, result=result, taken_out=gone)


def _grown(state: SessionState, pending: Pending, result: Any) -> Decision:
    """As `_stored`, where more waits than before. Raises `Overloaded` where that is too much."""
    sending.check_room(state, pending)
    return _stored(state, pending, result)


def _place(state: SessionState, message_id: str) -> int | None:
    ids = [item.message_id for item in state.pending]
    return ids.index(message_id) if message_id in ids else None


def steering(state: SessionState) -> Pending:
    """The messages that go before all others."""
    return [item for item in state.pending if item.first]


def waiting(state: SessionState) -> Pending:
    """The messages that can be put in another order."""
    return [item for item in state.pending if not item.first]


def _within(position: int, pending: Pending) -> int:
    return min(max(position, 0), len(pending))


def move(
    state: SessionState, message_id: str, position: int, result: Callable[[bool], Any]
) -> Decision:
    """Put a waiting message at `position`."""
    before = waiting(state)
    moved = [item for item in before if item.message_id == message_id]
    after = [item for item in before if item.message_id != message_id]
    place = _within(position, after)
    after[place:place] = moved
    if after == before:
        return Decision(result=result(False))
    return _stored(state, [*steering(state), *after], result(True))


def insert(
    state: SessionState,
    message: MessageQueued,
    position: int,
    result: Callable[[str], Any],
    *,
    if_idle: bool = False,
    expected_seq: int | None = None,
    has_keys: bool = True,
) -> Decision:
    """Put a new message at `position`; all else is as with `sending.send`. Where nothing runs or
    waits, it is a turn at once."""
    before = sending.accepted_before(state, message, result, if_idle, expected_seq)
    if before is not None:
        return before
    if message.first or (state.turn is None and not state.pending and not state.paused):
        return sending.send(state, message, result, has_keys=has_keys)
    pending = waiting(state)
    pending.insert(_within(position, pending), message)
    grown = _grown(state, [*steering(state), *pending], result(message.message_id))
    if message.key is None:
        return grown
    accepted = Draft(facts.Accepted(message.key, message.message_id))
    return msgspec.structs.replace(grown, drafts=(accepted, *grown.drafts))


def remove(state: SessionState, message_id: str, result: Callable[[bool], Any]) -> Decision:
    place = _place(state, message_id)
    if place is None:
        return Decision(result=result(False))
    return _stored(state, state.pending[:place] + state.pending[place + 1 :], result(True))


def remove_last(state: SessionState, result: Callable[[bool], Any]) -> Decision:
    """Take back the message that was put last."""
    if not state.pending:
        return Decision(result=result(False))
    return _stored(state, state.pending[:-1], result(True))


def edit(
    state: SessionState,
    message_id: str,
    prompt: str,
    display: str | None,
    result: Callable[[bool], Any],
) -> Decision:
    """Give a waiting message other words. Attachments stay, as they were read when it came."""
    place = _place(state, message_id)
    if place is None:
        return Decision(result=result(False))
    old = state.pending[place]
    attached = (old.transformed_content or old.content)[len(old.content) :]
    new = msgspec.structs.replace(
        old,
        content=prompt,
        display=display,
        transformed_content=prompt + attached if attached else None,
    )
    sending.check_size(new, "$")
    pending = [*state.pending[:place], new, *state.pending[place + 1 :]]
    store = _grown if sending.size_of(new) > sending.size_of(old) else _stored
    return store(state, pending, result(True))


def duplicate(
    state: SessionState, message_id: str, new_id: str, result: Callable[[str], Any]
) -> Decision | None:
    """Put a copy behind the message; None: it does not wait."""
    place = _place(state, message_id)
    if place is None:
        return None
    copy = msgspec.structs.replace(state.pending[place], message_id=new_id, key=None)
    pending = [*state.pending[: place + 1], copy, *state.pending[place + 1 :]]
    return _grown(state, pending, result(new_id))


def send_now(state: SessionState, message_id: str, result: Callable[[bool], Any]) -> Decision:
    """Put a waiting message before all others, as one that steers the running turn."""
    place = _place(state, message_id)
    if place is None or state.turn is None:
        return Decision(result=result(False))
    first = msgspec.structs.replace(state.pending[place], first=True)
    pending = [first, *state.pending[:place], *state.pending[place + 1 :]]
    return _stored(state, pending, result(True))


def clear(state: SessionState, result: Any) -> Decision:
    if not state.pending:
        return Decision(result=result)
    return _stored(state, [], result)


def pause(state: SessionState, paused: bool, result: Any) -> Decision:
    """Take up no waiting message until told to go on."""
    if paused == state.paused:
        return Decision(result=result)
    changed = facts.QueueChanged(pending=list(state.pending), paused=paused)
    return Decision(drafts=(Draft(changed),), result=result)
