"""Every section by its name, in the order in which they run."""

from __future__ import annotations

from tests.bench.beside import BESIDE
from tests.bench.opening import LIVE, OPENING
from tests.bench.stored import LONG, STORED
from tests.bench.turns import TURNS

SECTIONS = OPENING | TURNS | STORED | LIVE | LONG | BESIDE
MACHINE = "machine"
"""The yardsticks: not of a daemon, so not among the sections."""
NAMES = (MACHINE, *SECTIONS)
