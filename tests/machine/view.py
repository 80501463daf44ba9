"""A client of the machine, and what it has to be shown.

A client that reads is told everything. One that has stopped is told nothing more; once it reads on
it gets what was stored meanwhile and is still part of the log, and of an answer of which it has
missed a piece no further pieces. Of a session that was deleted meanwhile, of which it has missed
anything, it gets the end alone.
"""

from __future__ import annotations

from typing import Any

from tests.machine.book import Event, Message
from tests.machine.paper import Paper
from tests.support.frames_client import FramesClient

PIECES = {
    "assistant.message_start",
    "assistant.message_delta",
    "assistant.reasoning_delta",
}
"""Of an answer that is told whole later."""


class View:
    """What a client has to be shown of the sessions of one id: grows while it is attached."""

    def __init__(self) -> None:
        self.before: list[tuple[Paper, Event]] = []
        self.paper: Paper | None = None
        self.start = 0
        self._stopped_at: int | None = None
        """The log's head when the client stopped reading."""
        self._missed = False
        """The client has missed a piece of the answer that comes."""

    def attach(self, paper: Paper, start: int) -> None:
        if self.paper is None:
            self.paper, self.start, self._missed = paper, start, False
            for event in paper.told[:start]:
                self._missed = missed_after(event, self._missed, taken=False)

    def detach(self) -> None:
        self.before, self.paper, self._stopped_at = self.expected(), None, None

    def end(self) -> None:
        """The session is deleted."""
        if self.paper is not None and self._stopped_at is not None:
            paper = self.paper
            if paper.told[self.start :]:
                self.before.append((paper, Event("session.idle", True, 0, paper.kept)))
        self.detach()

    def expected(self) -> list[tuple[Paper, Event]]:
        return self.before + self._told()[0]

    def stop(self) -> None:
        """Nothing more is taken."""
        if self.paper is not None:
            told, self._missed = self._told()
            self.before, self.start = self.before + told, len(self.paper.told)
            self._stopped_at = self.paper.head

    def go_on(self) -> None:
        """What was stored meanwhile comes from the log, and whether the session is idle."""
        if self.paper is None or self._stopped_at is None:
            return
        paper = self.paper
        missed = paper.told[self.start :]
        caught = [event for event in paper.shown if event.seq > self._stopped_at]
        idles = [event for event in missed if event.type == "session.idle"]
        if missed and paper.turn is None:
            said = idles[-1].said if idles else False
            caught.append(Event("session.idle", said, 0, paper.kept))
        for event in missed:
            self._missed = missed_after(event, self._missed, taken=False)
        self.before += [(paper, event) for event in caught]
        self.start, self._stopped_at = len(paper.told), None

    def _told(self) -> tuple[list[tuple[Paper, Event]], bool]:
        """What was shown since `start`, and whether the answer that comes has a hole."""
        paper, missed = self.paper, self._missed
        told: list[tuple[Paper, Event]] = []
        if paper is None or self._stopped_at is not None:
            return told, missed
        for event in paper.told[self.start :]:
            if event.type not in PIECES or not missed:
                told.append((paper, event))
            missed = missed_after(event, missed, taken=not missed)
        return told, missed


def missed_after(event: Event, missed: bool, *, taken: bool) -> bool:
    """Whether the answer that comes has a hole behind this event; each turn has another answer."""
    if event.type in PIECES:
        return not taken
    return missed and event.type != "assistant.turn_start"


class Client:
    """One connection, and what it has seen by session."""

    def __init__(self, frames: FramesClient) -> None:
        self.frames = frames
        self.views: dict[str, View] = {}
        self.cursors: dict[str, tuple[str, int]] = {}
        """By session, the last cursor that was answered, and the seq behind which it is."""
        self.waits: dict[int, tuple[Paper, Message | None]] = {}
        """Requests that wait for a session to be idle, or for the end of a message's turn."""
        self.over: set[int] = set()
        """Those of them for which there was nothing left to wait for, once at least."""
        self.reads = True
        self._seen: dict[str, list[dict[str, Any]]] = {}
        self._taken = 0

    def view(self, session: str) -> View:
        return self.views.setdefault(session, View())

    def attached(self, session: str) -> bool:
        return session in self.views and self.views[session].paper is not None

    def seen(self, session: str) -> list[dict[str, Any]]:
        messages = self.frames.messages
        while self._taken < len(messages):
            message = messages[self._taken]
            self._taken += 1
            if message.get("method") == "session.event":
                params = message["params"]
                self._seen.setdefault(params["sessionId"], []).append(params["event"])
        return self._seen.get(session, [])
