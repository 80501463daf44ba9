"""Who asks: so that what is done for one has its turn among what is done for the others.

A number stands for each connection, and nothing of it is held: a task that was begun for it may
outlive it. What the daemon does by itself is asked for by nobody, who has a turn as well. What
follows from an answer runs in nobody's context: whoever asks on for somebody says so with `asking`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NOBODY = 0
asker: ContextVar[int] = ContextVar("asker", default=NOBODY)
_numbers = itertools.count(NOBODY + 1)


def new_asker() -> int:
    return next(_numbers)


@contextmanager
def asking(number: int) -> Iterator[None]:
    """What is asked for inside is asked for by this one."""
    before = asker.set(number)
    try:
        yield
    finally:
        asker.reset(before)
