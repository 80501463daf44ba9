"""A client that comes by every named step of a daemon (`dying_daemon`) in a fixed order, with few
sessions: a daemon that is to die at one of them does, whatever the machine's pace."""

from __future__ import annotations

from tests.support.model_thread import ModelThread
from tests.support.wire import Wire
from tests.torture.client import Client

SAY = "[[say:yes]]"
SAY_HALF = "[[fake-n6-stall2]]"
SAY_TOOL = "[[fake-toollook]]"
TURNS = 4
"""With so many more than those of `_talk`, a snapshot is stored."""


class Walk(Client):
    """One way past all steps. Its sessions are named after `name`."""

    def __init__(self, wire: Wire, model: ModelThread, name: str) -> None:
        super().__init__(wire, model, [], name)
        self._sessions = [f"{name}.{place}" for place in ("one", "two", "three")]

    def step(self) -> None:
        """All of the way. Raises `AssertionError` where the daemon lives at its end."""
        for session in self._sessions:  # three at once are so many that idle ones are let go
            self._done(self.ask_to_create(session, streaming=True))
        one, two, three = self._sessions
        self._talk(one)
        self._done(self.ask_to_fork(one, f"{one}.fork"))
        self._done(self.ask_to_say(two, SAY, wait=True))
        self._done(self.ask_to_rewind(two, self.wire.event(two, "user.message")))
        self._done(self.ask_to_delete(three))
        self.wire.until_end()

    def _talk(self, session: str) -> None:
        """A turn that is stopped while a message waits, that message's, and some more."""
        self._done(self.ask_to_say(session, SAY_HALF))
        self.wire.event(session, "assistant.message_delta")
        self._done(self.ask_to_say(session, SAY))
        self._done(self.wire.ask("session.abort", {"sessionId": session}))
        for prompt in (SAY_TOOL, *[SAY] * TURNS):
            self._done(self.ask_to_say(session, prompt, wait=True))

    def _done(self, asked: int) -> None:
        answer = self.wire.answer(asked)
        assert "result" in answer, answer
