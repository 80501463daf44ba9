"""Promises 3 and 4, in short: kills lose nothing. `make torture` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.support.model_thread import ModelThread
from tests.torture.chaos import Chaos
from tests.torture.neighbours import Neighbours


def test_kills_at_random_moments_and_named_steps_lose_nothing_and_repeat_nothing(
    tmp_path: Path,
) -> None:
    with ModelThread() as model:
        chaos = Chaos(tmp_path / "home", model, seed=1)
        chaos.run(15)
        assert chaos.ledger.messages > 3 * chaos.kills, "nothing was put to the test"


def test_several_daemons_that_are_killed_and_stopped_write_one_log(tmp_path: Path) -> None:
    with ModelThread() as model:
        neighbours = Neighbours(tmp_path / "home", model, seed=1)
        neighbours.run(6)
        messages = neighbours.chaos.ledger.messages
        assert messages > 3 * neighbours.kills, "nothing was put to the test"
