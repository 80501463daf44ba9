"""A thread that owns a connection to the database, and does what is submitted to it.

The writer takes whatever waits as one transaction (group commit). A member of a group that is
refused does not touch the others; a member that fails half-way sends the group back, and each is
tried alone. Futures are completed on the event loop's thread, a whole group in one call.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from tertulia_protocol.errors import InvalidParams, StoreFailed
from tertuliad import limits
from tertuliad.store.base import AlreadyThere, HeadMoved, NotThere

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
Work = Callable[["sqlite3.Connection"], Any]
Job = tuple[Work, "Future[Any]"]
Open = Callable[[], "sqlite3.Connection"]
CallSoon = Callable[[Callable[[], None]], Any]
"""Runs a function on the event loop's thread, from any thread."""

REFUSALS = (HeadMoved, AlreadyThere, NotThere, InvalidParams)
"""Raised by work before it has changed anything."""


class Worker:
    """Started by the first job, so that starting the daemon never waits for the disk."""

    def __init__(
        self,
        name: str,
        open_: Open,
        call_soon: CallSoon,
        *,
        batch: int,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`batch` 1: jobs only read, and each stands for itself. `ready` raises where a group
        cannot be done."""
        self._name = name
        self._open = open_
        self._call_soon = call_soon
        self._batch = batch
        self._ready = ready
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(StoreFailed("The store is closed: the daemon is stopping."))
            return future
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """Do what was submitted, then end the thread."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(limits.SHUTDOWN_GRACE_S)

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        while True:
            group, last = self._next_group()
            if group:
                try:
                    db = db or self._open()
                    self._ready()
                    outcomes = self._do(db, group)
                except Exception as error:  # noqa: BLE001 - it goes to whoever waits
                    outcomes = [failure(error)] * len(group)
                self._report(group, outcomes)
            if last:
                break
        if db is not None:
            db.close()

    def _next_group(self) -> tuple[list[Job], bool]:
        """The jobs to do together, and whether they are the last."""
        group: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) >= self._batch:
                return group, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _do(self, db: sqlite3.Connection, group: list[Job]) -> list[Any]:
        if self._batch == 1:
            return [_outcome(db, group[0][0])]
        outcomes: list[Any] = []
        for works in ([work for work, _ in group], *([work] for work, _ in group)):
            try:
                done = _commit(db, works)
            except _Busy as busy:
                # Tried alone, each would wait as long again.
                left = len(group) - len(outcomes)
                return outcomes + [failure(busy.error)] * left
            except Exception as error:  # noqa: BLE001 - it goes to whoever waits
                if len(works) == 1:
                    outcomes.append(failure(error))
            else:
                outcomes += done
            if len(outcomes) == len(group):
                break
        return outcomes

    def _report(self, group: list[Job], outcomes: list[Any]) -> None:
        def complete() -> None:
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

        try:
            self._call_soon(complete)
        except RuntimeError:
            return  # the event loop is gone, and with it all who waited


class _Busy(Exception):
    """Another process has held the write lock for as long as we wait."""

    def __init__(self, error: sqlite3.Error) -> None:
        super().__init__(error)
        self.error = error


def _commit(db: sqlite3.Connection, works: list[Work]) -> list[Any]:
    """Do `works` in one transaction; what it raises has undone all of them."""
    import sqlite3

    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise _Busy(error) from error
    try:
        outcomes = [_outcome(db, work) for work in works]
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return outcomes


def _outcome(db: sqlite3.Connection, work: Work) -> Any:
    """The result of `work`, or the refusal that it raised."""
    try:
        return work(db)
    except REFUSALS as refusal:
        return refusal


def failure(error: Exception, where: object = None) -> Exception:
    """`error` as it goes to whoever waits."""
    import sqlite3

    if isinstance(error, sqlite3.Error | OSError):
        at = f" at {where}" if where is not None else ""
        return StoreFailed(f"The session store{at} failed: {error}. {_advice(str(error))}")
    return error


def _advice(text: str) -> str:
    if "locked" in text or "busy" in text:
        return "Another process holds it; try again."
    if any(sign in text for sign in ("malformed", "not a database", "decode to UTF-8")):
        return "The file is damaged; it was left as it is. `tertulia doctor` looks into it."
    if "full" in text:
        return "Free some disk space and try again."
    return "Check that the data folder exists and can be written; `tertulia doctor` looks into it."
