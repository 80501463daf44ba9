"""An interrupt while modules are imported: nothing was begun, and nothing has to be told."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

INTERRUPTED = 130


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """SIGINT ends the process with 130 meanwhile. As an exception it would be raised inside the
    import system, which prints some and swallows others. Whoever ignores it goes on doing so."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
