"""Who asks: so that what is done for one has its turn among what is done for the others.

A number stands for each connection, and nothing of it is held: a task that was begun for it may
outlive it. What the daemon does by itself is asked for by nobody, who has a turn as well. What
follows from an answer runs in nobody's context: whoever asks on for somebody says so with `asking`.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar

NOBODY = 0
asker: ContextVar[int] = ContextVar("asker", default=NOBODY)
_numbers = itertools.count(NOBODY + 1)


def new_asker() -> int:
    return next(_numbers)


class asking:  # noqa: N801 - used as a function is; a generator would cost four times as much
    """What is asked for inside is asked for by this one."""

    __slots__ = ("_before", "_number")

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        self._before = asker.set(self._number)

    def __exit__(self, *_: object) -> None:
        asker.reset(self._before)
