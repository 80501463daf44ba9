"""What is measured: one function a section, each one run on one daemon with an empty home.

A section gives its rows' numbers; the medians over the runs are taken by whoever calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from tests.bench.driven import Daemon, Driven
from tests.bench.machine import folder_kb

Numbers = dict[str, float]


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything."""

    sessions_in_memory: int = 100
    creates: int = 30
    creates_at_once: int = 100
    turns: int = 200
    deltas: int = 2000
    paced_deltas: int = 200
    at_once: tuple[int, ...] = (10, 100, 200)
    deltas_at_once: int = 50
    stored: int = 500
    resumed_turns: int = 100


QUICK = Sizes(
    sessions_in_memory=5,
    creates=5,
    creates_at_once=10,
    turns=10,
    deltas=50,
    paced_deltas=10,
    at_once=(5,),
    deltas_at_once=5,
    stored=10,
    resumed_turns=3,
)


class Bench(msgspec.Struct, frozen=True):
    """One run's surroundings."""

    daemon: Daemon
    home: Path
    model_url: str
    sizes: Sizes

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[Driven]:
        driven = Driven(self.daemon, self.home, self.model_url)
        try:
            await driven.start()
            yield driven
        except BaseException:
            await driven.kill()
            raise
        await driven.stop()


def median(values: list[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: list[float], part: float) -> float:
    """The value below which `part` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


async def _timed(work: Awaitable[object]) -> float:
    """How long `work` takes, in ms."""
    start = time.perf_counter()
    await work
    return _since(start)


async def cold(bench: Bench) -> Numbers:
    """From the spawn to the handshake, the first session and the first answer; home warm, fresh."""
    numbers: Numbers = {}
    for name in ("fresh", "warm"):
        start = time.perf_counter()
        async with bench.started() as driven:
            numbers[f"cold.{name}.handshake"] = _since(start)
            session = await driven.create()
            numbers[f"cold.{name}.session"] = _since(start)
            await driven.turn(session, "fake-n1-d0")
            numbers[f"cold.{name}.turn"] = _since(start)
    return numbers


async def rss(bench: Bench) -> Numbers:
    """Memory at the start, and with sessions that have had one turn each."""
    count = bench.sizes.sessions_in_memory
    async with bench.started() as driven:
        at_start = driven.processes.resident_mb()
        await driven.turn(await driven.create(), "fake-n1-d0")
        one = driven.processes.resident_mb()
        sessions = await driven.create_many(count, at_once=10)
        for at in range(0, count, 10):
            await driven.turns(sessions[at : at + 10], "fake-n1-d0")
        many = driven.processes.resident_mb()
    return {
        "rss.start": at_start,
        "rss.one": one,
        "rss.many": many,
        "rss.session": (many - one) * 1000 / count,
    }


async def create(bench: Bench) -> Numbers:
    """New sessions, one after another and fifty callers at once."""
    sizes = bench.sizes
    async with bench.started() as driven:
        await driven.create()
        each = [await _timed(driven.create()) for _ in range(sizes.creates)]
        at_once = await _timed(driven.create_many(sizes.creates_at_once, at_once=50))
    return {
        "create.p50": median(each),
        "create.p99": quantile(each, 0.99),
        "create.rate": len(each) / sum(each) * 1000,
        "create.rate50": sizes.creates_at_once / at_once * 1000,
    }


async def turn(bench: Bench) -> Numbers:
    """Turns in one session, each answered at once by the model."""
    async with bench.started() as driven:
        session = await driven.create()
        for _ in range(3):
            await driven.turn(session, "fake-n1-d0")
        cpu, received = driven.processes.cpu_s(), driven.bytes_received
        each = [(await driven.turn(session, "fake-n1-d0")).ms for _ in range(bench.sizes.turns)]
        cpu, received = driven.processes.cpu_s() - cpu, driven.bytes_received - received
    return {
        "turn.p50": median(each),
        "turn.p99": quantile(each, 0.99),
        "turn.last": median(each[-20:]),
        "turn.cpu": cpu / len(each) * 1000,
        "turn.bytes": received / len(each),
    }


async def stream(bench: Bench) -> Numbers:
    """One answer of many deltas without a pause, and one of deltas every 5 ms."""
    sizes = bench.sizes
    async with bench.started() as driven:
        session = await driven.create()
        await driven.turn(session, "fake-n1-d0")
        cpu, received = driven.processes.cpu_s(), driven.bytes_received
        burst = await driven.turn(session, f"fake-n{sizes.deltas}-d0")
        cpu, received = driven.processes.cpu_s() - cpu, driven.bytes_received - received
        paced = await driven.turn(session, f"fake-n{sizes.paced_deltas}-d5")
    return {
        "stream.wall": burst.ms,
        "stream.first": burst.first_ms,
        "stream.events": burst.deltas,
        "stream.cpu": cpu,
        "stream.kb": received / 1000,
        "stream.lag": paced.ms - (sizes.paced_deltas - 1) * 5,
    }


async def conc(bench: Bench) -> Numbers:
    """Sessions with one turn each at once; the model takes 10 ms a delta."""
    numbers: Numbers = {}
    for count in bench.sizes.at_once:
        async with bench.started() as driven:
            sessions = await driven.create_many(count)
            await driven.turn(sessions[0], "fake-n1-d0")
            cpu, own = driven.processes.cpu_s(), _own_cpu_s()
            start = time.perf_counter()
            turns = await driven.turns(sessions, f"fake-n{bench.sizes.deltas_at_once}-d10")
            numbers |= {
                f"conc.{count}.wall": _since(start),
                f"conc.{count}.first": quantile([t.first_ms for t in turns], 0.99),
                f"conc.{count}.cpu": driven.processes.cpu_s() - cpu,
                f"conc.{count}.client": _own_cpu_s() - own,
            }
    return numbers


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def listing(bench: Bench) -> Numbers:
    """Many stored sessions of one turn each: to list them, also as the first thing; to delete."""
    count = bench.sizes.stored
    async with bench.started() as driven:
        sessions: list[str] = []
        while len(sessions) < count:
            some = await driven.create_many(10, at_once=10)
            await driven.turns(some, "fake-n1-d0")
            await asyncio.gather(*(driven.request("session.detach", sessionId=s) for s in some))
            sessions += some
        warm = await _timed(driven.request("session.list"))
    disk = folder_kb(bench.home) / len(sessions)
    async with bench.started() as driven:
        first = await _timed(driven.request("session.list"))
        deletes = [
            await _timed(driven.request("session.delete", sessionId=s)) for s in sessions[:10]
        ]
    return {
        "list.warm": warm,
        "list.first": first,
        "list.delete": median(deletes),
        "list.disk": disk,
    }


async def resume(bench: Bench) -> Numbers:
    """A long session after a restart: to resume it, read it, go on with it."""
    async with bench.started() as driven:
        session = await driven.create()
        for _ in range(bench.sizes.resumed_turns):
            await driven.turn(session, "fake-n20-d0-s20")
    async with bench.started() as driven:
        return {
            "resume.resume": await _timed(driven.resume(session)),
            "resume.read": await _timed(driven.request("session.getMessages", sessionId=session)),
            "resume.turn": (await driven.turn(session, "fake-n1-d0")).ms,
        }


SECTIONS: dict[str, Callable[[Bench], Awaitable[Numbers]]] = {
    "cold": cold,
    "rss": rss,
    "create": create,
    "turn": turn,
    "stream": stream,
    "conc": conc,
    "list": listing,
    "resume": resume,
}
