"""Sections about starting a daemon and opening sessions: time, memory, rates."""

from __future__ import annotations

import time

from tests.bench.measuring import Bench, Numbers, Section, median, quantile, since, timed


async def cold(bench: Bench) -> Numbers:
    """From the spawn to the handshake, the first session and the first answer; home warm, fresh."""
    numbers: Numbers = {}
    for name in ("fresh", "warm"):
        start = time.perf_counter()
        async with bench.started() as driven:
            numbers[f"cold.{name}.handshake"] = since(start)
            session = await driven.create()
            numbers[f"cold.{name}.session"] = since(start)
            await driven.turn(session, "fake-n1-d0")
            numbers[f"cold.{name}.turn"] = since(start)
    return numbers


async def rss(bench: Bench) -> Numbers:
    """Memory at the start, and with sessions that have had one turn each."""
    count = bench.sizes.sessions_in_memory
    async with bench.started() as driven:
        at_start = await bench.settled_mb(driven)
        await driven.turn(await driven.create(), "fake-n1-d0")
        one = await bench.settled_mb(driven)
        sessions = await driven.create_many(count, at_once=10)
        for at in range(0, count, 10):
            await driven.turns(sessions[at : at + 10], "fake-n1-d0")
        many = await bench.settled_mb(driven)
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
        each = [await timed(driven.create()) for _ in range(sizes.creates)]
        at_once = await timed(driven.create_many(sizes.creates_at_once, at_once=50))
    return {
        "create.p50": median(each),
        "create.p99": quantile(each, 0.99),
        "create.rate": len(each) / sum(each) * 1000,
        "create.rate50": sizes.creates_at_once / at_once * 1000,
    }


async def idle(bench: Bench) -> Numbers:
    """Very many sessions that this client opened and left alone, and turns among them."""
    sizes = bench.sizes
    async with bench.started() as driven:
        sessions = await driven.create_many(sizes.live, at_once=50)
        memory = await bench.settled_mb(driven)
        for _ in range(3):
            await driven.turn(sessions[0], "fake-n1-d0")
        step = max(1, sizes.live // sizes.turns_among_live)
        spread = sessions[step // 2 :: step][: sizes.turns_among_live]
        among = [(await driven.turn(s, "fake-n1-d0")).ms for s in spread]
        same = [(await driven.turn(sessions[0], "fake-n1-d0")).ms for _ in spread]
    return {"idle.memory": memory, "idle.turn": median(among), "idle.same": median(same)}


OPENING = {"cold": Section(cold), "rss": Section(rss), "create": Section(create)}
LIVE = {"idle": Section(idle, long=True)}
