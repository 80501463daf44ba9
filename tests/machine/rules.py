"""How a machine of Hypothesis is made of steps, and how much it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

LONG = os.environ.get("TERTULIA_HYPOTHESIS") == "long"
SETTINGS = settings(
    max_examples=300 if LONG else 30,
    stateful_step_count=60 if LONG else 40,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
WHO, WHICH, HOW = st.integers(0, 11), st.integers(0, 23), st.integers(0, 47)
"""Every rule takes the same three numbers, so that nothing that is drawn depends on what was
seen."""


def with_rules(
    machine: type[RuleBasedStateMachine], steps: Iterable[Callable[..., Any]]
) -> type[RuleBasedStateMachine]:
    """The machine with a rule for each step, which its method `step` takes with the numbers."""
    for step in steps:
        setattr(machine, step.__name__, _rule(step))
    return machine


def _rule(step: Callable[..., Any]) -> Callable[..., None]:
    def run(self: Any, who: int, which: int, how: int) -> None:
        taken: list[str] = self.__dict__.setdefault("taken", [])
        taken.append(f"{step.__name__}(who={who}, which={which}, how={how})")
        try:
            self.step(step, who, which, how)
        except Exception as error:
            error.add_note("behind " + ", ".join(taken))  # also where it does not come again
            raise

    run.__name__ = step.__name__
    made: Callable[..., None] = rule(who=WHO, which=WHICH, how=HOW)(run)
    return made
