"""The scripted model in a thread of the test's own process: real HTTP, and its log at hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self

from tests.support.model_connection import Received
from tests.support.model_script import text_of
from tests.support.scripted_model import ScriptedModel, Stats

BOUND_S = 30.0


class ModelThread:
    """Lives from `with` to its end. What it has received may be read at any time."""

    def __init__(self, **options: Any) -> None:
        self._model = ScriptedModel(**options)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._model:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(BOUND_S), "the scripted model does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(BOUND_S)

    @property
    def base_url(self) -> str:
        return self._model.base_url

    @property
    def stats(self) -> Stats:
        return self._model.stats

    @property
    def chats(self) -> list[Received]:
        """The chat completions that it was asked for, in their order."""
        return list(self._model.chats)

    def provider(self, key: str = "key-of-a-test", **more: Any) -> dict[str, Any]:
        """A session's `provider` that leads here."""
        return {"type": "openai", "baseUrl": self.base_url, "apiKey": key, **more}

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until `happened()`; it is asked again whenever a call begins or ends."""
        waiting = asyncio.run_coroutine_threadsafe(self._model.until(happened), self._loop)
        waiting.result(BOUND_S)

    def until_active(self, calls: int) -> None:
        """Wait until so many calls are being answered at the same time."""
        self.until(lambda: self.stats.active >= calls)

    def release(self) -> None:
        """Have the calls that are held go on."""
        self._loop.call_soon_threadsafe(self._model.release)

    def users(self, model: str | None = None) -> list[list[str]]:
        """What users had said in each call, or in each call for `model`."""
        return [
            [text_of(m["content"]) for m in chat.body["messages"] if m["role"] == "user"]
            for chat in self.chats
            if model is None or chat.body["model"] == model
        ]
