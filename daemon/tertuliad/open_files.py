"""How many files and connections this process may have open: the system sets the bound, and what
meets it is told here.

A process that has reached it cannot even import what it did not need before.
"""

from __future__ import annotations

import contextlib
import errno
import os


def raise_limit() -> None:
    """Each client and each model call takes a descriptor; the usual soft limit is 1024."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def are_short(error: BaseException) -> bool:
    """Whether it was raised since no more files may be opened."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(are_short, error.exceptions))
    if isinstance(error, ImportError):  # the linker of libraries has only words for it
        return os.strerror(errno.EMFILE) in str(error)
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def can_open(count: int) -> bool:
    """Whether so many more may be opened now."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.dup(2))
        except OSError as error:
            return not are_short(error)
    return True


def told() -> str:
    """What is the matter, and what to do."""
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"The daemon may not open more files and connections than it has (its limit is {most})."
        " Raise the limit (`ulimit -n`), or let some of its clients go."
    )
