"""Sections about turns: one, a long one, many at once, one that is given up."""

from __future__ import annotations

import time

from tests.bench.measuring import (
    Bench,
    Numbers,
    Section,
    median,
    own_cpu_s,
    quantile,
    since,
    timed,
)
from tests.support.model_script import chunk_text

CHUNK_CHARS = 5


async def turn(bench: Bench) -> Numbers:
    """Turns in one session, each answered at once by the model."""
    async with bench.started() as driven:
        session = await driven.create()
        for _ in range(3):
            await driven.turn(session, "fake-n1-d0")
        cpu, received = driven.processes.cpu_s(), driven.bytes_received
        each = [(await driven.turn(session, "fake-n1-d0")).ms for _ in range(bench.sizes.turns)]
        cpu, received = driven.processes.cpu_s() - cpu, driven.bytes_received - received
    first, last = median(each[:20]), median(each[-20:])
    return {
        "turn.p50": median(each),
        "turn.p99": quantile(each, 0.99),
        "turn.last": last,
        "turn.growth": last / first,
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
        "stream.rate": sizes.deltas / burst.ms * 1000,
        "stream.lost": lost("".join(burst.text), sizes.deltas) + lost(burst.message, sizes.deltas),
        "stream.events": burst.deltas,
        "stream.cpu": cpu,
        "stream.kb": received / 1000,
        "stream.lag": paced.ms - (sizes.paced_deltas - 1) * 5,
    }


def lost(text: str, chunks: int) -> int:
    """From how many letters on `text` is not what the model said in so many chunks."""
    said = "".join(chunk_text(index, CHUNK_CHARS) for index in range(chunks))
    if text == said:
        return 0
    same = next((i for i, (a, b) in enumerate(zip(text, said, strict=False)) if a != b), None)
    return max(1, len(said) - (min(len(text), len(said)) if same is None else same))


async def _at_once(bench: Bench, count: int) -> Numbers:
    async with bench.started() as driven:
        sessions = await driven.create_many(count)
        await driven.turn(sessions[0], "fake-n1-d0")
        cpu, own = driven.processes.cpu_s(), own_cpu_s()
        start = time.perf_counter()
        turns = await driven.turns(sessions, f"fake-n{bench.sizes.deltas_at_once}-d10")
        return {
            f"conc.{count}.wall": since(start),
            f"conc.{count}.first": quantile([t.first_ms for t in turns], 0.99),
            f"conc.{count}.cpu": driven.processes.cpu_s() - cpu,
            f"conc.{count}.client": own_cpu_s() - own,
        }


async def conc(bench: Bench) -> Numbers:
    """Sessions with one turn each at once; the model takes 10 ms a delta."""
    numbers: Numbers = {}
    for count in bench.sizes.at_once:
        numbers |= await _at_once(bench, count)
    return numbers


async def crowd(bench: Bench) -> Numbers:
    """The same with more than most daemons take: apart, so that its failure is its own."""
    numbers: Numbers = {}
    for count in bench.sizes.crowd:
        numbers |= await _at_once(bench, count)
    return numbers


async def abort(bench: Bench) -> Numbers:
    """An answer given up in its middle: until `session.abort` is answered, until the turn ended."""
    answered, ended = [], []
    async with bench.started() as driven:
        session = await driven.create()
        for _ in range(bench.sizes.aborts):
            turn = await driven.begin(session, "fake-n1000-d5")
            await driven.seen(turn, 2)
            start = time.perf_counter()
            answered.append(await timed(driven.request("session.abort", sessionId=session)))
            await driven.finish(turn, may_fail=True)
            ended.append(since(start))
    return {
        "abort.p50": median(answered),
        "abort.p99": quantile(answered, 0.99),
        "abort.idle": median(ended),
    }


STEPS = {
    "first": ("fake-hang", 0),
    "flood": ("fake-n20000-d0", 1),
    "tool": ("fake-toollook-stall1", 1),
}
"""What the model does, and how many deltas have come when it is given up."""


async def aborts(bench: Bench) -> Numbers:
    """An answer given up at the other steps of its turn, and a message that waits, taken back."""
    numbers: Numbers = {}
    async with bench.started() as driven:
        session = await driven.create()
        for name, (script, deltas) in STEPS.items():
            each = []
            for _ in range(bench.sizes.aborts):
                turn = await driven.begin(session, script)
                await driven.seen(turn, deltas)
                each.append(await timed(driven.request("session.abort", sessionId=session)))
                await driven.finish(turn, may_fail=True)
            numbers[f"aborts.{name}"] = quantile(each, 0.99)
        await driven.begin(session, "fake-hang")
        each = []
        for _ in range(bench.sizes.aborts):
            sent = await driven.request("session.send", sessionId=session, prompt="[[fake-hang]]")
            taken = {"sessionId": session, "messageId": sent["messageId"]}
            each.append(await timed(driven.request("session.abort", **taken)))
    return numbers | {"aborts.waiting": quantile(each, 0.99)}


TURNS = {
    "turn": Section(turn),
    "stream": Section(stream),
    "conc": Section(conc),
    "crowd": Section(crowd),
    "abort": Section(abort),
    "aborts": Section(aborts, long=True),
}
