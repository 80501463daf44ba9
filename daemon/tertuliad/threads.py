"""How many threads this process may have: the system sets the bound, and what meets it is told
here.

libuv, which uvloop stands on, starts a pool of threads with the first connection that is made to a
model, and ends the whole process where it gets none. So they are tried before.
"""

from __future__ import annotations

import contextlib
import os
import threading

TOLD = (
    "The daemon may have no more threads: the system's bound is reached (`ulimit -u`, or that of"
    " its container). Raise the bound, or try again when less runs."
)


def pool_can_be_had() -> bool:
    """Whether the system gives as many threads now as the pool has."""
    with contextlib.ExitStack() as started:
        free = threading.Event()
        try:
            for _ in range(_pool_size()):
                thread = threading.Thread(target=free.wait, name="tried", daemon=True)
                thread.start()
                started.callback(thread.join)
        except RuntimeError:
            return False
        finally:
            free.set()
    return True


def _pool_size() -> int:
    """As libuv reads it."""
    given = os.environ.get("UV_THREADPOOL_SIZE", "")
    return min(max(int(given), 1), 1024) if given.isascii() and given.isdigit() else 4
