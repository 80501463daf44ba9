"""Promises 3 and 4, in short: kills lose nothing. `make torture` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.support.model_thread import ModelThread
from tests.torture.chaos import Chaos
from tests.torture.dying_daemon import WRITES
from tests.torture.neighbours import Neighbours

KILLS = 4
SHORT = (
    *(f"{write}.stored" for write in WRITES),
    "user.message.asked",
    "assistant.turn_end.told",
    "call.asked",
    "tool.told",
    "evict.asked",
)
"""The steps of the suite: each write when it is durable and nobody was told, and one of each other
kind. `make torture` takes all."""


def test_a_kill_at_a_named_step_comes_there_and_loses_nothing(tmp_path: Path) -> None:
    with ModelThread() as model:
        chaos = Chaos(tmp_path / "home", model, seed=1)
        for step in SHORT:
            chaos.kill_at(step)
        assert chaos.died_at == dict.fromkeys(SHORT, 1)
        chaos.check(chaos.ledger.alive)


def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    with ModelThread() as model:
        chaos = Chaos(tmp_path / "home", model, seed=1)
        chaos.run(KILLS)
        assert chaos.kills == KILLS
        assert chaos.ledger.messages > 3 * KILLS, "nothing was put to the test"


def test_several_daemons_that_are_killed_and_stopped_write_one_log(tmp_path: Path) -> None:
    with ModelThread() as model:
        neighbours = Neighbours(tmp_path / "home", model, seed=1)
        neighbours.run(6)
        messages = neighbours.chaos.ledger.messages
        assert messages > 3 * neighbours.kills, "nothing was put to the test"
