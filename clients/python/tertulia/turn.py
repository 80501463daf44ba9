"""One turn, as a fold over its session's events. Pure.

A turn begins with the `user.message` that carries the id `session.send` answered: what came
before belongs to somebody else's turn. It ends with the `session.idle` behind its
`assistant.turn_end`, its failure or its abort: another one is late. Where more messages are queued
there is no idle between them, and the next turn's `user.message` ends this one. The last
`assistant.message` is the answer; an idle that says it was aborted, without an `abort` before it,
is the session's deletion; `session.error` makes the turn fail where it names its message:
others are lines that clients wrote.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tertulia.errors import MessageRemoved, SessionDeleted, TurnAborted, TurnFailed
from tertulia.records import Answer, Event, LogPage, Waiting

BEGINNINGS = ("user.message",)
"""What `raise_if_removed` wants to see of a log's end."""

SENDING = "the message was being sent"
"""How far it is with a turn that is not known yet, for people."""
NEEDS_PROVIDER = "provider_needed"
"""The `warningType` of a queue that waits until a client gives the session's provider."""
UNNAMED = ("store", "turn_lost")
"""The `errorType`s of a turn's failure that the daemon may tell without its message's id."""


class Turn:
    """The turn of the message `message_id`. Feed it every event of the session."""

    def __init__(self, message_id: str, prompt: str) -> None:
        self.message_id = message_id
        self.over = False
        self._prompt = prompt
        self.recalled: tuple[Event, ...] = ()
        self._events: list[Event] = []
        self._known: set[str] = set()
        self._earlier: set[str | None] = set()
        """Stored events of before the turn that was recalled."""
        self.given_up = False
        """Its client has asked that its message be taken back."""
        self._said_all = False
        self._warning = ""
        self._partial: list[str] = []
        self._text: str | None = None
        self._model: str | None = None
        self._aborted = False
        self._cut_off = False
        self._failure: TurnFailed | None = None

    def take(self, event: Event) -> bool:
        """Whether `event` belongs to this turn; it is folded in where it does."""
        if self.over or event.id in self._known or event.parent_id in self._earlier:
            return False
        if not (self._events or self._begins_with(event)):
            return False
        if self._events and self._begins_another(event):
            self.over = True
            return False
        if self._is_early(event):
            return False
        self._events.append(event)
        self._fold(event)
        return True

    def recall(self, stored: Sequence[Event]) -> None:
        """Fold in what the log has of a turn that may have begun, and ended, some time ago: what is
        `recalled`. Events of the log that come again are passed over, and so is what comes late of
        an earlier turn."""
        before = list(itertools.takewhile(lambda event: not self._begins_with(event), stored))
        self.recalled = tuple(event for event in stored if self.take(event))
        self._known = {event.id for event in stored if event.id}
        if self.recalled:
            self._earlier = {event.id for event in before}
            self._earlier |= {self.recalled[0].parent_id} - {None}
        self.over = self.over or self._said_all

    def begins_in(self, events: Sequence[Event]) -> bool:
        """Whether the turn's message is among `events`."""
        return any(self._begins_with(event) for event in events)

    def answer(self) -> Answer:
        """What the turn came to, once it is over. Raises `TurnAborted`, `SessionDeleted` or
        `TurnFailed`."""
        if self._aborted or self._cut_off:
            said = self._text or "".join(self._partial)
            raise SessionDeleted(said) if self._cut_off else TurnAborted(said)
        if self._failure is not None:
            raise self._failure
        return Answer(self._text or "", tuple(self._events), self.message_id, self._model)

    @property
    def has_begun(self) -> bool:
        """Whether its message was taken up."""
        return bool(self._events)

    def is_missed_by(self, event: Event) -> bool:
        """Of an event that was not taken: whether the session is idle before the turn's end, or the
        queue is another one after the message was given up. Where that is no news of before the
        turn, its message was taken out of the queue, or out of the log."""
        if event.type == "session.warning" and event.data.get("warningType") == NEEDS_PROVIDER:
            self._warning = str(event.data.get("message", ""))
        if event.type == "session.idle":
            return True
        changed = self.given_up and event.type == "pending_messages.modified"
        return changed and not self.has_begun

    def raise_if_removed(self, waiting: Waiting, last_messages: LogPage) -> None:
        """Raise `MessageRemoved` where the message neither waits nor was taken up. Those that steer
        wait without saying their ids."""
        waits = waiting.steering or any(item.id == self.message_id for item in waiting.items)
        if not waits and not self.begins_in(last_messages.events):
            raise MessageRemoved

    @property
    def state(self) -> str:
        """How far the turn is, for people."""
        if self.over:
            return "the turn is over"
        if not self.has_begun:
            why = f": {self._warning}" if self._warning else ""
            return f"the message waits for its turn{why}"
        deltas = sum(1 for event in self._events if event.type == "assistant.message_delta")
        last = self._events[-1]
        return f"the turn runs: {deltas} deltas so far, last event {last.type} at {last.timestamp}"

    def _begins_with(self, event: Event) -> bool:
        if event.type != "user.message":
            return False
        named = event.data.get("messageId")
        if named is None:
            return event.data.get("content") == self._prompt
        return bool(named == self.message_id)

    def _fold(self, event: Event) -> None:
        match event.type:
            case "assistant.message_delta":
                self._partial.append(str(event.data.get("deltaContent", "")))
            case "assistant.message":
                self._text = str(event.data.get("content", ""))
                self._model = event.data.get("model")
            case "abort":
                self._aborted = True
            case "session.error" if self._is_failed_by(event):
                self._failure = _failure(event)
            case "assistant.turn_end":
                self._said_all = True
            case "session.idle":
                self._cut_off = bool(event.data.get("aborted")) and not self._aborted
                self.over = True

    def _is_failed_by(self, error: Event) -> bool:
        named = error.data.get("originatingMessageId")
        if named is None:
            return error.data.get("errorType") in UNNAMED
        return bool(named == self.message_id)

    def _is_early(self, event: Event) -> bool:
        """An idle that the turn has not come to: another daemon's turn ended before it began."""
        ended = self._said_all or self._failure is not None or bool(event.data.get("aborted"))
        return event.type == "session.idle" and not ended

    def _begins_another(self, event: Event) -> bool:
        """A message that steers joins the turn that runs; any other one, and any one behind its
        end, starts a turn of its own."""
        steers = event.data.get("delivery") == "steering" and not self._said_all
        return event.type == "user.message" and not steers


def _failure(event: Event) -> TurnFailed:
    return TurnFailed(
        str(event.data.get("errorType", "error")),
        str(event.data.get("message", "The turn failed.")),
        event.data.get("statusCode"),
    )
