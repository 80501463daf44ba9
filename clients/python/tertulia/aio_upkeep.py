"""What the async client does with a session beyond talking: the shape of `upkeep`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import anyio

from tertulia import calls, limits, params
from tertulia.aio_library import AsyncDoer
from tertulia.aio_message_queue import AsyncMessageQueue
from tertulia.attachments import Hold
from tertulia.errors import ConnectionLost, DaemonFailed, Draining, SessionNotFound
from tertulia.params import Path
from tertulia.patience import Backoff
from tertulia.reading import LogReader
from tertulia.records import Event, LogEnd, LogPage, Metadata, RewindPoint, Usage


class AsyncPlace(AsyncDoer, Protocol):
    """A client, as its sessions see it."""

    @property
    def closed(self) -> bool:
        """Whether it was ended from this side."""


class AsyncUpkeep:
    """The part of `AsyncSession` that is about the session as a whole."""

    id: str
    _client: AsyncPlace
    _hold: Hold

    async def attach(self) -> None:
        """As `Session.attach`."""
        raise NotImplementedError

    async def _attach_again(self) -> None:
        """As `Upkeep._attach_again`."""
        raise NotImplementedError

    @property
    def queue(self) -> AsyncMessageQueue:
        """The messages that wait for their turn."""
        return AsyncMessageQueue(self._client, self.id)

    async def read_log(
        self,
        cursor: str | None = None,
        *,
        limit: int | None = None,
        wait: float = 0.0,
        types: Sequence[str] | None = None,
        backward: bool = False,
    ) -> LogPage:
        """As `Session.read_log`."""
        return await self._client.do(calls.read_log(self.id, cursor, limit, wait, types, backward))

    async def tail(self) -> LogEnd:
        """As `Session.tail`."""
        return await self._client.do(calls.tail(self.id))

    def follow(
        self,
        cursor: str | None = None,
        *,
        types: Sequence[str] | None = None,
        patience: float = limits.RECONNECT_S,
    ) -> AsyncEventLog:
        """As `Session.follow`."""
        return AsyncEventLog(self, LogReader(self.id, cursor, types), patience)

    async def truncate(self, event_id: str) -> int:
        """As `Session.truncate`."""
        return await self._client.do(calls.truncate(self.id, event_id))

    async def rewind_points(self) -> list[RewindPoint]:
        """As `Session.rewind_points`."""
        return await self._client.do(calls.rewind_points(self.id))

    async def rename(self, name: str) -> None:
        """As `Session.rename`."""
        await self._client.do(calls.rename(self.id, name))

    async def name(self) -> str | None:
        """As `Session.name`."""
        return await self._client.do(calls.name(self.id))

    async def set_title(self, title: str) -> bool:
        """As `Session.set_title`."""
        return await self._client.do(calls.set_title(self.id, title))

    async def set_working_directory(self, folder: Path) -> None:
        """As `Session.set_working_directory`."""
        await self._client.do(calls.set_working_directory(self.id, params.absolute(folder)))

    async def metadata(self) -> Metadata:
        """As `Session.metadata`."""
        return await self._client.do(calls.metadata(self.id))

    async def update_metadata(self, members: dict[str, Any]) -> Metadata:
        """As `Session.update_metadata`."""
        return await self._client.do(calls.describe(self.id, members, None))

    async def usage(self) -> Usage:
        """As `Session.usage`."""
        return await self._client.do(calls.usage(self.id))

    async def suspend(self) -> None:
        """As `Session.suspend`."""
        await self._client.do(calls.suspend(self.id))


class AsyncEventLog(AsyncIterator[Event]):
    """Made by `AsyncSession.follow`; as `EventLog`."""

    def __init__(self, session: AsyncUpkeep, reader: LogReader, patience: float) -> None:
        self._session = session
        self._reader = reader
        self._patience = patience

    @property
    def cursor(self) -> str | None:
        """As `EventLog.cursor`."""
        return self._reader.cursor

    async def __anext__(self) -> Event:
        while (event := self._reader.next()) is None:
            page = await self._page()
            if page is None:
                raise StopAsyncIteration
            self._reader.take(page)
        return event

    async def _page(self) -> LogPage | None:
        """What comes next; None: the session was closed."""
        session = self._session
        try:
            page = None if session._hold.closed else await self._read()
        except SessionNotFound:
            if not session._hold.closed:
                raise
            return None
        return None if session._hold.closed else page

    async def _read(self) -> LogPage | None:
        try:
            return await self._session._client.do(self._reader.page())
        except (SessionNotFound, ConnectionLost, Draining):
            # A session that is not found may be there: somebody else has connected anew.
            return await self._read_again()

    async def _read_again(self) -> LogPage | None:
        session = self._session
        backoff = Backoff(anyio.current_time() + self._patience)
        while not session._hold.closed:
            try:
                await session._attach_again()
                return await session._client.do(self._reader.page())
            except (ConnectionLost, DaemonFailed, Draining):
                wait = backoff.wait(anyio.current_time())
                if wait is None or session._client.closed:
                    raise
                if not session._hold.closed:
                    await anyio.sleep(wait)
        return None
