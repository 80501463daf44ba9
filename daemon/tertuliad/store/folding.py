"""The write-ahead log is folded back into the database as it grows, and kept at its length.

The rules of this file:
- What the log's length says has to be folded, whoever wrote it: also many processes that live for
  a few changes each.
- A fold is done beside the changes, by the reader's thread. Where they went on meanwhile, and the
  log has outgrown its length, the rest is folded with no change of ours beside it: then the next
  one begins the log anew, and SQLite cuts the file off at its length.
- A file that is several times too long is cut off at once: there may be no next change for long.
- Nobody waits for a lock in order to fold: what others still read stays for the next time.
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

Fold = Callable[["sqlite3.Connection"], bool]
"""Answers whether the log has outgrown its length."""
Submit = Callable[[Fold], Future[bool]]


class Folding:
    """Has one fold under way at most."""

    def __init__(
        self, log: LogFile, *, beside: Submit, alone: Submit, lengthen: Callable[[], object]
    ) -> None:
        """`beside` has it done while changes go on, `alone` while none of ours is made. `lengthen`
        gives the file its length."""
        self._log = log
        self._beside = beside
        self._alone = alone
        self._lengthen = lengthen
        self._unfolded = 0
        """Changes since the last fold."""
        self._unlooked = 0
        """Changes since the file's length was looked at."""
        self._too_long = limits.WAL_BYTES
        """A file of more bytes has to be folded, however few the changes were."""
        self._busy = False

    def written(self, changes: int) -> None:
        """So many became durable."""
        size = self._log.size()
        self._look_at_length(changes, size)
        self._unfolded += changes
        if size <= limits.WAL_BYTES:
            self._too_long = limits.WAL_BYTES
        due = self._unfolded >= limits.WAL_CHANGES or size > self._too_long
        if due and not self._busy:
            self._unfolded = 0
            self._busy = True
            self._beside(fold).add_done_callback(self._folded)

    def close(self) -> None:
        """Others may stay, and keep the log: what is too long is not left to them."""
        if self._unfolded and self._log.size() > limits.WAL_BYTES:
            self._beside(fold)

    def _look_at_length(self, changes: int, size: int) -> None:
        self._unlooked += changes
        if self._unlooked >= limits.WAL_SHORT_CHANGES:
            self._unlooked = 0
            if size < limits.WAL_BYTES:
                self._lengthen()

    def _folded(self, done: Future[bool]) -> None:
        far = self._log.size() > limits.WAL_CUT_BYTES
        if done.exception() is None and (done.result() or far):
            self._alone(cut_off if far else fold).add_done_callback(self._ended)
        else:
            self._ended(done)

    def _ended(self, _: Future[bool]) -> None:
        self._busy = False
        self._too_long = max(self._log.size(), limits.WAL_BYTES) + limits.WAL_BYTES // 4


def fold(db: sqlite3.Connection) -> bool:
    """What others still read, or write meanwhile, is left."""
    return _outgrown(db, "PASSIVE")


def cut_off(db: sqlite3.Connection) -> bool:
    """Fold, and take the file's length away."""
    return _outgrown(db, "TRUNCATE")


def _outgrown(db: sqlite3.Connection, how: str) -> bool:
    _, frames, _ = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return bool(frames * FRAME_BYTES > limits.WAL_BYTES)
