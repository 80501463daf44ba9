"""The benchmark runs, and has a number for every row. What the numbers are is not judged here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from tests.bench.sections import QUICK
from tests.bench.table import rows

REPO = Path(__file__).resolve().parents[2]
BOUND_S = 120.0


def test_the_quick_benchmark_has_a_number_for_every_row(tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--json", str(out)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads(out.read_text())["medians"]["tertuliad"]
    assert set(numbers) == {key for key, _ in rows(QUICK)}
    assert all(math.isfinite(value) for value in numbers.values())
    for _, title in rows(QUICK):
        assert title in done.stdout
