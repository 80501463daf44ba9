"""The tables: a row for each number; its goal, each daemon's figure, the ratio to the yardstick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tests.bench.measuring import Numbers
from tests.bench.rows import Row, machine_rows, rows
from tests.bench.sizes import Sizes


def shown(value: float) -> str:
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = ("=" if row.goal == 0 else "≤") if row.better == "less" else "≥"
    return f"{sign} {row.goal:,g}"


def _cells(row: Row, values: Sequence[float], machine: Numbers) -> list[str]:
    ours = values[0]
    floor = machine.get(row.floor or "", math.nan)
    met = {True: "yes", False: "NO", None: ""}[row.met(ours)]
    over = (
        f"{shown(ours / floor)} x {shown(floor)}" if floor and ours / floor == ours / floor else ""
    )
    cells = [row.title, _goal(row), shown(ours), met, over]
    for value in values[1:]:
        cells += [shown(value), shown(value / ours if ours else math.nan)]
    return cells


def render(
    names: Sequence[str], found: Mapping[str, Numbers], machine: Numbers, sizes: Sizes
) -> str:
    """The daemons' table as text: `found` has each one's numbers; what is missing is a dash."""
    head = ["", "goal", names[0], "met", "yardstick"]
    for name in names[1:]:
        head += [name, f"/ {names[0]}"]
    lines = [head]
    for row in rows(sizes):
        values = [found[name].get(row.key, math.nan) for name in names]
        if not all(math.isnan(value) for value in values):
            lines.append(_cells(row, values, machine))
    return _aligned(lines) if len(lines) > 1 else ""


def render_machine(machine: Numbers, sizes: Sizes) -> str:
    known = [row for row in machine_rows(sizes) if row.key in machine]
    lines = [["this machine, without a daemon", ""]]
    lines += [[row.title, shown(machine[row.key])] for row in known]
    return _aligned(lines) if len(lines) > 1 else ""


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )
