"""Which daemon processes of a data folder are alive.

Each process holds an advisory lock on a file of its own under `<home>/run`; the kernel drops it
however the process ends. A session's row names the process that runs a turn of it, and whoever
finds a turn left open asks here whether it may be ended.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from tertulia_protocol.errors import StoreFailed

SUFFIX = ".owner"


class Owners:
    """This process's own mark, and the look at others'. Ends with the daemon."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when the mark is first needed."""
        self._folder = folder
        self.me = uuid.uuid4().hex
        self._fd: int | None = None

    def claim(self) -> None:
        """Make and lock this process's mark, unless it is there. Raises `StoreFailed`."""
        if self._fd is None:
            try:
                self._make()
            except OSError as error:
                raise StoreFailed(
                    f"The folder {self._folder} cannot be used: {error.strerror}. Check that the"
                    " data folder exists and can be written."
                ) from error

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
        """Whether the process `owner` still runs."""
        if owner == self.me:
            return True
        return not _take(self._file(owner))

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
            if _take(path):
                path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    """Whether nobody holds the lock of `path`."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
