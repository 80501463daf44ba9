"""How much of the memory that was freed the C library keeps for itself (glibc; others are asked
nothing).

By default each thread has a heap of its own, and whoever freed one huge block is taken to need
another: a daemon that once took a frame of 64 MB would stay that large.
"""

from __future__ import annotations

import ctypes

from tertuliad.limits import FREED_KEPT_BYTES

_M_TRIM_THRESHOLD = -1  # mallopt(3)
_M_ARENA_MAX = -8


def keep_little() -> None:
    """One heap for all threads, which gives back what is free at its end."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, FREED_KEPT_BYTES)
