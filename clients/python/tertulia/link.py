"""One blocking connection: a byte stream, the thread that reads it, and the core between them.

A `Link` dies with its stream. One lock guards the core, another keeps frames whole on the stream;
the reader takes the first only, and never waits for a caller. Whoever waits is woken when the
connection ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from tertulia import limits
from tertulia.attachments import Hold
from tertulia.calls import Params
from tertulia.core import Core
from tertulia.deadline import Deadline
from tertulia.errors import ConnectionLost, FellBehind, TertuliaError, Timeout, again
from tertulia.records import Event


class Stream(Protocol):
    """A byte stream to a daemon."""

    def read(self) -> bytes:
        """What has come, empty at the end. Raises OSError."""

    def write(self, data: bytes) -> None:
        """All of `data`. Raises OSError; a TimeoutError where the daemon takes nothing."""

    def reason(self) -> ConnectionLost:
        """Why the stream ended."""

    def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        """What a handshake failed with, of which the answer was waited for so long: as the caller
        is told it."""

    def hang_up(self) -> None:
        """Tell the daemon that nothing more comes. At once, idempotent."""

    def end(self) -> None:
        """End it from this side; a `read` that waits returns. Bounded, idempotent."""

    def release(self) -> None:
        """Free what is left, once nobody reads any more. At once, idempotent."""


def in_a_fork() -> TertuliaError:
    """For who goes on in a fork with what its parent has opened."""
    return TertuliaError(
        "This process is a fork of the one that opened the connection, which would miss the"
        " answers: make a client of its own here."
    )


class EventQueue:
    """A feed that threads can wait on. Every reader of it sees its end; none is in a fork."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._queue: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
        self._ended = False
        self._error: Exception | None = None

    def push(self, event: Event) -> None:
        if self._ended:
            return
        if self._queue.qsize() >= limits.FEED_EVENTS:
            self.end(FellBehind(f"{limits.FEED_EVENTS} events wait and nobody reads them."))
        else:
            self._queue.put(event)

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._error = error
            self._ended = True
            self._queue.put(error)

    def check(self) -> None:
        """Raise the error that it has ended with, if it has."""
        if self._error is not None:
            raise again(self._error)

    def take(self, timeout: float | None = None) -> Event | None:
        """The next event, None at a clean end. Raises the end's error, `queue.Empty`, or in a fork
        a `TertuliaError`."""
        if os.getpid() != self._owner:
            raise in_a_fork()
        item = self._queue.get(timeout=timeout)
        if isinstance(item, Event):
            return item
        self._queue.put(item)  # for whoever else waits, and for the next call
        if item is not None:
            raise again(item)
        return None


class Link:
    """A connection in use, from the first byte to the last."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._owner = os.getpid()
        self._core = Core()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._abandoned = False
        self._is_read = True
        self._reader = threading.Thread(target=self._read, name="tertulia reader", daemon=True)
        self._reader.start()

    @property
    def lost(self) -> bool:
        """Whether the connection is over."""
        return self._core.lost

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that opened it, to which the answers go."""
        return os.getpid() != self._owner

    def request(self, method: str, params: Any, timeout: float | None) -> Any:
        """The result. Raises an `RpcError`, `ConnectionLost`, or `Timeout` after `timeout` s."""
        return self._ask(method, lambda: self._core.request(method, params), timeout)

    def attach(self, method: str, params: Params, timeout: float | None, hold: Hold) -> Any:
        """As `request`, of what attaches to a session, which `hold` keeps attached."""
        return self._ask(method, lambda: self._core.attach(method, params, hold), timeout)

    def release(self, session_id: str, hold: Hold, timeout: float | None) -> None:
        """End what `hold` is for: its feeds, and after the last one of the session the attachment.
        That is asked for whatever is raised, unless the connection is lost."""
        with self._lock:
            answer = self._core.release(session_id, hold)
        deadline = Deadline(timeout)
        if answer is not None:
            with self._turn_to_write(timeout):
                self._flush()
            self._wait("session.detach", answer, timeout, deadline)

    def subscribe(self, session_id: str, hold: Hold) -> EventQueue:
        """The session's events from now on, for as long as the caller holds the queue."""
        feed = EventQueue()
        with self._lock:
            self._core.subscribe(session_id, feed, hold)
        return feed

    def close(self) -> None:
        """End the connection and whatever waits on it; in a fork, no more than its own copy of it.
        Idempotent; safe in any thread but the reader."""
        if self.is_inherited:
            self.stream.hang_up()
        else:
            self._lose(ConnectionLost("The client was closed."))
            self.stream.end()
            self._reader.join(timeout=limits.THREAD_JOIN_S)
        if not self._reader.is_alive():
            self.stream.release()

    def abandon(self) -> None:
        """Hang up, and leave the rest of `close` to the reader. At once, in any thread, whatever
        that one holds."""
        self._abandoned = True
        self.stream.hang_up()
        if not self._is_read:  # it was gone before
            self.stream.release()

    def _ask(self, method: str, ask: Callable[[], Future[Any]], timeout: float | None) -> Any:
        deadline = Deadline(timeout)
        with self._turn_to_write(timeout):
            with self._lock:
                answer = ask()
            self._flush()
        return self._wait(method, answer, timeout, deadline)

    def _wait(
        self, method: str, answer: Future[Any], timeout: float | None, deadline: Deadline
    ) -> Any:
        try:
            return answer.result(deadline.left())
        except TimeoutError:
            if answer.done():  # it came in this moment, or it is an error of this kind
                return answer.result()
            raise Timeout(f"No answer to {method} within {timeout:g} s", "it was sent") from None

    @contextlib.contextmanager
    def _turn_to_write(self, timeout: float | None) -> Iterator[None]:
        """Nobody else writes meanwhile. `Timeout` where another's write has not ended by then:
        nothing is left behind that would be sent later."""
        if not self._writing.acquire(timeout=-1 if timeout is None else timeout):
            raise Timeout(f"The daemon took no request within {timeout:g} s", "it was not sent")
        try:
            yield
        finally:
            self._writing.release()
            self._flush_left()

    def _flush_left(self) -> None:
        """Write what nobody waits to write; while somebody writes, that one does it behind it."""
        while self._core.has_outgoing and self._writing.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._writing.release()

    def _flush(self) -> None:
        """Write what the core has to say. Whatever ends that before its end, Ctrl-C in a caller
        among others, may leave half a frame on the stream, which is of no use then."""
        try:
            with self._lock:
                data = self._core.outgoing()
            if data:
                self.stream.write(data)
        except TimeoutError:
            self._lose(ConnectionLost(f"The daemon took no input for {limits.STALL_S:g} s."))
        except (OSError, ValueError):
            self._lose(self.stream.reason())
        except BaseException:
            self._lose(ConnectionLost("A request was interrupted while it was written."))
            raise

    def _read(self) -> None:
        try:
            while data := self.stream.read():
                with self._lock:
                    self._core.receive(data)
                    answers = self._core.has_outgoing
                if answers:
                    self._flush_left()
        except (OSError, ValueError):
            self._lose(self.stream.reason())
        except TertuliaError as error:
            self._lose(error)
        else:
            self._lose(self.stream.reason())
        finally:  # whatever happened: nobody may wait for a reader that is gone
            self._lose(ConnectionLost("The connection's reader failed."))
            self._is_read = False  # before the look: one of the two sees the other
            if self._abandoned:
                self.stream.end()
                self.stream.release()

    def _lose(self, error: Exception) -> None:
        with self._lock:
            self._core.lose(error)
