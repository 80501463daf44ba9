"""The benchmark: `python -m tests.bench`. Our daemon, and any other of the same wire beside it.

The model is the scripted one in a process of its own. The runs of all daemons alternate, so that a
noisy moment of the machine meets them all; every number is the median over the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.driven import Daemon, Failed
from tests.bench.sections import QUICK, SECTIONS, Bench, Numbers, Sizes, median
from tests.bench.table import render

REPO = Path(__file__).resolve().parents[2]
OURS = Daemon("tertuliad", (str(Path(sys.executable).with_name("tertuliad")),))


@contextlib.contextmanager
def scripted_model() -> Iterator[str]:
    """The scripted model in its own process; its base URL."""
    command = [sys.executable, str(REPO / "tests" / "support" / "scripted_model.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(process.stdout.readline().rpartition(b":")[2])
        yield f"http://127.0.0.1:{port}/v1"
        process.stdin.close()
        process.wait(10)


async def measure(
    daemons: Sequence[Daemon], sections: Sequence[str], runs: int, sizes: Sizes, model_url: str
) -> tuple[dict[str, Numbers], list[str]]:
    """The medians of each daemon, and what went wrong."""
    found: dict[str, dict[str, list[float]]] = {daemon.name: {} for daemon in daemons}
    faults = []
    for section in sections:
        for run in range(runs):
            for daemon in daemons:
                _say(f"{section}, run {run + 1} of {runs}, {daemon.name} ...")
                try:
                    numbers = await _one_run(section, daemon, sizes, model_url)
                except (Failed, OSError, TimeoutError) as error:
                    faults.append(f"{daemon.name}, {section}: {error or 'it took too long'}")
                    continue
                for key, value in numbers.items():
                    found[daemon.name].setdefault(key, []).append(value)
    _say("")
    medians = {
        name: {key: median(values) for key, values in numbers.items()}
        for name, numbers in found.items()
    }
    return medians, faults


async def _one_run(section: str, daemon: Daemon, sizes: Sizes, model_url: str) -> Numbers:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as home:
        return await SECTIONS[section](Bench(daemon, Path(home), model_url, sizes))


def _say(line: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _peer(text: str) -> Daemon:
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        raise argparse.ArgumentTypeError("NAME=COMMAND, such as other='/opt/other --flag'")
    return Daemon(name, tuple(shlex.split(command)))


def _sections(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - SECTIONS.keys()):
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; {', '.join(SECTIONS)}")
    return chosen


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", type=_sections, default=list(SECTIONS), metavar="A,B", help=", ".join(SECTIONS)
    )
    parser.add_argument("--runs", type=int, metavar="N", help="of each section [5; quick: 1]")
    parser.add_argument(
        "--peer",
        type=_peer,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another daemon, measured beside ours; the SDKs' flags are added to its command"
        " unless --stdio is in it",
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    given = parser().parse_args(argv)
    sizes = QUICK if given.quick else Sizes()
    runs = given.runs or (1 if given.quick else 5)
    daemons = [OURS, *given.peer]
    with scripted_model() as url, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        found, faults = runner.run(measure(daemons, given.only, runs, sizes, url))
    print(f"Medians of {runs} runs, {os.cpu_count()} processors.")
    print(render([daemon.name for daemon in daemons], found, sizes))
    for fault in faults:
        print(f"failed: {fault}")
    if given.json:
        given.json.write_text(json.dumps({"runs": runs, "medians": found, "faults": faults}))
    return 1 if faults else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
