"""The process's standard descriptors, before and without an event loop.

`claim_stdout` comes before anything else is imported that may print: afterwards descriptor 1 is
standard error, so that whatever a library says cannot get between the frames.
"""

from __future__ import annotations

import os
import stat


def claim_stdout() -> int:
    """A descriptor of the real standard output; descriptor 1 now leads to standard error. Of the
    three, one that was closed leads nowhere: else the next file or socket would be given its
    number, and get what is meant for it."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    real = os.dup(1)
    os.set_inheritable(real, False)
    os.dup2(2, 1)
    return real


def is_channel(fd: int) -> bool:
    """Whether `fd` is one end of something that another process has the other end of."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def can_be_polled(fd: int) -> bool:
    """Whether the kernel can say when `fd` is ready: pipes, sockets and terminals, not files."""
    return is_channel(fd) or os.isatty(fd)


def tell(error: object) -> None:
    """Say on standard error, in a line, why there is no daemon. A path may have bytes that are no
    text: they go out as they came in."""
    os.write(2, f"tertuliad: {error}\n".encode(errors="surrogateescape"))
