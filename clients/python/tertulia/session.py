"""A session of the blocking client: messages, turns, and who ends them.

A session's turns belong to the daemon: a wait that ends early, by its time-out or by an exception,
does not end the turn; `abort` does.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from tertulia import calls, params, queue_calls
from tertulia.attachments import Hold
from tertulia.calls import Call
from tertulia.deadline import Deadline
from tertulia.errors import ConnectionLost, RpcError, SessionNotFound, Timeout
from tertulia.link import EventQueue
from tertulia.records import Answer, Event, SendOptions
from tertulia.turn import BEGINNINGS, SENDING, Turn
from tertulia.upkeep import Upkeep

if TYPE_CHECKING:
    from tertulia.client import Client

T = TypeVar("T")


class Session(Upkeep):
    """A session that this client is attached to. It lives in the daemon; `close` detaches."""

    _client: Client

    def __init__(self, client: Client, session_id: str, hold: Hold) -> None:
        self.id = session_id
        self._client = client
        self._hold = hold

    def __repr__(self) -> str:
        return f"<Session {self.id}>"

    def attach(self) -> None:
        self._resume()
        self._hold.closed = False

    def _attach_again(self) -> None:
        self._resume()
        if self._hold.closed:
            self._client.release(self.id, self._hold)

    def _resume(self) -> None:
        self._client.reconnect()
        settings = params.resumed_session(self.id, {**params.SILENT})
        self._client.attach(calls.resume(settings), self._hold)

    def fork(
        self, at: str | None = None, *, name: str | None = None, new_session_id: str | None = None
    ) -> Session:
        """As `Client.fork_session`; the fork, attached to."""
        made = self._client.fork_session(self.id, at, name=name, new_session_id=new_session_id)
        return self._client.resume_session(made, **params.SILENT)

    def send(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> str:
        """Hand over a message; its id. It is stored when this returns, and its turn follows.
        Raises `TurnBusy` or `SeqMoved` where the `options` ask for what is not so."""
        given = params.message(self.id, prompt, attachments, {**options})
        return self._client.do(calls.send(given))

    def send_and_wait(
        self,
        prompt: str,
        timeout: float | None = None,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> Answer:
        """The answer to a message. Raises `TurnFailed`, `TurnAborted`, `ConnectionLost`,
        `MessageRemoved`, or `Timeout` after `timeout` seconds."""
        deadline = Deadline(timeout)
        feed, turn = self._begin(prompt, attachments, options, deadline)
        for _ in self._play(feed, turn, deadline):
            pass
        return turn.answer()

    def stream(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        timeout: float | None = None,
        **options: Unpack[SendOptions],
    ) -> TurnStream:
        """Send now; iterate over that turn's events up to `session.idle`. Raises at the end what
        `send_and_wait` raises. The `timeout` counts from this call on."""
        deadline = Deadline(timeout)
        feed, turn = self._begin(prompt, attachments, options, deadline)
        return TurnStream(self, turn, self._play(feed, turn, deadline))

    def events(self) -> Iterator[Event]:
        """The session's events from this call on, whoever caused them. Ends with `close`, or at
        once behind it; raises `ConnectionLost` with the connection, `SessionNotFound` once the
        session is deleted, or where a new connection has not attached to it."""
        return _live(self._client.subscribe(self.id, self._hold))

    def messages(self) -> list[Event]:
        """The history: every stored event, in order."""
        return self._client.do(calls.messages(self.id))

    def abort(self, message_id: str | None = None) -> bool:
        """End the turn that runs; without one it does nothing. With the id of a message, give up
        that one alone: its turn is ended, or it is taken out of the queue; False where it does
        neither run nor wait."""
        return self._client.do(calls.abort(self.id, message_id))

    def set_model(self, model: str, **more: Any) -> None:
        """Later turns go to `model`."""
        self._client.do(calls.set_model(self.id, model, more))

    def log(self, message: str, level: str = "info", *, ephemeral: bool = False) -> str:
        """Put a note of this client among the events: `info`, `warning` or `error`. Its id."""
        return self._client.do(calls.log(self.id, message, level, ephemeral))

    def close(self) -> None:
        """Detach: the session and a turn that runs stay in the daemon. Idempotent. Other objects of
        this client that stand for the same session go on; the last one that is closed detaches."""
        if self._hold.closed:
            return
        self._hold.closed = True
        with contextlib.suppress(ConnectionLost, RpcError):
            self._client.release(self.id, self._hold)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None,
        options: SendOptions,
        deadline: Deadline,
    ) -> tuple[EventQueue, Turn]:
        given = params.message(self.id, prompt, attachments, {**options})
        feed = self._client.subscribe(self.id, self._hold)  # first, so that no event is missed
        feed.check()  # before anything is sent: its turn would be seen by nobody
        if self._hold.closed:
            raise SessionNotFound.of(self.id)
        turn = Turn(self._in_time(calls.send(given), deadline), prompt)
        if "idempotency_key" in options:  # it may have been accepted, and answered, before
            turn.recall(self._stored_since(turn, deadline))
            if not turn.has_begun:
                self._check_waits(turn, deadline)
        return feed, turn

    def _stored_since(self, turn: Turn, deadline: Deadline) -> list[Event]:
        """The log, from its end back to the message of `turn`, or to the beginning."""
        page = self._in_time(calls.read_log(self.id, backward=True), deadline)
        found = list(page.events)
        while page.has_more and not turn.begins_in(page.events):
            page = self._in_time(calls.read_log(self.id, page.cursor), deadline)
            found[:0] = page.events
        return found

    def _play(
        self, feed: EventQueue, turn: Turn, deadline: Deadline
    ) -> Generator[Event, None, None]:
        yield from turn.recalled
        while not turn.over:
            event = _next(feed, turn, deadline)
            if turn.take(event):
                yield event
            elif turn.is_missed_by(event):
                self._check_waits(turn, deadline)
        turn.answer()

    def _check_waits(self, turn: Turn, deadline: Deadline) -> None:
        waiting = self._in_time(queue_calls.waiting(self.id), deadline, turn)
        last = calls.read_log(self.id, types=BEGINNINGS, backward=True)
        turn.raise_if_removed(waiting, self._in_time(last, deadline, turn))

    def _in_time(self, call: Call[T], deadline: Deadline, turn: Turn | None = None) -> T:
        """What a call comes to, in what is left of the time for `turn`, if that is known yet."""
        bound = deadline.bound(call)
        try:
            return self._client.do(bound)
        except Timeout:
            if bound is call:
                raise
            raise deadline.missed(SENDING if turn is None else turn.state) from None


class TurnStream(Iterator[Event]):
    """The events of one message's turn, as `Session.stream` gives them."""

    def __init__(self, session: Session, turn: Turn, events: Iterator[Event]) -> None:
        self.message_id = turn.message_id
        self._session = session
        self._turn = turn
        self._events = events

    def __next__(self) -> Event:
        return next(self._events)

    def stop(self) -> None:
        """Give the message up, and nobody else's: the iteration ends with `TurnAborted`, or with
        `MessageRemoved` where its turn had not begun. Safe in any thread."""
        self._turn.given_up = True
        self._session.abort(self.message_id)


def _next(feed: EventQueue, turn: Turn, deadline: Deadline) -> Event:
    try:
        event = feed.take(deadline.left())
    except queue.Empty:
        raise deadline.missed(turn.state) from None
    if event is None:
        raise ConnectionLost("The session was closed while its turn ran.")
    return event


def _live(feed: EventQueue) -> Generator[Event, None, None]:
    while (event := feed.take()) is not None:
        yield event
