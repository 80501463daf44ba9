"""What the async client does with many sessions: the shape of `library`, awaited."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar, Unpack

import anyio.to_thread

from tertulia import calls, documents, limits
from tertulia.calls import Call
from tertulia.errors import SessionNotFound
from tertulia.params import Path
from tertulia.records import (
    Filter,
    Metadata,
    Order,
    Page,
    Pruned,
    SearchHit,
    SessionInfo,
    Usage,
)

T = TypeVar("T")


class AsyncDoer(Protocol):
    """Who makes calls."""

    async def do(self, call: Call[T]) -> T:
        """What a call comes to."""


class AsyncLibrary(AsyncDoer):
    """The part of `AsyncClient` that needs no conversation."""

    async def sessions(
        self, *, order: Order | None = None, **chosen: Unpack[Filter]
    ) -> list[SessionInfo]:
        """As `Client.sessions`."""
        return list((await self.do(calls.sessions(chosen, order, None, None))).items)

    async def session_page(
        self,
        limit: int,
        cursor: str | None = None,
        *,
        order: Order | None = None,
        **chosen: Unpack[Filter],
    ) -> Page[SessionInfo]:
        """As `Client.session_page`."""
        return await self.do(calls.sessions(chosen, order, limit, cursor))

    def iter_sessions(
        self,
        *,
        page_size: int = limits.LISTED_AT_ONCE,
        order: Order | None = None,
        **chosen: Unpack[Filter],
    ) -> AsyncGenerator[SessionInfo, None]:
        """As `Client.iter_sessions`."""
        return _paged(lambda cursor: self.session_page(page_size, cursor, order=order, **chosen))

    async def session_info(self, session_id: str) -> SessionInfo | None:
        """As `Client.session_info`."""
        return await self.do(calls.session_info(session_id))

    async def find_session(self, prefix: str) -> str | None:
        """As `Client.find_session`."""
        return await self.do(calls.find(prefix))

    def search(
        self, text: str, *, page_size: int = limits.FOUND_AT_ONCE
    ) -> AsyncGenerator[SearchHit, None]:
        """As `Client.search`."""
        return _paged(lambda cursor: self.search_page(text, page_size, cursor))

    async def search_page(
        self, text: str, limit: int | None = None, cursor: str | None = None
    ) -> Page[SearchHit]:
        """As `Client.search_page`."""
        return await self.do(calls.search(text, limit, cursor))

    async def fork_session(
        self,
        session_id: str,
        at: str | None = None,
        *,
        name: str | None = None,
        new_session_id: str | None = None,
    ) -> str:
        """As `Client.fork_session`."""
        return await self.do(calls.fork(session_id, at, name, new_session_id))

    async def metadata(self, session_id: str) -> Metadata:
        """As `Client.metadata`."""
        return await self.do(calls.metadata(session_id))

    async def update_metadata(self, session_id: str, members: dict[str, Any]) -> Metadata:
        """As `Client.update_metadata`."""
        return await self.do(calls.describe(session_id, members, None))

    async def archive_session(self, session_id: str, archived: bool = True) -> Metadata:
        """As `Client.archive_session`."""
        return await self.do(calls.describe(session_id, None, archived))

    async def usage(self, session_id: str | None = None) -> Usage:
        """As `Client.usage`."""
        if session_id is not None:
            return await self.do(calls.usage(session_id))
        rows = self.iter_sessions(archived="any")
        total = Usage()
        async for row in rows:
            with contextlib.suppress(SessionNotFound):
                total += await self.do(calls.usage(row.session_id))
        return total

    async def sizes(self) -> dict[str, int]:
        """As `Client.sizes`."""
        return await self.do(calls.sizes())

    async def export_session(self, session_id: str) -> dict[str, Any]:
        """As `Client.export_session`."""
        return await self.do(calls.export(session_id))

    async def import_session(
        self, document: dict[str, Any], session_id: str | None = None, *, rename: bool = False
    ) -> str:
        """As `Client.import_session`."""
        return await self.do(calls.import_(document, session_id, rename))

    async def export_to(self, session_id: str, path: Path, *, overwrite: bool = False) -> None:
        """As `Client.export_to`."""
        document = await self.export_session(session_id)
        write = partial(documents.write, path, document, overwrite=overwrite)
        await anyio.to_thread.run_sync(write)

    async def import_from(
        self, path: Path, session_id: str | None = None, *, rename: bool = False
    ) -> str:
        """As `Client.import_from`."""
        document = await anyio.to_thread.run_sync(documents.read, path)
        return await self.import_session(document, session_id, rename=rename)

    async def prune(
        self,
        older_than_days: float,
        *,
        dry_run: bool = True,
        include_named: bool = False,
        exclude: Iterable[str] = (),
    ) -> Pruned:
        """As `Client.prune`."""
        return await self.do(calls.prune(older_than_days, dry_run, include_named, exclude))

    async def delete_sessions(self, session_ids: Iterable[str]) -> dict[str, int]:
        """As `Client.delete_sessions`."""
        return await self.do(calls.bulk_delete(session_ids))


async def _paged(
    page_at: Callable[[str | None], Awaitable[Page[T]]],
) -> AsyncGenerator[T, None]:
    page = await page_at(None)
    for item in page.items:
        yield item
    while page.cursor is not None:
        page = await page_at(page.cursor)
        for item in page.items:
            yield item
