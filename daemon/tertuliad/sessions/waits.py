"""Who waits for what a session will publish: for its being idle, or for the end of one turn."""

from __future__ import annotations

import msgspec

from tertulia_protocol import events
from tertuliad.replies import Reply
from tertuliad.sessions.sealed import Sealed


class TurnEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the turn of one message ended. `answer` is the last `assistant.message` as an event;
    `error` with its event's id; `idle_id` is the event that made the session idle with it."""

    answer: bytes | None
    aborted: bool = False
    error: events.SessionError | None = None
    error_id: str | None = None
    idle_id: str | None = None


class _Watch(msgspec.Struct):
    reply: Reply
    turn_id: str | None = None
    answer: bytes | None = None


class Waits:
    """Lives with the session's actor. Its replies are completed in the order of publication."""

    def __init__(self) -> None:
        self._idle: list[Reply] = []
        self._turns: dict[str, _Watch] = {}

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._idle or self._turns)

    def for_idle(self) -> Reply:
        """Completed with None when no turn runs and no message is pending."""
        reply = Reply()
        self._idle.append(reply)
        return reply

    def for_turn(self, message_id: str) -> Reply:
        """Completed with the `TurnEnd` of the message's turn, which has not begun yet."""
        watch = self._turns[message_id] = _Watch(Reply())
        return watch.reply

    def idle(self) -> None:
        waiting, self._idle = self._idle, []
        for reply in waiting:
            reply.give(None)

    def fail(self, error: BaseException) -> None:
        """The session is gone, or cannot say how the turns ended."""
        watches, self._turns = self._turns, {}
        for watch in watches.values():
            watch.reply.fail(error)
        self.idle()

    def see(self, sealed: list[Sealed]) -> None:
        """Take note of events that are published together."""
        if not self._turns:
            return
        ended = {}
        aborted = False
        error: Sealed | None = None
        idle_id = None
        for item in sealed:
            match item.data:
                case events.UserMessage(message_id=str(message_id), turn_id=turn_id):
                    if message_id in self._turns:
                        self._turns[message_id].turn_id = turn_id
                case events.AssistantMessage(originating_message_id=str(message_id)):
                    if message_id in self._turns:
                        self._turns[message_id].answer = item.body
                case events.AssistantTurnEnd(turn_id=turn_id):
                    ended.update(self._pop(turn_id))
                case events.Abort():
                    aborted = True
                case events.SessionError():
                    error = item
                case events.SessionIdle():
                    idle_id = item.id
                case _:
                    pass
        for watch in ended.values():
            watch.reply.give(_end(watch, aborted, error, idle_id))

    def _pop(self, turn_id: str) -> dict[str, _Watch]:
        over = {key: watch for key, watch in self._turns.items() if watch.turn_id == turn_id}
        for key in over:
            del self._turns[key]
        return over


def _end(watch: _Watch, aborted: bool, error: Sealed | None, idle_id: str | None) -> TurnEnd:
    fault = error.data if error is not None else None
    return TurnEnd(
        answer=watch.answer,
        aborted=aborted,
        error=fault if isinstance(fault, events.SessionError) else None,
        error_id=error.id if error is not None else None,
        idle_id=idle_id,
    )
