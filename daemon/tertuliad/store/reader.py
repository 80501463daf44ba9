"""Reads, which a thread does one after the other: one of all short reads, one of searches. Of those
who ask at the same time each has its turn."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tertuliad.askers import asker
from tertuliad.store.failures import REFUSALS, failure
from tertuliad.store.file import DatabaseFile
from tertuliad.store.worker import Worker

if TYPE_CHECKING:
    import asyncio
    import sqlite3

T = TypeVar("T")


class Reader:
    """Each piece of work stands for itself."""

    def __init__(self, name: str, file: DatabaseFile, loop: asyncio.AbstractEventLoop) -> None:
        self._file = file
        self._worker = Worker(name, loop)
        self._db: sqlite3.Connection | None = None

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Have it done, in the turn of whoever asks."""
        return self._worker.submit(partial(self._do, work), asker.get())

    def close(self) -> None:
        """What has not begun is refused: nobody is there to hear it."""
        self._worker.close(self._end, drop=True)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._db is None:
            self._db = self._file.open()
        try:
            return work(self._db)
        except REFUSALS:
            raise
        except Exception as error:
            raise failure(error, self._file.path) from error

    def _end(self) -> None:
        if self._db is not None:
            self._db.close()
