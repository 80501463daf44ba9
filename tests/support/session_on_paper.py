"""A session without actor, store or clock: decisions are folded at once, as a commit would do."""

from __future__ import annotations

import json
from typing import Any

from tertulia_protocol.config import SessionConfig
from tertuliad.providers.base import Done, Message, ToolCall, Usage
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, answering, sending, settings
from tertuliad.sessions.decide.answering import Outcome, Progress
from tertuliad.sessions.sealed import seal
from tertuliad.sessions.state import SessionState, apply, fold
from tertuliad.store.base import Record
from tests.support.in_process_model import InProcessModel

AT_MS = 1_700_000_000_123


def message(number: int, text: str | None = None, *, first: bool = False) -> facts.MessageQueued:
    return facts.MessageQueued(
        message_id=f"m{number}", content=text or f"message {number}", first=first
    )


def outcome(*calls: ToolCall, finish_reason: str = "stop") -> Outcome:
    return Outcome(
        done=Done(finish_reason=finish_reason, tool_calls=calls, usage=Usage(10, 5)),
        target=InProcessModel().target("m"),
        duration_ms=12.34,
        first_delta_ms=5.67,
    )


class SessionOnPaper:
    """`log` is what a store would hold, `published` every event in order, as JSON."""

    def __init__(self, **config: Any) -> None:
        self.state = SessionState(id="s", created_ms=AT_MS, history=[])
        self.log: list[Record] = []
        self.published: list[dict[str, Any]] = []
        self.progress: Progress | None = None
        """Of the turn that runs."""
        self.do(settings.create(self.state, SessionConfig(**config), "1", "t", None))

    def do(self, decision: Decision) -> list[dict[str, Any]]:
        """Fold a decision; gives the events it publishes."""
        sealed = seal(self.state, decision.drafts, AT_MS)
        for item in sealed:
            if item.seq:
                apply(self.state, item.seq, item.type, item.id, item.data)
                self.log.append(Record(item.seq, item.type, item.body))
        added = [json.loads(item.body) for item in sealed if item.shown]
        self.published += added
        self._follow_turn(decision)
        return added

    def _follow_turn(self, decision: Decision) -> None:
        if decision.starts_turn:
            assert self.state.turn is not None
            self.progress = Progress(turn_id=self.state.turn.id, message_id="answer")
        elif self.state.turn is None:
            self.progress = None

    def send(self, number: int, text: str | None = None, *, first: bool = False) -> list[Any]:
        sent = message(number, text, first=first)
        return self.do(sending.send(self.state, sent, lambda message_id: message_id))

    @property
    def history(self) -> list[Message]:
        """What the model reads."""
        assert self.state.history is not None
        return self.state.history

    def say(self, text: str = "", reasoning: str = "") -> list[Any]:
        """A piece of the answer arrives."""
        assert self.progress is not None
        self.progress.text.append(text)
        self.progress.reasoning.append(reasoning)
        return self.do(answering.delta(self.state, self.progress))

    def finish(self, *calls: ToolCall, finish_reason: str = "stop") -> list[Any]:
        assert self.progress is not None
        ended = outcome(*calls, finish_reason=finish_reason)
        return self.do(answering.done(self.state, self.progress, ended))

    def folded(self) -> SessionState:
        """The state that another process would make of the log."""
        state = SessionState(id="s", created_ms=AT_MS, history=[])
        fold(state, self.log)
        return state

    def refold(self) -> None:
        """Go on as after a restart: nothing is left but the log."""
        self.state, self.progress = self.folded(), None


def types(published: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in published]


def stored(published: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in published if not event.get("ephemeral")]
