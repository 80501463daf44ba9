"""Changes of the database: made on the event loop's thread, which never waits for the disk.

The rules of this file:
- Small changes are made on the loop's thread. In the page cache they take some tens of
  microseconds; a thread that made them would wait for the interpreter's lock at each statement,
  and take it from the loop. What was submitted in one round of the loop, and while the disk was
  busy, is made as one transaction (group commit); what else was begun in that round is on its way
  to others by then, such as a request to a model.
- The write-ahead log is synced by the kernel on its own (`kernel_sync`), or where it does not offer
  that by the thread; a change is answered after that. Meanwhile the next ones gather.
- What may take long (`heavy`), what failed at the first attempt, and what meets the lock of another
  process is done whole by the thread, and the later changes wait behind it. Who asks for much that
  is heavy leaves the others their turn (`changes`).
- After a sync that failed nothing is answered before SQLite itself has brought the log into the
  database: what the kernel forgot of the log would be a hole, and nothing behind it could be read.
- A member of a group that is refused does not touch the others; where one fails half-way, each is
  tried alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.askers import asker
from tertuliad.replies import Reply
from tertuliad.store.changes import Change, Changes, Work
from tertuliad.store.durable import sync_file, sync_folder
from tertuliad.store.failures import REFUSALS, failure
from tertuliad.store.file import DatabaseFile
from tertuliad.store.log_file import LogFile
from tertuliad.store.worker import CLOSED, Worker

if TYPE_CHECKING:
    import sqlite3

    from tertuliad.store.kernel_sync import KernelSync

T = TypeVar("T")


class Writer:
    """Those of one asker are made in the order in which they were submitted."""

    def __init__(
        self,
        file: DatabaseFile,
        loop: asyncio.AbstractEventLoop,
        on_written: Callable[[int], None],
    ) -> None:
        """`on_written` learns how many changes became durable."""
        self._file = file
        self._loop = loop
        self._worker = Worker("store-writer", loop)
        self._on_written = on_written
        self._context = contextvars.copy_context()
        """What follows from a commit is nobody's: it runs in the context of the store's making."""
        self._db: sqlite3.Connection | None = None
        self.log = LogFile(file.path)
        self._kernel: KernelSync | None = None
        self._kernel_asked = False
        self._waiting = Changes()
        self.last: Future[Any] | None = None
        """The answer to what was submitted last."""
        self._busy = False
        """Changes were made, or the thread makes them, and they are not durable yet."""
        self._away = False
        """The thread has the connection."""
        self._doubtful = False
        """A sync has failed."""
        self._is_placed = False
        """That the log is a file of its folder is durable, as far as that can be had."""
        self._closed = False

    @property
    def at_hand(self) -> sqlite3.Connection | None:
        """The connection, for what is read quickly; None: there is none yet, or the thread has
        it."""
        return None if self._away else self._db

    def submit(self, work: Callable[[sqlite3.Connection], T], *, heavy: bool = False) -> Future[T]:
        return self._put(Change(work, Reply(), heavy=heavy))

    def submit_bare(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Have `work` done by the thread outside of any transaction, while no change is made; it
        does not wait for a lock."""
        return self._put(Change(work, Reply(), heavy=True, bare=True))

    def lengthen_log(self) -> None:
        """Have the log's next changes written inside its file. Where that fails, they are written
        behind its end, as before."""
        self.submit(lambda db: self.log.lengthen(), heavy=True)

    def _put(self, change: Change) -> Reply:
        if self._closed:
            change.reply.fail(StoreFailed(CLOSED))
            return change.reply
        self._waiting.put(asker.get(), change)
        self.last = change.reply
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._make_next)
        return change.reply

    def close(self) -> None:
        """What was submitted is done before."""
        kernel, self._kernel, self._kernel_asked = self._kernel, None, True
        if kernel is not None:
            kernel.close()
        while group := self._waiting.last_group():
            self._hand_over(group)
        self._closed = True
        self._worker.close(self._end)

    def _make_next(self) -> None:
        group = self._waiting.next_group(limits.COMMIT_BATCH)
        self._busy = bool(group)
        if not group:
            return
        at_once = not (group[0].heavy or self._doubtful)
        outcomes = self._made_here(group) if at_once else None
        if outcomes is None:
            self._hand_over(group)
        else:
            self._synced(outcomes).add_done_callback(partial(self._made, group))

    def _made_here(self, group: list[Change]) -> list[Any] | None:
        """The outcomes of changes that were made at once; None: the thread makes them, or finds out
        why not, and has time to wait."""
        if self._db is None or not self._is_placed:
            return None
        try:
            self._file.check()
            return commit(self._db, [change.work for change in group])
        except Exception:  # noqa: BLE001 - the thread meets it again, and tells
            return None

    def _synced(self, outcomes: list[Any]) -> Future[list[Any]]:
        """`outcomes`, once they are durable."""
        if not self._kernel_asked:
            self._kernel_asked = True
            # A process that may open no more files cannot import it: the thread syncs.
            with contextlib.suppress(OSError, ImportError):
                from tertuliad.store.kernel_sync import offered

                self._kernel = self._context.run(offered, self._loop)
        if self._kernel is not None:
            reply = Reply()

            def done(error: OSError | None) -> None:
                if error is None:
                    reply.give(outcomes)
                else:
                    self._doubtful = True
                    reply.fail(failure(error, self._file.path))

            try:
                self._kernel.sync(self.log.descriptor(), done)
            except OSError:
                self._kernel.close()
                self._kernel = None
            else:
                return reply
        synced = self._worker.submit(partial(self._sync, outcomes))
        synced.add_done_callback(self._doubt)
        return synced

    def _doubt(self, synced: Future[list[Any]]) -> None:
        self._doubtful = self._doubtful or synced.exception() is not None

    def _hand_over(self, group: list[Change]) -> None:
        """Have the thread make changes, and make them durable."""
        self._away = True
        works = [change.work for change in group]
        job = partial(self._do_bare if group[0].bare else self._make_whole, works)
        self._worker.submit(job).add_done_callback(partial(self._made, group))

    def _made(self, group: list[Change], done: Future[list[Any]]) -> None:
        self._busy = self._away = False
        self._make_next()  # the disk has work again while the answers are given
        error = done.exception()
        outcomes = [error] * len(group) if error is not None else done.result()
        for change, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                change.reply.fail(outcome)
            else:
                change.reply.give(outcome)
        self._on_written(len(group))

    # What the thread does

    def _sync(self, outcomes: list[Any]) -> list[Any]:
        """Make durable what was made."""
        try:
            sync_file(self.log.descriptor())
        except OSError as error:
            raise failure(error, self._file.path) from error
        return outcomes

    def _settle(self, db: sqlite3.Connection) -> None:
        """Begin the log anew, with all of it in the database."""
        try:
            busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except Exception as error:
            raise failure(error, self._file.path) from error
        if busy:
            raise StoreFailed(
                f"The disk failed under {self._file.path}, and the store cannot be put in order"
                " while others read it; try again.",
                retry_ms=limits.STORE_RETRY_MS,
            )
        self._doubtful = False

    def _make_whole(self, works: list[Work]) -> list[Any]:
        """Make changes and make them durable, however long it takes."""
        if self._db is None:
            self._db = self._file.open()
        self._db.execute(f"PRAGMA busy_timeout = {int(limits.STORE_BUSY_TIMEOUT_S * 1000)}")
        try:
            self._file.check()
            if self._doubtful:
                self._settle(self._db)
            outcomes = _each_made(self._db, works, self._file.path)
        finally:
            self._db.execute("PRAGMA busy_timeout = 0")  # the loop's thread never waits for a lock
        if not self._is_placed:  # the log is a new file, and SQLite leaves its first sync to us
            with contextlib.suppress(OSError):  # not every file system syncs folders
                sync_folder(self._file.path.parent)
            self._is_placed = True
        return self._sync(outcomes)

    def _do_bare(self, works: list[Work]) -> list[Any]:
        if self._db is None:
            self._db = self._file.open()
        return [work(self._db) for work in works]

    def _end(self) -> None:
        if self._db is not None:
            self._db.close()
        self.log.close()


def _each_made(db: sqlite3.Connection, works: list[Work], where: Path) -> list[Any]:
    """The outcomes of `works`: done together, or each alone where that fails."""
    outcomes: list[Any] = []
    for group in (works, *([work] for work in works)):
        try:
            done = commit(db, group)
        except _Busy as busy:
            # Tried alone, each would wait as long again.
            return outcomes + [failure(busy.error, where)] * (len(works) - len(outcomes))
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            if len(group) == 1:
                outcomes.append(failure(error, where))
        else:
            outcomes += done
        if len(outcomes) == len(works):
            break
    return outcomes


class _Busy(Exception):
    """Another process has held the write lock for as long as we wait."""

    def __init__(self, error: sqlite3.Error) -> None:
        super().__init__(error)
        self.error = error


def commit(db: sqlite3.Connection, works: list[Work]) -> list[Any]:
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
        return refusal.with_traceback(None)  # it would hold this frame, and that the refusal
