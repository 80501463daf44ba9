"""Each number's row: what it is, its goal, and the yardstick that it cannot be better than."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from tests.bench.measuring import median
from tests.bench.sizes import Sizes

Better = Literal["less", "more"]


class Row(msgspec.Struct, frozen=True):
    """`floor` is the key of a yardstick. `always`: one bad run counts, not the median."""

    key: str
    title: str
    goal: float | None = None
    better: Better = "less"
    floor: str | None = None
    always: bool = False

    def of_runs(self, values: Sequence[float]) -> float:
        """The one number that stands for all runs."""
        if not self.always:
            return median(values)
        return max(values) if self.better == "less" else min(values)

    def met(self, value: float) -> bool | None:
        """Whether the goal is reached; None without a goal, or without a number."""
        if self.goal is None or value != value:
            return None
        return value <= self.goal if self.better == "less" else value >= self.goal


def rows(sizes: Sizes) -> Iterator[Row]:
    """Of the daemons, in the table's order. A goal for a size says nothing about another size."""
    for row in (*_opening(sizes), *_turns(sizes), *_stored(sizes), *_long(sizes)):
        fits = row.always or sizes == Sizes()
        yield row if fits else msgspec.structs.replace(row, goal=None)


def _opening(sizes: Sizes) -> Iterator[Row]:
    spawn = "start, {} home: spawn to handshake, ms"
    yield Row("cold.warm.handshake", spawn.format("warm"), 130, floor="machine.python")
    yield Row("cold.warm.session", "  to the first session, ms", floor="machine.imports")
    yield Row("cold.warm.turn", "  to the first answer, ms")
    yield Row("cold.fresh.handshake", spawn.format("fresh"), floor="machine.python")
    yield Row("cold.fresh.session", "  to the first session, ms", floor="machine.imports")
    yield Row("cold.fresh.turn", "  to the first answer, ms")
    yield Row("rss.start", "memory at start, MB", 45, floor="machine.imports.memory")
    yield Row("rss.one", "  with 1 session, MB")
    yield Row("rss.many", f"  with {sizes.sessions_in_memory + 1:,} sessions, MB")
    yield Row("rss.session", "  a session, KB", 2)
    yield Row("create.rate", "sessions created a second, one after another", 1500, "more")
    yield Row("create.rate50", "  50 at a time", 3000, "more")
    yield Row("create.p50", "  one, p50, ms", floor="machine.sync")
    yield Row("create.p99", "  p99, ms", floor="machine.sync.p99")


def _turns(sizes: Sizes) -> Iterator[Row]:
    yield Row("turn.p50", "turn, model answers at once, p50, ms", 2.5, floor="machine.model")
    yield Row("turn.p99", "  p99, ms", 8)
    yield Row("turn.cpu", "  processor, ms", 2.5)
    yield Row("turn.growth", f"  the last 20 of {sizes.turns} / the first 20", 1.3)
    yield Row("turn.last", "  the last 20, p50, ms")
    yield Row("turn.bytes", "  to the client, bytes")
    title = f"stream {sizes.deltas:,} deltas without pause, ms"
    yield Row("stream.wall", title, 50, floor="machine.stream")
    yield Row("stream.rate", "  deltas a second", 40_000, "more")
    yield Row("stream.lost", "  letters that did not arrive", 0, always=True)
    yield Row("stream.first", "  first delta, ms")
    yield Row("stream.events", "  delta events")
    yield Row("stream.cpu", "  processor, s")
    yield Row("stream.kb", "  to the client, KB")
    yield Row("stream.lag", f"  {sizes.paced_deltas} deltas every 5 ms: later than the model, ms")
    for count in (*sizes.at_once, *sizes.crowd):
        yield from _at_once(count, sizes)
    yield Row("abort.p50", "abort in the middle of an answer, p50, ms")
    yield Row("abort.p99", "  p99, ms", 50)
    yield Row("abort.idle", "  until the turn has ended, p50, ms")


_WALL_GOALS = {200: 800.0, 1000: 2500.0}
_FIRST_GOALS = {200: 150.0}


