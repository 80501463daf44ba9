"""Who waits for what a session will publish: for its being idle, or for the end of one turn."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import msgspec

from tertulia_protocol import events
from tertulia_protocol.errors import SessionNotFound, cancelled
from tertuliad.replies import Reply
from tertuliad.sessions import facts
from tertuliad.sessions.sealed import Sealed


class TurnEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the turn of one message ended. `answer` is the last `assistant.message` as an event;
    `error` with its event's id; `idle_id` is the event that made the session idle with it. A
    message that was taken out of the queue is `aborted`."""

    answer: bytes | None
    aborted: bool = False
    error: events.SessionError | None = None
    error_id: str | None = None
    idle_id: str | None = None


class _Watch(msgspec.Struct):
    """`turn_id` None: the message waits for its turn."""

    reply: Reply
    message_id: str
    turn_id: str | None = None
    answer: bytes | None = None
    looked_up: bool = False
    """The message was handled elsewhere, and the log is read for what became of it."""


class _Waiting(Reply):
    """A reply that whoever asked may give up: it fails as cancelled then."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def cancel(self) -> bool:
        self._waits.leave(self)
        return False


class Waits:
    """Lives with the session's actor. Its replies are completed in the order of publication, and
    can be cancelled."""

    __slots__ = ("_idle", "_quiet", "_turns")

    def __init__(self) -> None:
        # Tuples: mostly empty, and then they take nothing.
        self._idle: tuple[Reply, ...] = ()
        self._quiet: tuple[Reply, ...] = ()
        self._turns: tuple[_Watch, ...] = ()

    @property
    def any(self) -> bool:
        """Whether somebody waits."""
        return bool(self._idle or self._quiet or self._turns)

    def for_idle(self) -> Reply:
        """Completed with None when no turn runs and no message is pending."""
        reply = _Waiting(self)
        self._idle = (*self._idle, reply)
        return reply

    def for_quiet(self) -> Reply:
        """Completed with None when no turn runs; messages of a paused queue may wait."""
        reply = _Waiting(self)
        self._quiet = (*self._quiet, reply)
        return reply

    def for_turn(self, message_id: str, turn_id: str | None) -> Reply:
        """Completed with the `TurnEnd` of the message's turn, which has not ended yet; `turn_id`
        if it has begun."""
        watch = _Watch(_Waiting(self), message_id, turn_id)
        self._turns = (*self._turns, watch)
        return watch.reply

    def leave(self, reply: Reply) -> None:
        """Whoever waited for `reply` has given it up."""
        self._idle = tuple(each for each in self._idle if each is not reply)
        self._quiet = tuple(each for each in self._quiet if each is not reply)
        self._turns = tuple(each for each in self._turns if each.reply is not reply)
        reply.fail(cancelled())

    def idle(self) -> None:
        waiting, self._idle = self._idle, ()
        for reply in waiting:
            reply.give(None)

    def quiet(self) -> None:
        waiting, self._quiet = self._quiet, ()
        for reply in waiting:
            reply.give(None)

    def missed(self, known: Mapping[str, str | None]) -> set[str]:
        """Which of the messages that somebody waits for are not `known` any more, now that the log
        was folded anew: another process has handled them, and `settle` tells what became of them.
        `known` are the messages that wait for their turn, and the one that has it, with its turn's
        id."""
        missed = set()
        for watch in self._turns:
            if watch.message_id in known:
                watch.turn_id = known[watch.message_id]
            elif not watch.looked_up:
                watch.looked_up = True
                missed.add(watch.message_id)
        return missed

    def settle(self, missed: set[str], ends: Future[dict[str, TurnEnd]]) -> None:
        """What became of messages was read from the log; where it does not say, it may yet. Where
        it cannot be read, who waits is told so."""
        error = ends.exception()
        found = ends.result() if error is None else {}
        for watch in [each for each in self._turns if each.message_id in missed]:
            watch.looked_up = False
            if error is not None:
                self._pop([watch])
                watch.reply.fail(error)
            elif (end := found.get(watch.message_id)) is not None:
                self._pop([watch])
                watch.reply.give(end)

    def fail(self, error: BaseException) -> None:
        """The session is gone, or cannot say how the turns ended."""
        watches, self._turns = self._turns, ()
        for watch in watches:
            watch.reply.fail(error)
        if isinstance(error, SessionNotFound):
            waiting, self._idle = self._idle, ()
            for reply in waiting:
                reply.fail(error)
        self.idle()
        self.quiet()

    def see(self, sealed: list[Sealed]) -> None:
        """Take note of events that are published together."""
        if not self._turns:
            return
        ended: list[_Watch] = []
        aborted = False
        error: Sealed | None = None
        idle_id = None
        for item in sealed:
            match item.data:
                case events.UserMessage(message_id=message_id, turn_id=turn_id):
                    for watch in self._of(message_id):
                        watch.turn_id = turn_id
                case events.AssistantMessage(originating_message_id=message_id):
                    for watch in self._of(message_id):
                        watch.answer = item.body
                case events.AssistantTurnEnd(turn_id=turn_id):
                    ended += self._pop([each for each in self._turns if each.turn_id == turn_id])
                case events.Abort():
                    aborted = True
                case events.SessionError():
                    error = item
                case events.SessionIdle():
                    idle_id = item.id
                case facts.QueueChanged(pending=pending):
                    self._taken_out({waiting.message_id for waiting in pending})
                case _:
                    pass
        for watch in ended:
            watch.reply.give(_end(watch, aborted, error, idle_id))

    def _of(self, message_id: str | None) -> list[_Watch]:
        return [watch for watch in self._turns if watch.message_id == message_id]

    def _taken_out(self, left: set[str]) -> None:
        """The queue was edited: a message that is not in it any more gets no turn."""
        waiting = [each for each in self._turns if each.turn_id is None and not each.looked_up]
        for watch in self._pop([each for each in waiting if each.message_id not in left]):
            watch.reply.give(TurnEnd(answer=None, aborted=True))

    def _pop(self, over: list[_Watch]) -> list[_Watch]:
        self._turns = tuple(watch for watch in self._turns if watch not in over)
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
