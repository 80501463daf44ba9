"""All runs of all sections, in turn: those of the daemons alternate, so that a noisy moment of the
machine meets them all. A run that fails is told of, and the others go on.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from tests.bench.driven import Daemon, Failed
from tests.bench.measuring import Bench, Numbers, Section
from tests.bench.rows import machine_rows, rows
from tests.bench.sections import MACHINE, SECTIONS
from tests.bench.sizes import Sizes
from tests.bench.yardsticks import yardsticks

Values = dict[str, list[float]]


class Campaign:
    """What was found so far: each daemon's values, a list over the runs, and what went wrong."""

    def __init__(
        self, daemons: Sequence[Daemon], runs: int, sizes: Sizes, model_urls: Sequence[str]
    ) -> None:
        self.values: dict[str, Values] = {d.name: {} for d in daemons}
        self.machine: Values = {}
        self.faults: list[str] = []
        self._daemons = daemons
        self._runs = runs
        self._sizes = sizes
        self._model_urls = model_urls

    async def run(self, names: Sequence[str], save: Callable[[], object]) -> None:
        """All of these sections; `save` is called after each, as the next may take minutes."""
        for name in names:
            if name == MACHINE:
                await self._measure_machine()
            else:
                await self._measure(name, SECTIONS[name])
            save()
        _say("")

    async def _measure_machine(self) -> None:
        for run in range(self._runs):
            _say(f"{MACHINE}, run {run + 1} of {self._runs} ...")
            with _home() as home:
                _add(self.machine, await yardsticks(home, self._model_urls, self._sizes))

    async def _measure(self, name: str, section: Section) -> None:
        with contextlib.ExitStack() as homes:
            benches = []
            for daemon in self._who_does(name, section):
                home = homes.enter_context(_home()) if section.fill else Path()
                bench = Bench(daemon, home, self._model_urls, self._sizes)
                _say(f"{name}, {daemon.name} ...")
                with self._faults_of(name, daemon):
                    filled = await section.fill(bench) if section.fill else ""
                    benches.append(msgspec.structs.replace(bench, filled=filled))
            for run in range(self._runs):
                for bench in benches:
                    _say(f"{name}, run {run + 1} of {self._runs}, {bench.daemon.name} ...")
                    with self._faults_of(name, bench.daemon):
                        _add(self.values[bench.daemon.name], await _one_run(section, bench))

    def _who_does(self, name: str, section: Section) -> Sequence[Daemon]:
        if section.long:
            return self._daemons[:1]
        return [d for d in self._daemons if d.only is None or name in d.only]

    @contextlib.contextmanager
    def _faults_of(self, section: str, daemon: Daemon) -> Iterator[None]:
        try:
            yield
        except (Failed, OSError, TimeoutError) as error:
            self.faults.append(f"{daemon.name}, {section}: {error or 'it took too long'}")

    def figures(self) -> tuple[dict[str, Numbers], Numbers]:
        """One number for all runs: of each daemon, and of the machine."""
        of_runs = {row.key: row.of_runs for row in (*rows(self._sizes), *machine_rows(self._sizes))}

        def figures(values: Values) -> Numbers:
            return {key: of_runs[key](runs) for key, runs in values.items()}

        return {name: figures(found) for name, found in self.values.items()}, figures(self.machine)


async def _one_run(section: Section, bench: Bench) -> Numbers:
    if section.fill:
        return await section.measure(bench)
    with _home() as home:
        return await section.measure(msgspec.structs.replace(bench, home=home))


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as home:
        yield Path(home)


def _add(values: Values, numbers: Numbers) -> None:
    for key, value in numbers.items():
        values.setdefault(key, []).append(value)


def _say(line: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
