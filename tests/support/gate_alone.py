"""A gate with handlers of the test's and no stream: messages in, answers out, as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.abc

from tertulia_protocol.framing import Body, Framer
from tertuliad.rpc import Gate, Handler

AT_ONCE = "ping"
"""A method of the registry that runs at once; its params are checked as the registry says."""
IN_A_TASK = "models.list"
"""One that runs in a task."""


class GateAlone:
    """`sent` holds what the gate has answered, in order."""

    def __init__(
        self, handlers: Mapping[str, Handler], tasks: anyio.abc.TaskGroup | None = None
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.asker = 1
        self.authenticated = True
        self.draining = False
        self._tasks = tasks
        self._framer = Framer()
        self._more = anyio.Event()
        self.gate = Gate(self, handlers, self._send, self._spawn)

    def _send(self, *pieces: bytes | memoryview) -> None:
        for body in self._framer.feed(b"".join(pieces)):
            assert isinstance(body, Body)
            self.sent.append(json.loads(body.data))
        self._more.set()
        self._more = anyio.Event()

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        assert self._tasks is not None
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await work()

        self._tasks.start_soon(run)
        return scope.cancel

    def take(self, message: Any) -> None:
        """Hand over a body: bytes as they are, anything else as JSON."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.gate.take(Body(body))

    def ask(self, method: str, request_id: Any = 1, params: Any = None) -> None:
        message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        self.take(message if params is None else {**message, "params": params})

    def cancel(self, request_id: Any) -> None:
        self.take({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": request_id}})

    async def answered(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many answers in all."""
        with anyio.fail_after(20):
            while len(self.sent) < count:
                await self._more.wait()
        return self.sent
