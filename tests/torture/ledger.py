"""What clients were told, and what a daemon's log has to hold because of that: pure.

The rules that are checked after every restart:
- A session whose creation was acknowledged is listed, unless somebody asked for its deletion; one
  whose deletion was acknowledged is not.
- Every acknowledged message is in the log once; those of one client are in the order in which they
  were sent. A message without an answer is there once or not at all.
- What a client saw of the log is a piece of it, without gap or repeat.
- Every turn has one end, and one that has neither an answer nor an abort says what went wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

Event = dict[str, Any]


class Ledger:
    """Grows over all of a run."""

    def __init__(self) -> None:
        self.created: set[str] = set()
        self.delete_asked: set[str] = set()
        self.deleted: set[str] = set()
        self.sent: dict[str, set[str]] = defaultdict(set)
        """By session, the prompts that were sent, answered or not."""
        self.accepted: dict[str, list[list[str]]] = defaultdict(list)
        """By session, for each client the prompts that were acknowledged, in their order."""
        self.seen: dict[str, list[list[str]]] = defaultdict(list)
        """By session, for each client the ids of the stored events that it saw, in their order."""

    @property
    def alive(self) -> set[str]:
        """The sessions that have to be there."""
        return self.created - self.delete_asked

    def check_list(self, listed: Sequence[str]) -> None:
        assert len(set(listed)) == len(listed), "a session is listed twice"
        missing = self.alive - set(listed)
        assert not missing, f"sessions are lost: {sorted(missing)}"
        back = self.deleted & set(listed)
        assert not back, f"deleted sessions are back: {sorted(back)}"

    def check_log(self, session: str, log: Sequence[Event]) -> None:
        ids = [event["id"] for event in log]
        assert len(set(ids)) == len(ids), f"{session}: an event is there twice"
        chain = [event["parentId"] for event in log]
        assert chain == [None, *ids[:-1]], f"{session}: the chain is broken"
        self._check_prompts(session, [e for e in log if e["type"] == "user.message"])
        for piece in self.seen[session]:
            start = ids.index(piece[0])
            held = ids[start : start + len(piece)]
            assert held == piece, _difference(session, log, held, piece)
        check_turns(session, log)

    def _check_prompts(self, session: str, asked: Sequence[Event]) -> None:
        prompts = [event["data"]["content"] for event in asked]
        assert len(set(prompts)) == len(prompts), f"{session}: a message is there twice"
        strange = set(prompts) - self.sent[session]
        assert not strange, f"{session}: messages that nobody sent: {strange}"
        place = {prompt: number for number, prompt in enumerate(prompts)}
        for accepted in self.accepted[session]:
            lost = [prompt for prompt in accepted if prompt not in place]
            assert not lost, f"{session}: acknowledged messages are lost: {lost}"
            places = [place[prompt] for prompt in accepted]
            assert places == sorted(places), f"{session}: messages are out of order"


def _difference(
    session: str, log: Sequence[Event], held: Sequence[str], seen: Sequence[str]
) -> str:
    """Where a client saw something else than the log holds."""
    types = {event["id"]: event["type"] for event in log}
    pairs = list(zip(held, seen, strict=False))
    place = next((n for n, (left, right) in enumerate(pairs) if left != right), len(pairs))
    told = [types.get(one, f"unknown {one}") for one in seen[max(0, place - 2) : place + 3]]
    there = [types[one] for one in held[max(0, place - 2) : place + 3]]
    return f"{session}: a gap or a repeat at {place}: seen {told}, stored {there}"


def check_turns(session: str, log: Sequence[Event]) -> None:
    """Each turn ends once, and says how."""
    open_turn: list[str] | None = None
    for event in log:
        kind = event["type"]
        if kind == "assistant.turn_start":
            _check_said(session, open_turn)
            open_turn = []
        elif open_turn is not None:
            open_turn.append(kind)
    _check_said(session, open_turn)


def _check_said(session: str, turn: list[str] | None) -> None:
    if turn is None:
        return
    assert turn.count("assistant.turn_end") == 1, f"{session}: {turn}"
    ways = {"assistant.message", "abort", "session.error"} & set(turn)
    assert ways, f"{session}: a turn ends without a word: {turn}"
