"""Promises 3 and 4, in short: kills lose nothing. `make torture` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.support.model_thread import ModelThread
from tests.torture.chaos import Chaos


def test_kills_at_random_moments_and_named_steps_lose_nothing_and_repeat_nothing(
    tmp_path: Path,
) -> None:
    with ModelThread() as model:
        chaos = Chaos(tmp_path / "home", model, seed=1)
        chaos.run(15)
        accepted = sum(len(a) for lists in chaos.ledger.accepted.values() for a in lists)
        assert accepted > 3 * chaos.kills, "nothing was put to the test"
