"""Who asks: so that what is done for one has its turn among what is done for the others.

A number stands for each connection, and nothing of it is held: a task that was begun for it may
outlive it. What the daemon does by itself is asked for by nobody, who has a turn as well.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar

asker: ContextVar[int] = ContextVar("asker", default=0)
_numbers = itertools.count(1)


def new_asker() -> int:
    return next(_numbers)
