"""The store's interface: an append-only log for each session, and one list row for each.

Every call answers a future that is completed on the event loop's thread. An append names the head
(the last seq) that its caller knows: where another process has written meanwhile it is refused with
`HeadMoved`, whole, while its neighbours in the same transaction commit. What was answered is
durable. Failures are `StoreFailed` with a message for people.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import msgspec


class HeadMoved(Exception):
    """The log is longer than the writer knows: another process has written to it."""


class AlreadyThere(Exception):
    """A session of this id exists."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One stored event. `body` is its whole JSON as clients get it, envelope included."""

    seq: int
    type: str
    body: bytes


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A session's list row. Times are in ms since 1970; `head` is the seq of its last event;
    `owner` names the process that runs a turn of it."""

    id: str
    created_ms: int
    modified_ms: int
    head: int
    title: str | None = None
    model: str | None = None
    cwd: str | None = None
    client_name: str | None = None
    owner: str | None = None


class Append(msgspec.Struct, frozen=True, gc=False):
    """Records to add behind `expected_head`, and the row as it is then."""

    expected_head: int
    row: Row
    records: tuple[Record, ...]


class ListFilter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which sessions to list; None filters nothing."""

    cwd: str | None = None


class Log(msgspec.Struct, frozen=True, gc=False):
    """A session as it is stored."""

    row: Row
    records: list[Record]


class Store(Protocol):
    """See the module's rules. Closing waits for what was submitted."""

    def create(self, append: Append) -> Future[None]:
        """A new session with its first records; fails with `AlreadyThere`."""
        ...

    def append(self, append: Append) -> Future[None]:
        """More records; fails with `HeadMoved`, for a deleted session too."""
        ...

    def delete(self, session_id: str) -> Future[bool]:
        """Remove a session and its log; False: there was none."""
        ...

    def load(self, session_id: str) -> Future[Log | None]: ...

    def read(self, session_id: str, after: int, limit: int | None) -> Future[list[Record]]:
        """The records with a seq above `after`, in order, at most `limit`."""
        ...

    def row(self, session_id: str) -> Future[Row | None]: ...

    def rows(self, wanted: ListFilter) -> Future[list[Row]]:
        """List rows, the last modified first."""
        ...

    def last_id(self) -> Future[str | None]:
        """The session that was modified last."""
        ...

    def close(self) -> None: ...
