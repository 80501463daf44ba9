"""The store's interface: an append-only log for each session, and one list row for each.

A session's log lies in *segments*: its own, and where it was forked or rewound, the beginning of
another one, which is never written again through it. Forking and rewinding copy nothing; a segment
goes when no session's log leads through it. Seqs go on across segments and are never used again.

Every call answers a future that is completed on the event loop's thread. An append names the head
(the last seq) that its caller knows: where another process has written meanwhile it is refused with
`HeadMoved`, whole, while its neighbours in the same transaction commit. What was answered is
durable. Failures are `StoreFailed` with a message for people.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from tertulia_protocol.errors import StoreFailed

T = TypeVar("T")

MAX_SEQ = (1 << 31) - 1
"""No log has more events than this."""

MARKS = ("\x02", "\x03")
"""What stands before and behind the words that a search has found."""


class HeadMoved(Exception):
    """The log is another one than the writer knows: it is longer, as another process has written to
    it, or the place that a fork is made at was left out of it."""


class AlreadyThere(Exception):
    """A session of this id exists."""


class NotThere(Exception):
    """There is no session of this id."""


class LogFull(StoreFailed):
    """The log has had as many events as it can have."""

    @classmethod
    def of(cls, session_id: str) -> LogFull:
        return cls(f"The log of session {session_id} is full. Begin a new session.")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One stored event. `body` is its whole JSON as clients get it, envelope included."""

    seq: int
    type: str
    body: bytes


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A session's list row. Times are in ms since 1970; `head` is the seq of its last event;
    `named` says that somebody chose the title; `owner` names the process that runs a turn of it;
    `metadata` is the caller's own JSON object, as text; `parent` is what it was forked from;
    `pending` counts the messages that wait for their turn."""

    id: str
    created_ms: int
    modified_ms: int
    head: int
    title: str | None = None
    named: bool = False
    model: str | None = None
    cwd: str | None = None
    client_name: str | None = None
    owner: str | None = None
    archived: bool = False
    metadata: str | None = None
    parent: str | None = None
    pending: int = 0


class Append(msgspec.Struct, frozen=True, gc=False):
    """Records to add behind `expected_head`, and the row as it is then. With `keep_to` the log is
    rewound in the same step: what lies above it, up to the expected head, is left out from now
    on. A `snapshot` is the fold of all that is stored then, in the engine's own form. `before` is
    the row that is stored with the expected head, where that is known."""

    expected_head: int
    row: Row
    records: tuple[Record, ...]
    keep_to: int | None = None
    snapshot: bytes | None = None
    before: Row | None = None


class Fork(msgspec.Struct, frozen=True, gc=False):
    """A new session that shares the log of `source`, made at `source_ms`, up to the event `upto`,
    and goes on with `append`."""

    source: str
    source_ms: int
    upto: int
    append: Append


class Log(msgspec.Struct, frozen=True, gc=False):
    """A session as it is stored: a snapshot, if there is one, and the records behind it."""

    row: Row
    snapshot: bytes | None
    records: list[Record]


class Range(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which records to read: seqs above `after` and below `before`; `backward` begins with the
    last; of `types` only, where they are given. Once there are `max_bytes` or more, that is all.
    With `created_ms`, of the session that was made then, and of no other that has its id."""

    after: int = 0
    before: int | None = None
    limit: int | None = None
    max_bytes: int | None = None
    backward: bool = False
    types: tuple[str, ...] | None = None
    created_ms: int = 0


Order = Literal["modified", "created", "title", "id"]


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which rows to list; None filters nothing. Orders by time begin with the newest. `after` is
    the cursor that the page before gave. `prefix` is of the id, `metadata` of equal members;
    `pending` says whether messages have to wait, `spoken_in` whether a user has to have said
    something that is still in the log."""

    cwd: str | None = None
    archived: bool | None = None
    named: bool | None = None
    prefix: str | None = None
    metadata: dict[str, Any] | None = None
    pending: bool | None = None
    spoken_in: bool | None = None
    order: Order = "modified"
    limit: int | None = None
    after: str | None = None


class Page(msgspec.Struct, frozen=True, gc=False):
    """Rows, and the cursor for those behind them; None: these are the last."""

    rows: list[Row]
    cursor: str | None


class Hit(msgspec.Struct, frozen=True, gc=False):
    """A place where something was said. `snippet` has the words found between `MARKS`."""

    row: Row
    seq: int
    event_id: str
    type: str
    snippet: str


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of a session: the seq its log goes to, and when it was made; 0: it is not
    known. An id may be that of another session by now."""

    head: int
    created_ms: int = 0


class News(msgspec.Struct, frozen=True):
    """`rows` of sessions whose log goes on, or that a process runs a turn of; ids of those that are
    `gone`, or are another session's now: it was made at another time, or its log is shorter, and no
    seq is used again."""

    rows: list[Row] = []
    gone: list[str] = []


class Store(Protocol):
    """See the module's rules. Closing waits for what was submitted."""

    def create(self, append: Append) -> Future[None]:
        """A new session with its first records; fails with `AlreadyThere`."""
        ...

    def append(self, append: Append) -> Future[None]:
        """More records; fails with `HeadMoved`, for a deleted session too."""
        ...

    def fork(self, fork: Fork) -> Future[None]:
        """Fails with `AlreadyThere`, with `NotThere` where the source is gone, and with `HeadMoved`
        where its log has no event `upto`, or is that of a session that was made since."""
        ...

    def delete(self, session_ids: list[str], known: Row | None = None) -> Future[dict[str, int]]:
        """Remove sessions, and what of their logs nobody else shares; the bytes that each of those
        that were there has freed. One that is not as `known` any more stays."""
        ...

    def load(self, session_id: str, upto: int | None = None) -> Future[Log | None]:
        """With `upto`, of the log up to this seq."""
        ...

    def whole(self, session_id: str) -> Future[Log | None]:
        """The same without a snapshot: all of the log, at one moment."""
        ...

    def read(self, session_id: str, wanted: Range) -> Future[list[Record]]:
        """Fails with `NotThere` where the session that is meant (`created_ms`) is gone."""
        ...

    def beside(self, work: Callable[[], T]) -> Future[T]:
        """Have something done by the thread that reads, in the turn of whoever asks: what is made
        of much that was read would hold up the event loop."""
        ...

    def find(self, session_id: str, event_id: str) -> Future[int | None]:
        """The seq of the event with this id."""
        ...

    def row(self, session_id: str) -> Future[Row | None]: ...

    def rows(self, wanted: ListQuery) -> Future[Page]: ...

    def commits_elsewhere(self) -> int | None:
        """A number that another process's next commit changes, and nothing that is done here; None:
        it cannot be told at once."""
        ...

    def ahead(self, known: dict[str, Known]) -> Future[News]:
        """What is new of the sessions named; all of it durable, whoever has written it."""
        ...

    def search(
        self, text: str, limit: int, after: str | None
    ) -> Future[tuple[list[Hit], str | None]]:
        """What was said that has all of the words of `text`, the best first, and the cursor for
        what is behind it. `limit` counts places: one that forks share is a hit for each."""
        ...

    def sizes(self) -> Future[dict[str, int]]:
        """Bytes of each session's own events; what is shared counts where it was written."""
        ...

    def last_id(self) -> Future[str | None]:
        """The session that was modified last."""
        ...

    def close(self) -> None: ...
