"""What the blocking client does with a session beyond talking: its log, its name, its past."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tertulia import calls, limits, params
from tertulia.attachments import Hold
from tertulia.errors import ConnectionLost, DaemonFailed, Draining, SessionNotFound
from tertulia.library import Doer
from tertulia.message_queue import MessageQueue
from tertulia.params import Path
from tertulia.patience import Backoff
from tertulia.reading import LogReader
from tertulia.records import Event, LogEnd, LogPage, Metadata, RewindPoint, Usage


class Place(Doer, Protocol):
    """A client, as its sessions see it."""

    @property
    def closed(self) -> bool:
        """Whether it was ended from this side."""


class Upkeep:
    """The part of `Session` that is about the session as a whole."""

    id: str
    _client: Place
    _hold: Hold

    def attach(self) -> None:
        """Attach again, connecting anew where the connection was lost. Writes no event."""
        raise NotImplementedError

    def _attach_again(self) -> None:
        """As `attach`, for who follows: a session that was closed meanwhile stays so."""
        raise NotImplementedError

    @property
    def queue(self) -> MessageQueue:
        """The messages that wait for their turn."""
        return MessageQueue(self._client, self.id)

    def read_log(
        self,
        cursor: str | None = None,
        *,
        limit: int | None = None,
        wait: float = 0.0,
        types: Sequence[str] | None = None,
        backward: bool = False,
    ) -> LogPage:
        """A page of the stored events, the oldest first: those behind `cursor`, else from the
        beginning, or with `backward` the last ones; 200 where `limit` does not say, 1000 at most.
        With nothing to give it waits up to `wait` seconds (30 at most) for the next event."""
        return self._client.do(calls.read_log(self.id, cursor, limit, wait, types, backward))

    def tail(self) -> LogEnd:
        """The end of the log: a cursor, and the seq for `send`'s `expected_seq`."""
        return self._client.do(calls.tail(self.id))

    def follow(
        self,
        cursor: str | None = None,
        *,
        types: Sequence[str] | None = None,
        patience: float = limits.RECONNECT_S,
    ) -> EventLog:
        """Every stored event behind `cursor`, or from the beginning, and then those that come,
        once each and in order. A lost connection is made anew, for up to `patience` seconds."""
        return EventLog(self, LogReader(self.id, cursor, types), patience)

    def truncate(self, event_id: str) -> int:
        """Go back to before an event: it and all behind it leave the log; how many. Raises
        `TurnBusy` while a turn runs."""
        return self._client.do(calls.truncate(self.id, event_id))

    def rewind_points(self) -> list[RewindPoint]:
        """The user's messages, the oldest first: what `truncate` and `fork_session` can go back
        to."""
        return self._client.do(calls.rewind_points(self.id))

    def rename(self, name: str) -> None:
        """Give it a name, which is its title from now on."""
        self._client.do(calls.rename(self.id, name))

    def name(self) -> str | None:
        """The name that somebody gave it; None: its title was made."""
        return self._client.do(calls.name(self.id))

    def set_title(self, title: str) -> bool:
        """Give it a title that gives way to a name; False: it has a name."""
        return self._client.do(calls.set_title(self.id, title))

    def set_working_directory(self, folder: Path) -> None:
        """Let it work in another folder from its next turn on. Raises `InvalidParams` where the
        daemon finds none there."""
        self._client.do(calls.set_working_directory(self.id, params.absolute(folder)))

    def metadata(self) -> Metadata:
        """As `Client.metadata`."""
        return self._client.do(calls.metadata(self.id))

    def update_metadata(self, members: dict[str, Any]) -> Metadata:
        """As `Client.update_metadata`."""
        return self._client.do(calls.describe(self.id, members, None))

    def usage(self) -> Usage:
        """What its model calls took since it was made."""
        return self._client.do(calls.usage(self.id))

    def suspend(self) -> None:
        """End the turn that runs and let the session rest; what waits goes on with the next
        `send`."""
        self._client.do(calls.suspend(self.id))


class EventLog(Iterator[Event]):
    """Made by `Session.follow`; ends when the session is closed. Raises `SessionNotFound` once it
    is deleted, `CursorExpired`, and `ConnectionLost` or `DaemonFailed` where no daemon comes back.
    """

    def __init__(self, session: Upkeep, reader: LogReader, patience: float) -> None:
        self._session = session
        self._reader = reader
        self._patience = patience

    @property
    def cursor(self) -> str | None:
        """Where to go on another time: a `follow` from here misses nothing, and may repeat the
        events of a page that was not read to its end."""
        return self._reader.cursor

    def __next__(self) -> Event:
        while (event := self._reader.next()) is None:
            page = self._page()
            if page is None:
                raise StopIteration
            self._reader.take(page)
        return event

    def _page(self) -> LogPage | None:
        """What comes next; None: the session was closed."""
        session = self._session
        try:
            page = None if session._hold.closed else self._read()
        except SessionNotFound:
            if not session._hold.closed:
                raise
            return None
        return None if session._hold.closed else page

    def _read(self) -> LogPage | None:
        try:
            return self._session._client.do(self._reader.page())
        except (SessionNotFound, ConnectionLost, Draining):
            # A session that is not found may be there: somebody else has connected anew.
            return self._read_again()

    def _read_again(self) -> LogPage | None:
        session = self._session
        backoff = Backoff(time.monotonic() + self._patience)
        while not session._hold.closed:
            try:
                session._attach_again()
                return session._client.do(self._reader.page())
            except (ConnectionLost, DaemonFailed, Draining):
                wait = backoff.wait(time.monotonic())
                if wait is None or session._client.closed:
                    raise
                if not session._hold.closed:
                    time.sleep(wait)
        return None
