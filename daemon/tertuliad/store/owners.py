"""Which daemon processes of a data folder are alive.

Each process holds an advisory lock on a file of its own under `<home>/run`; the kernel drops it
however the process ends. While it runs turns it also touches the file every `LEASE_BEAT_S`, so that
a process that is stopped, and cannot drop its lock, is known after `LEASE_S`. A session's row names
the process that runs a turn of it, and whoever finds a turn left open asks here whether it may be
ended. Taking over is safe at any moment: what the old owner writes later is refused by the store.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from tertuliad import limits
from tertuliad.store.failures import failure

if TYPE_CHECKING:
    from tertuliad.tasks import Spawn

SUFFIX = ".owner"

log = logging.getLogger(__name__)


class Owners:
    """This process's own mark, and the look at others'. Ends with the daemon."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`folder` is made when the mark is first needed; `clock` is that of the files' times."""
        self._folder = folder
        self._clock = clock
        self.me = os.urandom(16).hex()
        self._fd: int | None = None
        self._beating = False

    def claim(self) -> None:
        """Make and lock this process's mark, or touch it. Raises `StoreFailed`."""
        try:
            if self._fd is None:
                self._make()
            elif not self._beating:
                os.utime(self._fd)
        except OSError as error:
            raise failure(error, self._folder) from error

    def beat_while(self, running: Collection[str], spawn: Spawn) -> None:
        """Touch the mark again and again until nothing runs any more, also where that fails: a
        lease bears some beats that are missed."""
        if self._beating:
            return
        self._beating = True

        async def beat() -> None:
            told = False
            try:
                while running and self._fd is not None:
                    try:
                        os.utime(self._fd)
                    except OSError as error:
                        if not told:
                            log.warning("%s cannot be touched: %s", self._file(self.me), error)
                        told = True
                    await anyio.sleep(limits.LEASE_BEAT_S)
            finally:
                self._beating = False

        spawn(beat)

    def _make(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        while self._fd is None:
            fd = os.open(self._file(self.me), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._fd = fd
            else:
                os.close(fd)  # another process swept it away before it was locked

    def alive(self, owner: str) -> bool:
        """Whether the process `owner` still runs, and was heard of not too long ago."""
        if owner == self.me:
            return True
        path = self._file(owner)
        return not nobody_holds(path) and not self._silent(path)

    def gone(self, owner: str) -> bool:
        """Whether the process `owner` has ended: one that is only silent may wake up."""
        return owner != self.me and nobody_holds(self._file(owner))

    def elsewhere(self, owner: str | None) -> bool:
        """Whether another process that lives is `owner`."""
        return owner is not None and owner != self.me and self.alive(owner)

    def _silent(self, path: Path) -> bool:
        """Whether the mark was not touched for as long as a lease lasts."""
        try:
            touched = path.stat().st_mtime
        except OSError:
            return False
        return self._clock() - touched > limits.LEASE_S

    def close(self) -> None:
        if self._fd is not None:
            self._file(self.me).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def _file(self, owner: str) -> Path:
        return self._folder / f"{owner}{SUFFIX}"

    def _sweep(self) -> None:
        """Remove the marks of processes that are gone."""
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                _remove_if_free(path)


def _remove_if_free(path: Path) -> None:
    """Remove a mark that nobody holds. Whoever has made it and not locked it yet waits for the lock
    that is held here meanwhile, finds that it is gone, and makes another one of the same name: of
    that one nothing is known here."""
    fd = _opened(path)
    try:
        if _shares(fd) and os.fstat(fd).st_nlink:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def nobody_holds(path: Path) -> bool:
    """Whether nobody holds the lock of `path`. One that cannot be looked at may be held."""
    try:
        return not is_held(path)
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of `path`. Raises `OSError` where that cannot be told."""
    try:
        fd = _opened(path)
    except FileNotFoundError:
        return False
    try:
        return not _shares(fd)
    finally:
        os.close(fd)


def _shares(fd: int) -> bool:
    """Lock a file as all who look do, two at once too; False: a process holds it for itself."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> int:
    """To be written to, as network file systems want it for a lock; else, if that is not allowed,
    to be read."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
