"""What ends the daemon from outside: signals, the death of its parent, and its own patience.

A clean stop has a bounded time; after it the process ends whatever still runs.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import AsyncIterator

import anyio

from tertuliad import limits

log = logging.getLogger(__name__)


async def signals() -> AsyncIterator[str]:
    """The names of the signals that ask the daemon to stop, as they come. What whoever started it
    had it ignore stays so: `nohup` does that, and shells do for what runs in the background."""
    others = (signal.SIGINT, signal.SIGHUP)
    wanted = [each for each in others if signal.getsignal(each) is not signal.SIG_IGN]
    wanted.append(signal.SIGTERM)
    with anyio.open_signal_receiver(*wanted) as received:
        async for number in received:
            yield signal.Signals(number).name


async def wait_for_death(pid: int, *, is_parent: bool) -> None:
    """Until process `pid` is gone."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        await _poll_for_death(pid, is_parent=is_parent)
        return
    try:
        if is_parent and os.getppid() != pid:
            return  # it went before we looked
        await anyio.wait_readable(fd)
    finally:
        os.close(fd)


async def _poll_for_death(pid: int, *, is_parent: bool) -> None:
    while _lives(pid) and (not is_parent or os.getppid() == pid):  # noqa: ASYNC110 - no event
        await anyio.sleep(limits.PARENT_POLL_S)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end_anyway(after_s: float, status: int = 1) -> None:
    """End the process after `after_s`, if it is still there then."""

    def end() -> None:
        select.select([], [], [], after_s)
        try:
            _, room, _ = select.select([], [2], [], 0)
            if room:  # a pipe that nobody reads would hold up the end
                os.write(2, b"tertuliad: the clean stop took too long; ending now\n")
        finally:  # whatever has become of standard error
            os._exit(status)

    try:
        threading.Thread(target=end, name="end-anyway", daemon=True).start()
    except RuntimeError:  # no thread is to be had: the kernel's timer ends the process, by a signal
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, after_s)
