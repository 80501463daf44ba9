"""`python -m tests.torture --seconds N --seed S [--races N]`: kills at random moments and at every
step, several daemons on one home that are killed and stopped, then races."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from tests.support.model_thread import ModelThread
from tests.torture.chaos import Chaos
from tests.torture.neighbours import DAEMONS, Neighbours
from tests.torture.races import races


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=120.0, help="of kills [%(default)g]")
    parser.add_argument("--seed", type=int, help="repeats the commands of a run")
    parser.add_argument("--races", type=int, default=1000, help="between two daemons [%(default)s]")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, ModelThread() as model:
        chaos = Chaos(Path(folder) / "kills", model, seed)
        chaos.run(given.seconds)
        print(f"{chaos.kills} kills: {chaos.ledger.summary}", flush=True)
        print("killed at steps: " + ", ".join(sorted(chaos.died_at)), flush=True)
        neighbours = Neighbours(Path(folder) / "neighbours", model, seed)
        neighbours.run(given.seconds / 3)
        print(
            f"{neighbours.kills} kills and {neighbours.stops} stops among {DAEMONS} daemons on one"
            f" home: {neighbours.chaos.ledger.summary}",
            flush=True,
        )
        if given.races:
            accepted = races(Path(folder) / "races", model, given.races)
            print(f"{given.races} races: {accepted} messages accepted, one log", flush=True)


if __name__ == "__main__":
    main()
