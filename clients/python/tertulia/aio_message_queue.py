"""The messages of a session that wait for their turn, for the async client."""

from __future__ import annotations

from typing import Unpack

from tertulia import queue_calls
from tertulia.aio_library import AsyncDoer
from tertulia.records import SendOptions, Waiting


class AsyncMessageQueue:
    """As `MessageQueue`, awaited."""

    def __init__(self, doer: AsyncDoer, session_id: str) -> None:
        self._doer = doer
        self._id = session_id

    async def list(self) -> Waiting:
        """As `MessageQueue.list`."""
        return await self._doer.do(queue_calls.waiting(self._id))

    async def insert(self, position: int, prompt: str, **options: Unpack[SendOptions]) -> str:
        """As `MessageQueue.insert`."""
        return await self._doer.do(queue_calls.insert(self._id, position, prompt, options))

    async def move(self, message_id: str, position: int) -> bool:
        """As `MessageQueue.move`."""
        return await self._doer.do(queue_calls.move(self._id, message_id, position))

    async def edit(self, message_id: str, prompt: str, display_prompt: str | None = None) -> bool:
        """As `MessageQueue.edit`."""
        return await self._doer.do(queue_calls.edit(self._id, message_id, prompt, display_prompt))

    async def duplicate(self, message_id: str) -> str:
        """As `MessageQueue.duplicate`."""
        return await self._doer.do(queue_calls.duplicate(self._id, message_id))

    async def remove(self, message_id: str) -> bool:
        """As `MessageQueue.remove`."""
        return await self._doer.do(queue_calls.remove(self._id, message_id))

    async def remove_last(self) -> bool:
        """As `MessageQueue.remove_last`."""
        return await self._doer.do(queue_calls.remove_last(self._id))

    async def send_now(self, message_id: str) -> bool:
        """As `MessageQueue.send_now`."""
        return await self._doer.do(queue_calls.send_now(self._id, message_id))

    async def clear(self) -> None:
        """As `MessageQueue.clear`."""
        await self._doer.do(queue_calls.clear(self._id))

    async def pause(self) -> None:
        """As `MessageQueue.pause`."""
        await self._doer.do(queue_calls.pause(self._id, True))

    async def resume(self) -> None:
        """As `MessageQueue.resume`."""
        await self._doer.do(queue_calls.pause(self._id, False))

    async def process(self) -> None:
        """As `MessageQueue.process`."""
        await self._doer.do(queue_calls.process(self._id))
