"""The interpreter's collector of garbage in cycles, kept from looking at what stays.

Most of what a turn makes goes by itself, when nobody holds it any more. The collector would look at
all that is alive every 700 objects, which is a tenth of the time in which many turns begin.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

YOUNG = 10_000
"""Objects made and not gone since the last look, before the young ones are looked at: some 3 ms."""
GROWN = 3
"""Looks at the young ones before those are looked at that were there the last time as well."""


def look_seldom() -> None:
    """For the whole process."""
    gc.set_threshold(YOUNG, GROWN)


@contextlib.contextmanager
def made_to_stay() -> Iterator[None]:
    """What is imported or built inside stays, and is not looked at, neither now nor later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
