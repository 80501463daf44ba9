"""The benchmark runs, and has a number for every row. What the numbers are is not judged here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import chosen
from tests.bench.rows import Row, machine_rows, rows
from tests.bench.sections import NAMES
from tests.bench.sizes import QUICK
from tests.bench.turns import lost

REPO = Path(__file__).resolve().parents[2]
BOUND_S = 600.0


def test_the_quick_benchmark_has_a_number_for_every_row(tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--long", "--bare", "--json", str(out)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    numbers = told["medians"]["tertuliad"] | told["machine"]
    shown = [*rows(QUICK), *machine_rows(QUICK)]
    assert set(numbers) == {row.key for row in shown}
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["stream.lost"] == 0
    assert numbers["crash.listed"] == numbers["crash.resumed"] == QUICK.kills
    for row in shown:
        assert row.title in done.stdout
    assert "turn.p50" in told["medians"]["bare"]


def test_what_takes_minutes_is_asked_for() -> None:
    assert "idle" not in chosen(None, long=False)
    assert chosen(None, long=True) == list(NAMES)
    with pytest.raises(ValueError, match="--long"):
        chosen(["turn", "page"], long=False)


def test_a_text_that_is_short_or_wrong_counts_as_lost() -> None:
    assert lost("w0 low1 lo", 2) == 0
    assert lost("w0 lo", 2) == 5
    assert lost("w0 loWRONG", 2) == 5
    assert lost("w0 low1 lo and more", 2) == 1


def test_one_bad_run_spoils_a_row_that_has_to_hold_always() -> None:
    assert Row("k", "t", 8, "more", always=True).of_runs([8, 7, 8]) == 7
    assert Row("k", "t", 0, always=True).of_runs([0, 0, 3]) == 3
    assert Row("k", "t", 8).of_runs([8, 7, 8]) == 8
