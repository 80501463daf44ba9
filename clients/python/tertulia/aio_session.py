"""A session of the async client: the shape of `session`, awaited.

Cancelling a wait does not end the turn that was waited for; `abort` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import anyio

from tertulia import calls, params
from tertulia.aio_link import AsyncEventQueue
from tertulia.aio_upkeep import AsyncUpkeep
from tertulia.attachments import Hold
from tertulia.errors import ConnectionLost, RpcError, SessionNotFound, Timeout
from tertulia.records import Answer, Event, SendOptions
from tertulia.turn import BEGINNINGS, SENDING, Turn

if TYPE_CHECKING:
    from tertulia.aio import AsyncClient


class AsyncSession(AsyncUpkeep):
    """A session that this client is attached to. It lives in the daemon; `close` detaches."""

    _client: AsyncClient

    def __init__(self, client: AsyncClient, session_id: str, hold: Hold) -> None:
        self.id = session_id
        self._client = client
        self._hold = hold

    def __repr__(self) -> str:
        return f"<AsyncSession {self.id}>"

    async def attach(self) -> None:
        await self._resume()
        self._hold.closed = False

    async def _attach_again(self) -> None:
        await self._resume()
        if self._hold.closed:
            await self._client.release(self.id, self._hold)

    async def _resume(self) -> None:
        await self._client.reconnect()
        settings = params.resumed_session(self.id, {**params.SILENT})
        await self._client.attach(calls.resume(settings), self._hold)

    async def fork(
        self, at: str | None = None, *, name: str | None = None, new_session_id: str | None = None
    ) -> AsyncSession:
        """As `Session.fork`."""
        client = self._client
        made = await client.fork_session(self.id, at, name=name, new_session_id=new_session_id)
        return await client.resume_session(made, **params.SILENT)

    async def send(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> str:
        """As `Session.send`."""
        given = params.message(self.id, prompt, attachments, {**options})
        return await self._client.do(calls.send(given))

    async def send_and_wait(
        self,
        prompt: str,
        timeout: float | None = None,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> Answer:
        """As `Session.send_and_wait`."""
        turn: Turn | None = None
        with anyio.move_on_after(timeout):
            feed, turn = await self._begin(prompt, attachments, options)
            async for _ in self._play(feed, turn):
                pass
            return turn.answer()
        state = turn.state if turn is not None else SENDING
        raise Timeout(f"The turn did not end within {timeout:g} s", state)

    async def stream(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncGenerator[Event, None]:
        """As `Session.stream`, but for two things: the message is sent when the iteration begins,
        and a cancel scope is its time-out."""
        feed, turn = await self._begin(prompt, attachments, options)
        async for event in self._play(feed, turn):
            yield event

    async def events(self) -> AsyncIterator[Event]:
        """As `Session.events`; await it, then iterate."""
        return _live(await self._client.subscribe(self.id, self._hold))

    async def messages(self) -> list[Event]:
        """As `Session.messages`."""
        return await self._client.do(calls.messages(self.id))

    async def abort(self, message_id: str | None = None) -> bool:
        """As `Session.abort`."""
        return await self._client.do(calls.abort(self.id, message_id))

    async def set_model(self, model: str, **more: Any) -> None:
        """As `Session.set_model`."""
        await self._client.do(calls.set_model(self.id, model, more))

    async def log(self, message: str, level: str = "info", *, ephemeral: bool = False) -> str:
        """As `Session.log`."""
        return await self._client.do(calls.log(self.id, message, level, ephemeral))

    async def close(self) -> None:
        """As `Session.close`."""
        if self._hold.closed:
            return
        self._hold.closed = True
        with contextlib.suppress(ConnectionLost, RpcError):
            await self._client.release(self.id, self._hold)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def _begin(
        self, prompt: str, attachments: Sequence[dict[str, Any]] | None, options: SendOptions
    ) -> tuple[AsyncEventQueue, Turn]:
        # First, so that no event is missed.
        feed = await self._client.subscribe(self.id, self._hold)
        feed.check()
        if self._hold.closed:
            raise SessionNotFound.of(self.id)
        turn = Turn(await self.send(prompt, attachments, **options), prompt)
        if "idempotency_key" in options:  # it may have been accepted, and answered, before
            turn.recall(await self._stored_since(turn))
            if not turn.has_begun:
                await self._check_waits(turn)
        return feed, turn

    async def _stored_since(self, turn: Turn) -> list[Event]:
        """The log, from its end back to the message of `turn`, or to the beginning."""
        page = await self.read_log(backward=True)
        found = list(page.events)
        while page.has_more and not turn.begins_in(page.events):
            page = await self.read_log(page.cursor)
            found[:0] = page.events
        return found

    async def _play(self, feed: AsyncEventQueue, turn: Turn) -> AsyncGenerator[Event, None]:
        for event in turn.recalled:
            yield event
        while not turn.over:
            event = await _next(feed)
            if turn.take(event):
                yield event
            elif turn.is_missed_by(event):
                await self._check_waits(turn)
        turn.answer()

    async def _check_waits(self, turn: Turn) -> None:
        last = await self.queue.list(), await self.read_log(types=BEGINNINGS, backward=True)
        turn.raise_if_removed(*last)


async def _next(feed: AsyncEventQueue) -> Event:
    event = await feed.take()
    if event is None:
        raise ConnectionLost("The session was closed while its turn ran.")
    return event


async def _live(feed: AsyncEventQueue) -> AsyncGenerator[Event, None]:
    while (event := await feed.take()) is not None:
        yield event
