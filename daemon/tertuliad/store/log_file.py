"""The write-ahead log as a file: what it holds is SQLite's, how far it reaches is ours.

A sync of bytes behind a file's end has the file system write down its new length too, and takes
twice as long as one of bytes inside it. So in a process that stores more than a little, the file is
given its full length, in zeros, which SQLite takes for the log's end, as it takes what an earlier
round of the log has left there.
"""

from __future__ import annotations

import os
from pathlib import Path

from tertuliad import limits


class LogFile:
    """Opened when it is first asked for, as SQLite makes it with the first change."""

    def __init__(self, database: Path) -> None:
        self._name = f"{database}-wal"
        self._fd = -1

    def descriptor(self) -> int:
        """Raises `OSError`."""
        if self._fd < 0:
            self._fd = os.open(self._name, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    def size(self) -> int:
        """Its bytes; 0 where there is none."""
        try:
            return os.fstat(self.descriptor()).st_size
        except OSError:
            return 0

    def lengthen(self) -> None:
        """Only under SQLite's write lock: nobody else may write behind the end meanwhile. Raises
        `OSError`, with the length as it was."""
        fd = self.descriptor()
        end = length = os.fstat(fd).st_size
        try:
            while end < limits.WAL_BYTES:
                end += os.pwrite(fd, bytes(limits.WAL_BYTES - end), end)
        except OSError:
            os.ftruncate(fd, length)
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
