"""A client and a whole daemon over memory pipes, with the real framing: no process, no socket.

Everything is the daemon's own (gate, connections, handlers, sessions, hub, SQLite under a folder of
the test's) but the model, which the test drives, and the composition root, whose job is done here.
Leaving `pair` ends the daemon as a crash would: running turns are cut, and nothing is said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

from tertulia_protocol.errors import ModelUnavailable
from tertulia_protocol.models import ModelInfo
from tertulia_protocol.provider_config import SessionProviders
from tertuliad import limits
from tertuliad.connection import Connection
from tertuliad.engine import Engine
from tertuliad.handlers import front, table
from tertuliad.handlers.context import Caller
from tertuliad.handlers.runtime import Front
from tertuliad.providers.base import Target
from tertuliad.replies import Reply
from tertuliad.rpc import Handler
from tertuliad.sessions.retry import TurnLimits
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S, InProcessModel

ONE_TRY = TurnLimits(retries=0)
PIPE_CHUNKS = 4
"""What a pipe holds: a peer that does not read stops the other side's writer after so many."""


def pipes() -> tuple[StapledByteStream, StapledByteStream]:
    """Two ends of one connection."""
    to_daemon, from_client = anyio.create_memory_object_stream[bytes](PIPE_CHUNKS)
    to_client, from_daemon = anyio.create_memory_object_stream[bytes](PIPE_CHUNKS)
    client = StapledByteStream(cast(Any, to_daemon), BufferedByteReceiveStream(from_daemon))
    daemon = StapledByteStream(cast(Any, to_client), BufferedByteReceiveStream(from_client))
    return client, daemon


class Models:
    """The catalog's stand-in: every name is the test's model, but for one that nobody has."""

    def __init__(self, model: InProcessModel) -> None:
        self._model = model
        self.given: list[SessionProviders | None] = []
        """What was given for each call, where it was not asked for before."""

    async def resolve(self, name: str | None, given: SessionProviders | None) -> Target:
        self.given.append(given)
        self.check(name or "", given)
        return self._model.target(name)

    def check(self, name: str, given: SessionProviders | None) -> None:
        if name == "nobody-has-it":
            raise ModelUnavailable("No provider has the model; name one in config.toml.")

    async def list(self) -> list[ModelInfo]:
        await anyio.lowlevel.checkpoint()
        return []

    async def warm(self) -> None:
        """It is ready."""


class Room:
    """The daemon of one test. Ends with `pair`."""

    def __init__(
        self,
        home: Path,
        tasks: anyio.abc.TaskGroup,
        token: str | None,
        turn_limits: TurnLimits,
        session_idle_s: float,
    ) -> None:
        self.model = InProcessModel()
        self.models = Models(self.model)
        self.draining = False
        self.connections: set[Connection] = set()
        self.audience: set[Connection] = set()
        self.engine = Engine(
            home,
            models=cast(Any, self.models),
            turn_limits=turn_limits,
            session_idle_s=session_idle_s,
            connections=self.connections,
            audience=self.audience,
            spawn=self._spawn,
            draining=lambda: self.draining,
        )
        self.store = self.engine.store
        self.hub = self.engine.hub
        self.world = self.engine.world
        self.sessions = self.engine.sessions
        own = Front(token=token, greeted=lambda caller: None, shut_down=self._shut_down)
        self.handlers: dict[str, Handler] = front.bound(own) | {
            name: self.engine.handlers[name] for name in table.HANDLERS
        }
        self.ended: dict[FramesClient, anyio.Event] = {}
        self.connection_of: dict[FramesClient, Connection] = {}
        self._tasks = tasks

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.start_soon(cast(Any, work))

    def _shut_down(self, caller: Caller) -> Reply:
        self.draining = True
        reply = Reply()
        reply.give(None)
        return reply

    def connection(self, stream: anyio.abc.ByteStream, **options: Any) -> Connection:
        """A connection of this daemon that nobody serves yet."""
        given = {"authenticated": True, "is_socket": False, **options}
        connection = Connection(
            stream,
            self.handlers,
            is_draining=lambda: self.draining,
            audience=self.audience,
            **given,
        )
        self.engine.adopt(connection)
        return connection

    def connect(self, **options: Any) -> FramesClient:
        """A further client. `options` are `Connection`'s: authenticated, is_socket, max_body."""
        near, far = pipes()
        connection = self.connection(far, **options)
        client = FramesClient(near)
        self.connection_of[client] = connection
        self.ended[client] = anyio.Event()
        self._tasks.start_soon(self._serve, connection, self.ended[client])
        self._tasks.start_soon(client.read)
        return client

    async def _serve(self, connection: Connection, ended: anyio.Event) -> None:
        self.connections.add(connection)
        try:
            await connection.serve()
        finally:
            self.connections.discard(connection)
            self.hub.detach_all(connection)
            ended.set()

    async def look(self) -> None:
        """Look now for what other daemons have written."""
        with anyio.fail_after(PATIENCE_S):
            await self.engine.others.look()

    async def gone(self, client: FramesClient) -> None:
        """Wait until the daemon has let the client's connection go."""
        with anyio.fail_after(limits.SHUTDOWN_GRACE_S * 4):
            await self.ended[client].wait()


@asynccontextmanager
async def pair(
    home: Path,
    *,
    token: str | None = None,
    turn_limits: TurnLimits = ONE_TRY,
    session_idle_s: float = limits.SESSION_IDLE_S,
) -> AsyncIterator[tuple[FramesClient, Room]]:
    """A client that is connected to a whole daemon, and that daemon."""
    async with anyio.create_task_group() as tasks:
        room = Room(home, tasks, token, turn_limits, session_idle_s)
        try:
            yield room.connect(authenticated=token is None), room
        finally:
            tasks.cancel_scope.cancel()
            for client in room.ended:
                await client.aclose()
            room.engine.close()
