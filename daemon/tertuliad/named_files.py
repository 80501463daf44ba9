"""Looks at files and folders that callers name, which may lie on a disk that does not answer.

A look takes a thread of its own few, and nobody waits longer than `limits.FILE_LOOK_S` for one. A
thread that hangs in the system cannot be ended: it is left to itself, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from tertulia_protocol import faults
from tertulia_protocol.errors import Overloaded
from tertuliad import limits

T = TypeVar("T")


class NamedFiles:
    """Outlives every session."""

    def __init__(self) -> None:
        self._turns = anyio.CapacityLimiter(limits.FILE_LOOKS)
        self._begun: set[object] = set()
        """Those that have not ended."""
        self._waited_for = 0

    async def look(self, field: str, work: Callable[[], T]) -> T:
        """Have `work` done by a thread; raises `InvalidParams` of `field` where it takes too
        long, and `Overloaded` where too many hang."""
        this = object()

        def do() -> T:
            try:
                return work()
            finally:
                self._begun.discard(this)

        async with self._turns:
            if len(self._begun) - self._waited_for >= limits.FILE_LOOKS_HANGING:
                raise Overloaded(
                    f"{limits.FILE_LOOKS_HANGING} looks at files hang, on a disk that does not"
                    " answer: no file or folder is looked at until they end, or this daemon is"
                    " started again."
                )
            self._begun.add(this)
            self._waited_for += 1
            try:
                with anyio.move_on_after(limits.FILE_LOOK_S):
                    return await anyio.to_thread.run_sync(
                        do, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                    )
            finally:
                self._waited_for -= 1
        raise faults.invalid(
            field,
            f"what is named could not be read within {limits.FILE_LOOK_S:g} s: its disk does not"
            " answer. Leave it out, or try again once it does",
        )
