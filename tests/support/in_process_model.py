"""A model inside the test's process: it implements the engine's own `Provider` interface.

By default it answers each call at once with `answer_to(request)`. With `hold` set, a call waits for
the test, which takes it with `next_call` and says what the model does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel

from tertuliad.providers.base import (
    Delta,
    Done,
    FailureKind,
    ModelRequest,
    ProviderFailed,
    Target,
    ToolCall,
    Usage,
)

PATIENCE_S = 20.0
"""The bound of every wait in these tests; it is reached only when something is broken."""


def last_words(request: ModelRequest) -> str:
    """The text of the last message that the model reads."""
    content = request.messages[-1].content
    return content if isinstance(content, str) else str(getattr(content[0], "text", ""))


def answer_to(request: ModelRequest) -> str:
    """The answer to a call that is not held: it shows how much history the model was given."""
    users = sum(1 for message in request.messages if message.role == "user")
    return f"answer {users} to {last_words(request)}"


class Call:
    """One model call, as the test drives it."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self.ended = anyio.Event()
        """The engine let the call go: it was answered, or cancelled."""
        self._pieces: deque[Delta | Done | ProviderFailed] = deque()
        self._more = anyio.Event()
        self._asks = False

    def say(self, text: str = "", reasoning: str = "") -> None:
        self._put(Delta(text, reasoning))

    def finish(
        self, text: str = "", finish_reason: str = "stop", tool_calls: tuple[ToolCall, ...] = ()
    ) -> None:
        if text:
            self.say(text)
        self._put(
            Done(
                finish_reason=finish_reason,
                usage=Usage(7, 3),
                call_id="call-1",
                tool_calls=tool_calls,
            )
        )

    def fail(
        self, kind: FailureKind = "server_error", message: str = "the model broke", **more: Any
    ) -> None:
        """`more` is `ProviderFailed`'s: retryable, retry_after."""
        self._put(ProviderFailed(kind, message, **more))

    def _put(self, piece: Delta | Done | ProviderFailed) -> None:
        self._pieces.append(piece)
        self._more.set()

    async def taken(self) -> None:
        """Wait until the engine has taken all that was said and asks for more, or has let go."""
        with anyio.fail_after(PATIENCE_S):
            while not (self.ended.is_set() or (self._asks and not self._pieces)):
                await anyio.lowlevel.checkpoint()

    async def next_piece(self) -> Delta | Done:
        while not self._pieces:
            self._more = anyio.Event()
            self._asks = True
            await self._more.wait()
            self._asks = False
        piece = self._pieces.popleft()
        if isinstance(piece, ProviderFailed):
            raise piece
        return piece


class InProcessModel:
    """A `Provider` whose calls the test sees."""

    name = "in-process"

    def __init__(self) -> None:
        self.hold = False
        self.calls: list[Call] = []
        self.context_window = 8192
        self._taken = 0
        self._arrived = anyio.Event()

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Done]:
        call = Call(request)
        self.calls.append(call)
        self._arrived.set()
        if not self.hold:
            call.finish(answer_to(request))
        try:
            while True:
                piece = await call.next_piece()
                yield piece
                if isinstance(piece, Done):
                    return
        finally:
            call.ended.set()

    async def arrived(self, number: int) -> None:
        """Wait until more than `number` calls have come since the beginning."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.calls) <= number:
                if self._arrived.is_set():
                    self._arrived = anyio.Event()
                await self._arrived.wait()

    async def next_call(self) -> Call:
        """The next call that the test has not taken yet."""
        await self.arrived(self._taken)
        self._taken += 1
        return self.calls[self._taken - 1]

    def target(self, model: str | None) -> Target:
        name = model or "default-model"
        return Target(
            provider=self, model=name, display_name=name, context_window=self.context_window
        )
