"""What every section has in hand: one daemon, its home, the models, and how numbers are taken."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from tests.bench.driven import Daemon, Driven
from tests.bench.sizes import Sizes

Numbers = dict[str, float]


class Bench(msgspec.Struct, frozen=True):
    """One run's surroundings. `filled` is what the section's `fill` gave, if it has one."""

    daemon: Daemon
    home: Path
    model_urls: Sequence[str]
    sizes: Sizes
    filled: str = ""

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[Driven]:
        driven = Driven(self.daemon, self.home, self.model_urls)
        try:
            await driven.start()
            yield driven
        except BaseException:
            await driven.kill()
            raise
        await driven.stop()

    async def settled_mb(self, driven: Driven) -> float:
        """Its memory, once it had the time to put away what it just worked with."""
        await asyncio.sleep(self.sizes.settle_s)
        return driven.processes.resident_mb()


class Section(msgspec.Struct, frozen=True):
    """`measure` is one run, on an empty home; or on one that `fill` filled once for all runs.

    `fill` gives what `measure` needs to know of it. A `long` section takes minutes, and measures
    our daemon alone.
    """

    measure: Callable[[Bench], Awaitable[Numbers]]
    fill: Callable[[Bench], Awaitable[str]] | None = None
    long: bool = False


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def since(start: float) -> float:
    """Milliseconds since `start`, which `time.perf_counter` gave."""
    return (time.perf_counter() - start) * 1000


async def timed(work: Awaitable[object]) -> float:
    """How long `work` takes, in ms."""
    start = time.perf_counter()
    await work
    return since(start)


def own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
