"""A thread that does one job after another, so that the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.replies import Reply

T = TypeVar("T")


class Worker:
    """Started by its first job, so that starting the daemon never waits for the disk."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._context = contextvars.copy_context()
        """What follows from a job runs in it: in the thread's own, which is empty, anyio would not
        know the event loop where `sniffio` is installed."""
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Reply] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done; the future is completed on the event loop's thread."""
        if self._closed:
            return Reply.failed(StoreFailed("The store is closed: the daemon is stopping."))
        reply = Reply()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((job, reply))
        return reply

    def close(self, last: Callable[[], None]) -> None:
        """Do what was submitted, then `last`, and end the thread."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put((last, Reply()))
            self._jobs.put(None)
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
            result = job()
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            outcome = partial(reply.fail, error)
        else:
            outcome = partial(reply.give, result)
        # Where the event loop is gone, so are all who waited.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(outcome, context=self._context)
        return True
