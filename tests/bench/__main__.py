"""The benchmark: `python -m tests.bench`. Our daemon, and any other of the same wire beside it.

The model is the scripted one in a process of its own. The runs of all daemons alternate, so that a
noisy moment of the machine meets them all; every number is the median over the runs, where it does
not say otherwise. What the machine gives without a daemon is measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.campaign import Campaign
from tests.bench.driven import Daemon
from tests.bench.machine import allow_open_files
from tests.bench.models import scripted_models
from tests.bench.rows import rows
from tests.bench.sections import MACHINE, NAMES, SECTIONS
from tests.bench.sizes import QUICK, Sizes
from tests.bench.table import render, render_machine

OURS = Daemon("tertuliad", (str(Path(sys.executable).with_name("tertuliad")),))
BARE = Daemon(
    "bare",
    (sys.executable, str(Path(__file__).with_name("bare_daemon.py")), "--stdio"),
    frozenset({"create", "turn", "stream", "conc", "crowd"}),
)
LONG = [name for name, section in SECTIONS.items() if section.long]


def _peer(text: str) -> Daemon:
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        raise argparse.ArgumentTypeError("NAME=COMMAND, such as other='/opt/other --flag'")
    if name in (OURS.name, BARE.name, MACHINE):
        raise argparse.ArgumentTypeError(f"another name: {name} has a column already")
    return Daemon(name, tuple(shlex.split(command)))


def _sections(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(NAMES)):
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; {', '.join(NAMES)}")
    return chosen


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("--only", type=_sections, metavar="A,B", help=", ".join(NAMES))
    add("--runs", type=int, metavar="N", help="of each section [5; quick: 1]")
    add(
        "--peer",
        type=_peer,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another daemon, measured beside ours; the SDKs' flags are added to its command"
        " unless --stdio is in it",
    )
    add(
        "--bare",
        action="store_true",
        help="also the least that a daemon on our libraries can do (bare_daemon.py), where it can",
    )
    add(
        "--long",
        action="store_true",
        help=f"also what takes minutes, of our daemon alone: {', '.join(LONG)}"
        " (10,000 live sessions, 100,000 stored ones, 10,000 turns)",
    )
    add("--quick", action="store_true", help="little of everything: does it run?")
    add("--models", type=int, default=1, metavar="N", help="processes of the model [1]")
    add("--json", type=Path, metavar="FILE", help="write all values there, of every run")
    return parser


def chosen(only: Sequence[str] | None, long: bool) -> list[str]:
    """The sections to run. Raises `ValueError` for a long one that was not asked for as such."""
    if only is None:
        return [name for name in NAMES if long or name not in LONG]
    if refused := [name for name in only if name in LONG and not long]:
        raise ValueError(f"{refused[0]} takes minutes: add --long")
    return list(only)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    given = arguments.parse_args(argv)
    try:
        names = chosen(given.only, given.long)
    except ValueError as error:
        arguments.error(str(error))
    sizes = QUICK if given.quick else Sizes()
    runs = given.runs or (1 if given.quick else 5)
    allow_open_files()
    before = os.getloadavg()

    def save() -> dict[str, Any]:
        told = report(campaign, runs, sizes, before)
        if given.json:
            given.json.write_text(json.dumps(told))
        return told

    daemons = [OURS, *([BARE] if given.bare else []), *given.peer]
    with scripted_models(given.models) as urls:
        campaign = Campaign(daemons, runs, sizes, urls)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(campaign.run(names, save))
    _print(save(), [daemon.name for daemon in daemons], sizes)
    return 1 if campaign.faults else 0


def report(
    campaign: Campaign, runs: int, sizes: Sizes, load_before: Sequence[float]
) -> dict[str, Any]:
    """All that was found: figures and goals by their rows' keys, and the values of each run."""
    figures, machine = campaign.figures()
    return {
        "runs": runs,
        "processors": os.cpu_count(),
        "load": {"before": load_before, "after": os.getloadavg()},
        "sizes": msgspec.to_builtins(sizes),
        "goals": {row.key: row.goal for row in rows(sizes) if row.goal is not None},
        "medians": figures,
        "machine": machine,
        "values": campaign.values | {"machine": campaign.machine},
        "faults": campaign.faults,
    }


def _print(told: dict[str, Any], names: Sequence[str], sizes: Sizes) -> None:
    before, after = (told["load"][when][0] for when in ("before", "after"))
    print(f"Medians of {told['runs']} runs, {told['processors']} processors,", end=" ")
    print(f"load {before:.1f} before and {after:.1f} after.")
    print("`yardstick`: how many times what the machine gives without a daemon, and that figure.")
    if before > told["processors"] / 2:
        print(
            "The machine had other work before this began: times are longer than they have to be."
        )
    for table in (
        render_machine(told["machine"], sizes),
        render(names, told["medians"], told["machine"], sizes),
    ):
        if table:
            print(f"\n{table}")
    for fault in told["faults"]:
        print(f"failed: {fault}")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
