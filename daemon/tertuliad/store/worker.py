"""A thread that does one job after another, so that the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from tertulia_protocol.errors import StoreFailed, cancelled
from tertuliad import limits
from tertuliad.replies import Reply

T = TypeVar("T")


CLOSED = "The store is closed, as the daemon is stopping: connect again when another one runs."


class _Asked(Reply):
    """What a job will answer. Whoever asked may leave: one that has not begun is not done then."""

    given_up = False

    def cancel(self) -> bool:
        self.given_up = True
        return False


Job = tuple[Callable[[], Any], _Asked]


class _Jobs:
    """What waits to be done, by who asked for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._there: queue.SimpleQueue[None] = queue.SimpleQueue()
        """One for each that waits."""
        self._by_asker: dict[int, deque[Job]] = {}
        """In the order of their turns."""
        self._last: list[Job | None] = []

    def put(self, asker: int, job: Job) -> None:
        with self._lock:
            self._by_asker.setdefault(asker, deque()).append(job)
        self._there.put(None)

    def close(self, last: Job, *, drop: bool) -> list[Job]:
        """Behind all others comes `last`, and then the end. With `drop`, the others are taken out
        and given back."""
        dropped: list[Job] = []
        with self._lock:
            self._last = [last, None]
            if drop:
                dropped = [job for jobs in self._by_asker.values() for job in jobs]
                self._by_asker = {}
        for _ in (last, None):
            self._there.put(None)
        return dropped

    def get(self) -> Job | None:
        """The next, once there is one; None: the end."""
        self._there.get()
        with self._lock:
            if not self._by_asker:  # at the end, or what waited was taken out
                return self._last.pop(0)
            asker = next(iter(self._by_asker))
            jobs = self._by_asker.pop(asker)
            job = jobs.popleft()
            if jobs:
                self._by_asker[asker] = jobs  # behind the others
            return job


class Worker:
    """Started by its first job, so that starting the daemon never waits for the disk."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._context = contextvars.copy_context()
        """What follows from a job runs in it: in the thread's own, which is empty, anyio would not
        know the event loop where `sniffio` is installed."""
        self._jobs = _Jobs()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], T], asker: int = 0) -> Future[T]:
        """Have a job done; the future is completed on the event loop's thread. Of several `asker`s
        each has its turn; the jobs of one are done in their order."""
        if self._closed:
            return Reply.failed(StoreFailed(CLOSED))
        reply = _Asked()
        try:
            self._start()
        except RuntimeError as error:
            refusal = StoreFailed(
                f"The store has no thread to work in ({error}). The system's bound of threads is"
                " reached; try again.",
                retry_ms=limits.STORE_RETRY_MS,
            )
            self._loop.call_soon(reply.fail, refusal)
        else:
            self._jobs.put(asker, (job, reply))
        return reply

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def close(self, last: Callable[[], None], *, drop: bool = False) -> None:
        """Do what was submitted, then `last`, and end the thread. With `drop`, what has not begun
        is refused instead."""
        self._closed = True
        if self._thread is not None:
            for _, reply in self._jobs.close((last, _Asked()), drop=drop):
                reply.fail(StoreFailed(CLOSED))
            self._thread.join(limits.SHUTDOWN_GRACE_S)

    def _run(self) -> None:
        while self._next_done():
            pass

    def _next_done(self) -> bool:
        """Do the next job; False: there will be none. Nothing of it is kept while the next one is
        waited for: it may be large."""
        item = self._jobs.get()
        if item is None:
            return False
        job, reply = item
        try:
            if reply.given_up:
                raise cancelled()
            result = job()
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            outcome = partial(reply.fail, error)
        else:
            outcome = partial(reply.give, result)
        # Where the event loop is gone, so are all who waited.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(outcome, context=self._context)
        return True