def _at_once(count: int, sizes: Sizes) -> Iterator[Row]:
    ideal = (sizes.deltas_at_once - 1) * 10
    title = f"{count:,} turns at once, {sizes.deltas_at_once} deltas each (ideal {ideal}), ms"
    wall, first = f"machine.{count}.wall", f"machine.{count}.first"
    yield Row(f"conc.{count}.wall", title, _WALL_GOALS.get(count), floor=wall)
    yield Row(f"conc.{count}.first", "  first delta, p99, ms", _FIRST_GOALS.get(count), floor=first)
    yield Row(f"conc.{count}.cpu", "  processor, s", floor=f"machine.{count}.cpu")
    yield Row(f"conc.{count}.client", "  processor of the measuring client, s")


def _stored(sizes: Sizes) -> Iterator[Row]:
    yield Row("list.warm", f"list all of {sizes.stored:,} stored sessions, ms")
    yield Row("list.first", "  as the first request, ms")
    yield Row("list.delete", "  delete one, p50, ms")
    yield Row("list.disk", f"disk, {sizes.stored:,} sessions of one turn, MB", 4)
    yield Row("resume.resume", f"resume {sizes.resumed_turns} turns after a restart, ms", 10)
    yield Row("resume.warm", "  where another one was opened before, ms")
    yield Row("resume.read", "  read the history, ms")
    yield Row("resume.turn", "  the next turn, ms")
    kills = sizes.kills
    title = f"of {kills} killed in their first turn: listed (the worst run)"
    yield Row("crash.listed", title, kills, "more", always=True)
    yield Row("crash.resumed", "  resumed, with the message", kills, "more", always=True)


def _long(sizes: Sizes) -> Iterator[Row]:
    yield Row("idle.memory", f"{sizes.live:,} live sessions, idle: memory, MB", 200)
    yield Row("idle.turn", "  turn, each in another of them, p50, ms", 3)
    yield Row("idle.same", "  turn, always in the same one, p50, ms", 3)
    yield Row("aborts.first", "abort before an answer's first byte, p99, ms", 50)
    yield Row("aborts.waiting", "  of a message that waits, p99, ms", 50)
    yield Row("aborts.flood", "  in a flood of deltas, p99, ms", 50)
    yield Row("aborts.tool", "  in the middle of a tool call, p99, ms", 50)
    yield Row("page.warm", f"list a page of 100 out of {sizes.rows:,} sessions, ms", 5)
    yield Row("page.first", "  as the first request, ms")
    yield Row("page.next", "  the following page, ms")
    yield Row("history.resume", f"resume {sizes.long_turns:,} turns after a restart, ms", 30)
    yield Row("history.warm", "  where another one was opened before, ms")
    yield Row("history.read", "  read the history, ms")
    yield Row("history.turn", "  the next turn, ms")
    yield Row("beside.alone", "turn in a shared daemon, p50, ms")
    yield Row("beside.huge", "  beside frames of 60 MiB, one after the other: times as long")
    yield Row("beside.half_open", f"  beside {sizes.half_open:,} clients that say nothing")
    yield Row("beside.stuck", f"  beside {sizes.stuck} turns whose model is stuck")


def machine_rows(sizes: Sizes) -> Iterator[Row]:
    """Of the machine, measured without a daemon."""
    yield Row("machine.python", "bare Python: spawn to its first line, ms")
    yield Row("machine.python.memory", "  memory, MB")
    yield Row("machine.imports", "with what a daemon in Python has to import, ms")
    yield Row("machine.imports.memory", "  memory, MB")
    yield Row("machine.sync", "4 KiB appended and synced to disk, p50, ms")
    yield Row("machine.sync.p99", "  p99, ms")
    yield Row("machine.threads", "to another thread and back, p50, ms")
    yield Row("machine.model", "the scripted model's answer on a bare socket, p50, ms")
    yield Row("machine.stream", f"the HTTP client alone: {sizes.deltas:,} deltas, ms")
    for count in sizes.bare_at_once:
        yield Row(f"machine.{count}.wall", f"  {count:,} streams at once, ms")
        yield Row(f"machine.{count}.first", "    first delta, p99, ms")
        yield Row(f"machine.{count}.cpu", "    processor, s")
