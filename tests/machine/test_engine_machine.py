"""Promises 1 to 4 in any order of commands: the whole engine against a model on paper.

Several clients, several sessions, a model that the machine drives, evictions, lost connections,
clients that do not read for a while, and crashes, at rest and in the middle of a command.
`TERTULIA_HYPOTHESIS=long` runs it for minutes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine

from tests.machine import keeping, looking, pace, talking
from tests.machine.engine import Engine
from tests.machine.ground import Ground
from tests.machine.rules import LONG, SETTINGS, with_rules

Step = Callable[[Engine, int, int, int], Awaitable[None]]


class EngineMachine(RuleBasedStateMachine):
    """Does steps and settles after each."""

    forgetful = False

    def __init__(self) -> None:
        super().__init__()
        self.ground = Ground()
        self.engine = Engine(self.ground)
        self.engine.forgetful = self.forgetful
        self.failed = True
        self.ground.run(self.engine.start())
        self.failed = False

    def step(self, step: Step, who: int, which: int, how: int) -> None:
        async def whole() -> None:
            await step(self.engine, who, which, how)
            await self.engine.settle()

        self.failed = True
        self.ground.run(whole())
        self.failed = False

    def teardown(self) -> None:
        try:
            self.ground.run(self.engine.daemon.end() if self.failed else self.engine.end())
        finally:
            self.ground.close()


STEPS: tuple[Step, ...] = (
    keeping.create,
    talking.send_plainly,
    talking.finish,
    talking.send,
    talking.delta,
    talking.fail,
    talking.abort,
    talking.send_and_stay,
    talking.all_at_once,
    talking.abort_as_it_ends,
    talking.suspend,
    talking.look_at_queue,
    talking.move,
    talking.insert,
    talking.change,
    talking.pause,
    keeping.resume,
    keeping.detach,
    keeping.close,
    keeping.describe,
    keeping.name,
    keeping.switch_model,
    keeping.note,
    keeping.fork,
    keeping.rewind,
    keeping.delete,
    keeping.export,
    keeping.import_,
    looking.list_pages,
    looking.search,
    looking.read,
    looking.look,
    keeping.evict,
    keeping.leave_and_come_back,
    pace.stop_reading,
    pace.read_on,
    pace.hundreds_at_once,
    keeping.crash,
    keeping.crash_in_next,
)
PACED: tuple[Step, ...] = (
    talking.send_plainly,
    talking.delta,
    talking.finish,
    keeping.note,
    pace.stop_reading,
    pace.read_on,
)
"""With few others beside them, steps about pace meet in the middle of an answer."""


async def speak(engine: Engine, who: int, which: int, how: int) -> None:
    """A whole turn."""
    await talking.send_plainly(engine, who, which, how)
    await engine.settle()
    await talking.finish(engine, who, which, how)


BRANCHED: tuple[Step, ...] = (
    speak,
    keeping.note,
    keeping.fork,
    keeping.rewind,
)
"""With few others beside them, one log is forked and rewound again and again, and goes on."""


class WholeMachine(EngineMachine):
    """Every step that there is."""


class ForgetfulMachine(WholeMachine):
    """The same with every idle session dropped from memory after every step: nobody can tell."""

    forgetful = True


class PacedMachine(EngineMachine):
    """Clients stop reading and read on while answers come."""

    def __init__(self) -> None:
        super().__init__()
        self.step(keeping.create, 0, 0, 0)
        for who in (1, 2):
            self.step(keeping.resume, who, 0, 0)
        self.step(talking.send_plainly, 1, 0, 0)


class BranchedMachine(EngineMachine):
    """A session with a turn, and what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        for step in (keeping.create, speak):
            self.step(step, 0, 0, 0)


TestEngine = with_rules(WholeMachine, STEPS).TestCase
TestEngine.settings = SETTINGS
TestForgetfulEngine = with_rules(ForgetfulMachine, STEPS).TestCase
TestForgetfulEngine.settings = SETTINGS
TestPacedEngine = with_rules(PacedMachine, PACED).TestCase
TestPacedEngine.settings = SETTINGS
TestBranchedEngine = with_rules(BranchedMachine, BRANCHED).TestCase
TestBranchedEngine.settings = settings(SETTINGS, max_examples=150 if LONG else 20)
