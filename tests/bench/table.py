"""The one table: a row for each number, a column for each daemon, and the ratios to the first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from tests.bench.sections import Numbers, Sizes


def rows(sizes: Sizes) -> Iterator[tuple[str, str]]:
    """Each number's key and what it is, with its unit."""
    for name in ("warm", "fresh"):
        yield f"cold.{name}.handshake", f"start, {name} home: spawn to handshake, ms"
        yield f"cold.{name}.session", "  to the first session, ms"
        yield f"cold.{name}.turn", "  to the first answer, ms"
    yield "rss.start", "memory at start, MB"
    yield "rss.one", "  with 1 session, MB"
    yield "rss.many", f"  with {sizes.sessions_in_memory + 1} sessions, MB"
    yield "rss.session", "  a session, KB"
    yield "create.p50", "create a session, p50, ms"
    yield "create.p99", "  p99, ms"
    yield "create.rate", "  one after another, a second (more is better)"
    yield "create.rate50", "  50 callers at once, a second (more is better)"
    yield "turn.p50", "turn, model answers at once, p50, ms"
    yield "turn.p99", "  p99, ms"
    yield "turn.last", f"  the last 20 of {sizes.turns}, p50, ms"
    yield "turn.cpu", "  processor, ms"
    yield "turn.bytes", "  to the client, bytes"
    yield "stream.wall", f"stream {sizes.deltas} deltas without pause, ms"
    yield "stream.first", "  first delta, ms"
    yield "stream.events", "  delta events"
    yield "stream.cpu", "  processor, s"
    yield "stream.kb", "  to the client, KB"
    yield "stream.lag", f"  {sizes.paced_deltas} deltas every 5 ms: later than the model, ms"
    for count in sizes.at_once:
        ideal = (sizes.deltas_at_once - 1) * 10
        yield f"conc.{count}.wall", f"{count} turns at once (ideal {ideal}), ms"
        yield f"conc.{count}.first", "  first delta, p99, ms"
        yield f"conc.{count}.cpu", "  processor, s"
        yield f"conc.{count}.client", "  processor of the measuring client, s"
    yield "list.warm", f"list {sizes.stored} stored sessions, ms"
    yield "list.first", "  as the first request, ms"
    yield "list.delete", "  delete one, p50, ms"
    yield "list.disk", "  on disk, KB a session"
    yield "resume.resume", f"resume {sizes.resumed_turns} turns after a restart, ms"
    yield "resume.read", "  read the history, ms"
    yield "resume.turn", "  the next turn, ms"


def shown(value: float) -> str:
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def render(names: Sequence[str], found: Mapping[str, Numbers], sizes: Sizes) -> str:
    """The table as text: `found` maps a daemon's name to its medians; what is missing is a dash."""
    head = ["", names[0]]
    for name in names[1:]:
        head += [name, f"{name} / {names[0]}"]
    lines = [head]
    for key, title in rows(sizes):
        values = [found[name].get(key, math.nan) for name in names]
        if all(math.isnan(value) for value in values):
            continue
        cells = [title, shown(values[0])]
        for value in values[1:]:
            ratio = value / values[0] if values[0] else math.nan
            cells += [shown(value), shown(ratio)]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]).rstrip()
        for line in lines
    )
