"""`python -m tests.torture --seconds N --kills N --seed S [--races N]`: a kill at every step, kills
at random moments, several daemons on one home that are killed and stopped, then races.

However slow the machine is, there are as many kills as was asked for at least, and a death at each
step: with fewer it fails.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from tests.support.model_thread import ModelThread
from tests.torture.chaos import Chaos
from tests.torture.dying_daemon import STEPS
from tests.torture.neighbours import DAEMONS, Neighbours
from tests.torture.races import races

DISTURBED = 5
"""So many kills, and stops, at least, of daemons that share a home."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", allow_abbrev=False)
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="of random kills [%(default)g]"
    )
    parser.add_argument("--kills", type=int, default=200, help="so many at least [%(default)s]")
    parser.add_argument("--seed", type=int, help="repeats the commands of a run")
    parser.add_argument("--races", type=int, default=1000, help="between two daemons [%(default)s]")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, ModelThread() as model:
        _steps(Chaos(Path(folder) / "steps", model, seed))
        _kills(Chaos(Path(folder) / "kills", model, seed), given.kills, given.seconds)
        _neighbours(Neighbours(Path(folder) / "neighbours", model, seed), given.seconds / 3)
        if given.races:
            accepted = races(Path(folder) / "races", model, given.races)
            print(f"{given.races} races: {accepted} messages accepted, one log", flush=True)


def _steps(chaos: Chaos) -> None:
    for step in STEPS:
        chaos.kill_at(step)
    chaos.check(chaos.ledger.alive)
    print(f"{len(chaos.died_at)} of {len(STEPS)} steps: {chaos.ledger.summary}", flush=True)
    _require(len(chaos.died_at), len(STEPS), "steps were died at")


def _kills(chaos: Chaos, least: int, seconds: float) -> None:
    chaos.run(least, seconds)
    steps = f"{chaos.died_at.total()} of them at {len(chaos.died_at)} steps"
    print(f"{chaos.kills} kills, {steps}: {chaos.ledger.summary}", flush=True)
    _require(chaos.kills, least, "kills were made")


def _neighbours(neighbours: Neighbours, seconds: float) -> None:
    neighbours.run(seconds, DISTURBED)
    done = f"{neighbours.kills} kills and {neighbours.stops} stops"
    summary = neighbours.chaos.ledger.summary
    print(f"{done} among {DAEMONS} daemons on one home: {summary}", flush=True)
    _require(min(neighbours.kills, neighbours.stops), DISTURBED, "kills, or stops, were made")


def _require(number: int, least: int, what: str) -> None:
    if number < least:
        raise SystemExit(f"{number} {what}, and there had to be {least}.")


if __name__ == "__main__":
    main()
