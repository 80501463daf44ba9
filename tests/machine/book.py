"""What is written down of sessions: their logs, what was told of them, and the state behind it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.machine.paper import Paper

PENDING_MESSAGES = 4
REMEMBERED_KEYS = 3
"""The machine sets the daemon's bounds to these."""
INTERNAL = "tertulia."
NOT_RUN = "This call was not run: the turn ended before it."
T_Facts = tuple[list[str | None], list[str], bool]

Said = str | bool | None


class Refused(Exception):
    """An error answer, by its kind."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Kept:
    """What a fork takes along, as of one event."""

    model: str
    streaming: bool
    auto: str | None = None
    words: str | None = None
    turns: int = 0


@dataclass(frozen=True)
class Event:
    """`seq` is 0 where it is not stored; `said` is what matters of the data."""

    type: str
    said: Said
    seq: int
    kept: Kept
    tools: bool = False

    @property
    def shown(self) -> bool:
        return not self.type.startswith(INTERNAL)


@dataclass
class Message:
    """`id` is what the daemon has answered."""

    prompt: str
    first: bool = False
    key: str | None = None
    id: str | None = None


@dataclass
class Turn:
    """`orphan`: the process that ran it is gone; `imported`: it came with a document, and what
    waits behind it waits for a client. `history` is what the model has to read."""

    message: Message
    history: list[tuple[str, str]]
    text: str = ""
    reasoning: str = ""
    started: bool = False
    orphan: bool = False
    imported: bool = False


@dataclass
class Book:
    """All sessions. With `pages`, each transaction leaves a copy behind; `asked` is the number of
    those that stand when the command is answered."""

    papers: dict[str, Paper] = field(default_factory=dict)
    pages: list[dict[str, Paper]] | None = None
    asked: int = 0
    clock: int = 0
    made: int = 0

    def committed(self, *, aside: bool = False) -> None:
        """`aside`: it is not what was asked for, but comes with it."""
        if self.pages is not None:
            self.pages.append(self.copy())
            if not aside:
                self.asked = len(self.pages)

    def copy(self) -> dict[str, Paper]:
        """The sessions as they are now, told to nobody."""
        memo: dict[int, object] = {id(self): self}
        return {name: copy.deepcopy(paper, memo) for name, paper in self.papers.items()}

    def get(self, session: str) -> Paper:
        if session not in self.papers:
            raise Refused("session_not_found")
        return self.papers[session]


def title_of(text: str) -> str:
    return " ".join(text.split())


class Written:
    """One session, as far as it is written down. See `paper` for what is done to it."""

    def __init__(self, book: Book, session: str, kept: Kept) -> None:
        self.book = book
        self.number = self._numbered()
        self.id = session
        self.kept = kept
        self.log: list[Event] = []
        self.told: list[Event] = []
        self.head = 0
        self.name: str | None = None
        self.metadata: dict[str, int] = {}
        self.archived = False
        self.parent: str | None = None
        self.waiting: list[Message] = []
        self.paused = False
        self.keys: dict[str, Message] = {}
        self.turn: Turn | None = None
        self.calls = 0
        self.inherited_turns = 0
        self.modified = 0

    def _numbered(self) -> int:
        """What tells it from another session of the same id."""
        self.book.made += 1
        return self.book.made

    # What is written down

    def _store(self, kind: str, said: Said = None, *, tools: bool = False) -> None:
        self.head += 1
        event = Event(kind, said, self.head, self.kept, tools)
        self.log.append(event)
        if event.shown:
            self.told.append(event)

    def _live(self, kind: str, said: Said = None) -> None:
        self.told.append(Event(kind, said, 0, self.kept))

    def _keep(self, **changes: object) -> None:
        self.kept = replace(self.kept, **changes)  # type: ignore[arg-type]

    def _committed(self, *, aside: bool = False) -> None:
        self.book.clock += 1
        self.modified = self.book.clock
        self.book.committed(aside=aside)

    @property
    def title(self) -> str | None:
        return self.name or self.kept.auto or self.kept.words

    @property
    def shown(self) -> list[Event]:
        return [event for event in self.log if event.shown]

    def history(self) -> list[tuple[str, str]]:
        """(role, text) of all that the model reads."""
        read: list[tuple[str, str]] = []
        open_call = False
        for event in self.log:
            if open_call and event.type in ("user.message", "assistant.turn_end"):
                read.append(("tool", NOT_RUN))
                open_call = False
            if event.type == "user.message":
                read.append(("user", str(event.said)))
            elif event.type == "assistant.message" and (event.said or event.tools):
                read.append(("assistant", str(event.said)))
                open_call = event.tools
        return read
