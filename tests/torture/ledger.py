"""What clients were told, and what a daemon's log has to hold because of that: pure.

The rules that are checked after every restart:
- A session whose creation was acknowledged is listed, unless somebody asked for its deletion; one
  whose deletion was acknowledged is not.
- Every acknowledged message is in the log once; those of one client are in the order in which they
  were sent. A message without an answer is there once or not at all.
- What a client saw of the log is a piece of it, without gap or repeat.
- What was rewound is not in the log; a fork has what its source had, as far as its maker saw it.
- A session has the name that was given last, or one that was asked for and not answered.
- Every turn has one end, and one that has neither an answer nor an abort says what went wrong; a
  fork or a rewind may lead through the middle of a turn.
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
        self.forks: dict[str, str] = {}
        """The source of each session that was asked for as a fork."""
        self.rewound: set[str] = set()
        self.left_out: dict[str, set[str]] = defaultdict(set)
        """By session, prompts whose rewinding was acknowledged."""
        self.names: dict[str, set[str | None]] = {}
        """By session that was named, the names that it may have."""

    @property
    def alive(self) -> set[str]:
        """The sessions that have to be there."""
        return self.created - self.delete_asked

    @property
    def messages(self) -> int:
        """How many messages were acknowledged, and not rewound since by their client."""
        return sum(len(each) for lists in self.accepted.values() for each in lists)

    @property
    def summary(self) -> str:
        """What was checked, in figures."""
        seen = sum(len(each) for lists in self.seen.values() for each in lists)
        return (
            f"{len(self.created)} sessions, {self.messages} acknowledged messages and {seen} events"
            " seen are all there, once and in order"
        )

    def check_list(self, rows: Sequence[dict[str, Any]]) -> None:
        listed = [str(row["sessionId"]) for row in rows]
        assert len(set(listed)) == len(listed), "a session is listed twice"
        missing = self.alive - set(listed)
        assert not missing, f"sessions are lost: {sorted(missing)}"
        back = self.deleted & set(listed)
        assert not back, f"deleted sessions are back: {sorted(back)}"
        for row in rows:
            name = row.get("name") if row.get("named") else None
            names = self.names.get(row["sessionId"], {None})
            assert name in names, f"{row['sessionId']} is called {name}, not one of {names}"

    def check_log(self, session: str, log: Sequence[Event]) -> None:
        ids = [event["id"] for event in log]
        assert len(set(ids)) == len(ids), f"{session}: an event is there twice"
        chain = [event["parentId"] for event in log]
        assert chain == [None, *ids[:-1]], f"{session}: the chain is broken"
        self._check_prompts(session, [e for e in log if e["type"] == "user.message"])
        for seen in self.seen[session]:
            piece = [one for one in seen if one in ids] if session in self.rewound else seen
            start = ids.index(piece[0]) if piece else 0
            held = ids[start : start + len(piece)]
            assert held == piece, _difference(session, log, held, piece)
        check_turns(session, log, cut=session in self.forks or session in self.rewound)

    def _check_prompts(self, session: str, asked: Sequence[Event]) -> None:
        prompts = [event["data"]["content"] for event in asked]
        assert len(set(prompts)) == len(prompts), f"{session}: a message is there twice"
        strange = set(prompts) - self._may_be_said(session)
        assert not strange, f"{session}: messages that nobody sent: {strange}"
        back = self.left_out[session] & set(prompts)
        assert not back, f"{session}: what was rewound is back: {back}"
        place = {prompt: number for number, prompt in enumerate(prompts)}
        for accepted in self.accepted[session]:
            lost = [prompt for prompt in accepted if prompt not in place]
            assert not lost, f"{session}: acknowledged messages are lost: {lost}"
            places = [place[prompt] for prompt in accepted]
            assert places == sorted(places), f"{session}: messages are out of order"

    def _may_be_said(self, session: str | None) -> set[str]:
        sent: set[str] = set()
        while session is not None:
            sent |= self.sent[session]
            session = self.forks.get(session)
        return sent


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


def check_turns(session: str, log: Sequence[Event], *, cut: bool) -> None:
    """Each turn ends once, and says how. With `cut`, the log may lead through the middle of one,
    which ends there without a word."""
    turns: list[list[str]] = []
    for event in log:
        kind = event["type"]
        if kind == "assistant.turn_start":
            turns.append([])
        elif turns:
            turns[-1].append(kind)
    for turn in turns:
        ends = turn.count("assistant.turn_end")
        assert ends == 1, f"{session}: {turn}"
        ways = {"assistant.message", "abort", "session.error"} & set(turn)
        assert ways or cut, f"{session}: a turn ends without a word: {turn}"
