"""One turn, as a fold over its session's events. Pure.

A turn begins with the `user.message` that carries the id `session.send` answered: what came
before belongs to somebody else's turn. It ends with `session.idle`; where more messages are queued
there is no idle between them, and the next turn's `user.message` ends this one. The last
`assistant.message` is the answer; `session.error` makes the turn fail, except where a client merely
logged it.
"""

from __future__ import annotations

from tertulia.errors import TurnAborted, TurnFailed
from tertulia.records import Answer, Event

LOGGED = "notification"
"""The `errorType` of an error that a client wrote with `session.log`: no fault of the turn."""


class Turn:
    """The turn of the message `message_id`. Feed it every event of the session."""

    def __init__(self, message_id: str, prompt: str) -> None:
        self.message_id = message_id
        self.over = False
        self._prompt = prompt
        self._events: list[Event] = []
        self._partial: list[str] = []
        self._text: str | None = None
        self._model: str | None = None
        self._aborted = False
        self._failure: TurnFailed | None = None

    def take(self, event: Event) -> bool:
        """Whether `event` belongs to this turn; it is folded in where it does."""
        if self.over or not (self._events or self._begins_with(event)):
            return False
        if self._events and _begins_another(event):
            self.over = True
            return False
        self._events.append(event)
        self._fold(event)
        return True

    def answer(self) -> Answer:
        """What the turn came to, once it is over. Raises `TurnAborted` or `TurnFailed`."""
        if self._aborted:
            raise TurnAborted(self._text or "".join(self._partial))
        if self._failure is not None:
            raise self._failure
        return Answer(self._text or "", tuple(self._events), self.message_id, self._model)

    @property
    def state(self) -> str:
        """How far the turn is, for people."""
        if self.over:
            return "the turn is over"
        if not self._events:
            return "the message waits for its turn"
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
            case "session.error" if event.data.get("errorType") != LOGGED:
                self._failure = _failure(event)
            case "session.idle":
                self._aborted = self._aborted or bool(event.data.get("aborted"))
                self.over = True


def _begins_another(event: Event) -> bool:
    """A message that steers joins the turn that runs; any other one starts a turn of its own."""
    return event.type == "user.message" and event.data.get("delivery") != "steering"


def _failure(event: Event) -> TurnFailed:
    return TurnFailed(
        str(event.data.get("errorType", "error")),
        str(event.data.get("message", "The turn failed.")),
        event.data.get("statusCode"),
    )
