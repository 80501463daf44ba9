"""Who works on a data folder: daemons share it, a repair has it for itself.

An advisory lock on the folder, which the kernel drops with its process and which leaves no file. It
is taken before the database is opened, so that no process ever writes to a file that a repair has
replaced.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits


class Hold:
    """This process's share in a folder, from the first `take` to `release`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._taking = threading.Lock()

    def take(self) -> None:
        """Make the folder, if need be, and share it. Raises `OSError`, and `StoreFailed` while it
        is being repaired. May wait for a moment, in which somebody looks at it alone."""
        with self._taking:
            if self._fd is None:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._fd = self._shared()
                if self._fd is None:
                    raise StoreFailed(
                        f"`tertulia doctor` repairs {self._folder} at this moment; try again when"
                        " it is done.",
                        retry_ms=limits.STORE_RETRY_MS,
                    )

    def _shared(self) -> int | None:
        until = time.monotonic() + limits.LOOKED_AT_S
        while (fd := _locked(self._folder, fcntl.LOCK_SH)) is None and time.monotonic() < until:
            time.sleep(limits.LOOKED_AT_S / 100)
        return fd

    def take_alone(self) -> bool:
        """Have the folder alone; False: somebody works on it. Raises `OSError`."""
        if self._fd is None:
            self._fd = _locked(self._folder, fcntl.LOCK_EX)
        return self._fd is not None

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _locked(folder: Path, how: int) -> int | None:
    """A descriptor that holds the lock; None: it is taken."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        if how == fcntl.LOCK_EX:
            os.close(fd)
            raise
        # A file system without locks: it is worked on as before there were any.
    return fd


def identity(path: Path | str) -> tuple[int, int] | None:
    """Which file lies at `path`: (device, inode); None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
