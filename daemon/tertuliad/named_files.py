"""Looks at files and folders that callers name, which may lie on a disk that does not answer.

A look takes one of few threads, of which each caller has a part, and nobody waits longer than
`limits.FILE_LOOK_S` for one. A thread that hangs in the system cannot be ended: it is left to
itself, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from tertulia_protocol import faults
from tertulia_protocol.errors import Overloaded
from tertuliad import limits
from tertuliad.askers import asker

T = TypeVar("T")


class NamedFiles:
    """Outlives every session."""

    def __init__(self) -> None:
        self._all = anyio.CapacityLimiter(limits.FILE_LOOKS)
        self._by_asker: WeakValueDictionary[int, anyio.CapacityLimiter] = WeakValueDictionary()
        self._under_way: set[object] = set()
        """Those that threads do: each thread adds and takes out its own."""
        self._waited_for: set[object] = set()

    async def look(self, field: str, work: Callable[[], T]) -> T:
        """Have `work` done by a thread. Raises `InvalidParams` of `field` where it takes too long,
        and `Overloaded` where others do."""
        mine = self._by_asker.setdefault(
            asker.get(), anyio.CapacityLimiter(limits.FILE_LOOKS_OF_ONE)
        )
        begun = False
        with anyio.move_on_after(limits.FILE_LOOK_S):
            async with mine, self._all:
                self._check_hanging()
                begun = True
                return await self._done(work)
        if not begun:
            raise Overloaded(
                "Too many files and folders are being looked at; try again.",
                retry_ms=limits.FILE_LOOKS_RETRY_MS,
            )
        raise faults.invalid(
            field,
            f"what is named could not be read within {limits.FILE_LOOK_S:g} s: it is too much, or"
            " its disk does not answer. Name something else, or try again once it does",
        )

    async def _done(self, work: Callable[[], T]) -> T:
        this = object()

        def do() -> T:
            self._under_way.add(this)
            try:
                return work()
            finally:
                self._under_way.discard(this)

        self._waited_for.add(this)
        try:
            own = anyio.CapacityLimiter(1)
            return await anyio.to_thread.run_sync(do, abandon_on_cancel=True, limiter=own)
        finally:
            self._waited_for.discard(this)

    def _check_hanging(self) -> None:
        if len(self._under_way - self._waited_for) >= limits.FILE_LOOKS_HANGING:
            raise Overloaded(
                f"{limits.FILE_LOOKS_HANGING} looks at files hang, on a disk that does not answer:"
                " no file or folder is looked at until they end, or this daemon is started again."
                " What names none goes on."
            )
