"""The daemon's log: lines on standard error that never block it.

A parent that does not drain the pipe loses lines, which are counted; the daemon goes on. Standard
output is never touched.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select

_LEVELS = {
    "none": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "all": logging.NOTSET + 1,
}
PIPE_ATOMIC_BYTES = 4096
"""A pipe that is ready takes so much without blocking (POSIX: PIPE_BUF, at least 512)."""


class LossyHandler(logging.Handler):
    """Writes a line where there is room for it, and says later how many were lost."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._fd = fd
        self._lost = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self._lost:
            line = f"({self._lost} lines were lost here)\n{line}"
        data = line.encode("utf-8", "replace")[: PIPE_ATOMIC_BYTES - 1] + b"\n"
        try:
            ready = bool(self._poll.poll(0)) and os.write(self._fd, data) > 0
        except OSError:
            ready = False
        self._lost = 0 if ready else self._lost + 1


def tells_something(record: logging.LogRecord) -> bool:
    """Whether a record of the loop is more than a wake-up that came too late: anyio waits for a
    unix socket by a future, and cancels that in the round in which the socket becomes ready."""
    error = record.exc_info[1] if record.exc_info else None  # False, where there is none to tell
    late = isinstance(error, asyncio.InvalidStateError)
    return not (late and "set_result" in record.getMessage())


def set_up(level: str) -> None:
    """Send the daemon's own log to standard error, from `level` on; libraries from warning on."""
    handler = LossyHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    handler.addFilter(tells_something)
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.getLogger("tertuliad").setLevel(_LEVELS[level])
    if level == "none":
        logging.disable(logging.CRITICAL)
