"""Checkpoints: the write-ahead log goes back into the database as it grows, and keeps its length.

The rules of this file:
- A log that is too long is due, whoever wrote it: also many processes that live for a few changes
  each.
- A checkpoint is made beside the changes, by the reader's thread. Where they went on meanwhile, and
  the log has outgrown its length, another one is made with no change of ours beside it: then the
  next change begins the log anew, and SQLite cuts the file off at its length.
- A file that is several times too long is cut off at once: there may be no next change for long.
- Nobody waits for a lock in order to make one: what others still read stays for the next time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from tertuliad import limits
from tertuliad.store.log_file import LogFile
from tertuliad.store.schema import PAGE_BYTES

if TYPE_CHECKING:
    import sqlite3

FRAME_BYTES = 24 + PAGE_BYTES

Checkpoint = Callable[["sqlite3.Connection"], bool]
"""Answers whether the log has outgrown its length."""
Submit = Callable[[Checkpoint], Future[bool]]


class Checkpoints:
    """Has one under way at most."""

    def __init__(
        self, log: LogFile, *, beside: Submit, alone: Submit, lengthen: Callable[[], object]
    ) -> None:
        """`beside` has it made while changes go on, `alone` while none of ours is made. `lengthen`
        gives the file its length."""
        self._log = log
        self._beside = beside
        self._alone = alone
        self._lengthen = lengthen
        self._changes = 0
        """Since the last checkpoint."""
        self._unlooked = 0
        """Changes since the file's length was looked at."""
        self._too_long = limits.WAL_BYTES
        """With a file of more bytes one is due, however few the changes were."""
        self._busy = False

    def written(self, changes: int) -> None:
        """So many became durable."""
        size = self._log.size()
        self._look_at_length(changes, size)
        self._changes += changes
        if size <= limits.WAL_BYTES:
            self._too_long = limits.WAL_BYTES
        due = self._changes >= limits.WAL_CHANGES or size > self._too_long
        if due and not self._busy:
            self._changes = 0
            self._busy = True
            self._beside(checkpoint).add_done_callback(self._made_beside)

    def close(self) -> None:
        """Others may stay, and keep the log: what is too long is not left to them."""
        if self._changes and self._log.size() > limits.WAL_BYTES:
            self._beside(checkpoint)

    def _look_at_length(self, changes: int, size: int) -> None:
        self._unlooked += changes
        if self._unlooked >= limits.WAL_SHORT_CHANGES:
            self._unlooked = 0
            if size < limits.WAL_BYTES:
                self._lengthen()

    def _made_beside(self, done: Future[bool]) -> None:
        far = self._log.size() > limits.WAL_CUT_BYTES
        if done.exception() is None and (done.result() or far):
            self._alone(cut_off if far else checkpoint).add_done_callback(self._ended)
        else:
            self._ended(done)

    def _ended(self, _: Future[bool]) -> None:
        self._busy = False
        self._too_long = max(self._log.size(), limits.WAL_BYTES) + limits.WAL_BYTES // 4


def checkpoint(db: sqlite3.Connection) -> bool:
    """What others still read, or write meanwhile, is left."""
    return _outgrown(db, "PASSIVE")


def cut_off(db: sqlite3.Connection) -> bool:
    """A checkpoint that takes the file's length away too."""
    return _outgrown(db, "TRUNCATE")


def _outgrown(db: sqlite3.Connection, how: str) -> bool:
    _, frames, _ = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return bool(frames * FRAME_BYTES > limits.WAL_BYTES)
