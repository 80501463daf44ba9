"""The composition root: the front that clients meet, and the engine behind it, built when needed.

It imports everything and nobody imports it, except `run`. Whoever starts a daemon waits for the
answer to `connect`: until that has left, by `greeting` or by the gate, nothing is imported that it
can do without. The engine is built right after it, or by the first request that needs it, or where
no client comes and an earlier process may have left messages, soon.

The order of a stop: no new clients, no new requests, running turns end by themselves within a grace
(after SIGTERM) or with an event that says so, what is queued for clients is written, connections
end, the store closes. All of it has a bounded time. Messages that wait for a turn wait for the next
start.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from tertulia_protocol import layout
from tertulia_protocol.errors import Draining
from tertulia_protocol.methods import METHODS
from tertuliad import lifetime, limits
from tertuliad.connection import Connection
from tertuliad.garbage import made_to_stay
from tertuliad.handlers import front
from tertuliad.handlers.runtime import Front
from tertuliad.options import Options
from tertuliad.replies import Reply, all_settled
from tertuliad.rpc import Handler
from tertuliad.start import Start, is_there
from tertuliad.stdio import StdioStream

if TYPE_CHECKING:
    from tertuliad.engine import Engine
    from tertuliad.handlers.context import Caller
    from tertuliad.listeners import Door

log = logging.getLogger(__name__)


class Daemon:
    """One for each process. `tasks` is the root task group."""

    def __init__(self, start: Start, tasks: anyio.abc.TaskGroup) -> None:
        self._start = start
        self._options = start.options
        self._tasks = tasks
        self._context = contextvars.copy_context()
        self._connections: set[Connection] = set()
        self._audience: set[Connection] = set()
        """Those that have said something."""
        self._engine: Engine | None = None
        self._greeted = start.greeting.was_answered
        self._warmed = anyio.Event()
        """The first client was answered, and the engine is there."""
        self._draining = False
        self._stopping = anyio.Event()
        self._hurry = anyio.Event()
        """Turns get no grace any more."""

    # Serving

    async def serve(self) -> None:
        """Listen as the options say, until something ends the daemon."""
        options, stdout = self._options, self._start.stdout
        self._watch()
        await anyio.lowlevel.checkpoint()  # who learns of us below may end us at once
        with contextlib.ExitStack() as cleanup:
            if options.socket is not None or options.port is not None:
                await self._listen(stdout, cleanup)
            if options.stdio:
                stream = StdioStream(0, stdout, self._start.greeting.left)
                self._tasks.start_soon(self._serve_stdio, stream, self._handlers(None))
            if self._greeted:
                self._spawn(self._warm)
            if not options.leave_waiting and is_there(options.home, layout.DATABASE_FILE):
                self._spawn(self._take_up)
            await self._stopping.wait()
            await self._drain()
        self._tasks.cancel_scope.cancel()

    async def _listen(self, stdout: int, cleanup: contextlib.ExitStack) -> None:
        from pathlib import Path

        from tertuliad import listeners

        options = self._options
        if options.socket is not None:
            self._open(await listeners.unix_door(options.socket, cleanup), stdout)
        if options.port is not None:
            door = await listeners.tcp_door(
                options.host,
                options.port,
                cleanup,
                home=Path(options.home),
                token=options.token,
                allow_anonymous=options.allow_anonymous,
            )
            self._open(door, stdout)

    def _open(self, door: Door, stdout: int) -> None:
        """Let clients in, and say where."""
        from tertuliad import listeners

        handlers = self._handlers(door.token)

        async def client(stream: anyio.abc.SocketStream) -> None:
            if len(self._connections) >= limits.CONNECTIONS:
                await listeners.turn_away(stream)
                return
            await self._serve(
                stream,
                handlers,
                authenticated=door.token is None,
                is_socket=True,
                acknowledge=listeners.acknowledging(stream),
            )

        self._tasks.start_soon(listeners.accept, door.listener, client, self._tasks)
        _announce(stdout, f"tertuliad listening on {door.place}", self._options)

    async def _serve_stdio(self, stream: StdioStream, handlers: dict[str, Handler]) -> None:
        reason = await self._serve(stream, handlers, authenticated=True, is_socket=False)
        self.stop(reason)

    async def _serve(
        self,
        stream: anyio.abc.ByteStream,
        handlers: dict[str, Handler],
        *,
        authenticated: bool,
        is_socket: bool,
        acknowledge: Callable[[], None] | None = None,
    ) -> str:
        """Serve one client to its end; the reason of it."""
        connection = Connection(
            stream,
            handlers,
            authenticated=authenticated,
            is_socket=is_socket,
            is_draining=lambda: self._draining,
            audience=self._audience,
            acknowledge=acknowledge,
            max_body=self._options.max_body,
        )
        self._connections.add(connection)
        if self._engine is not None:
            self._engine.adopt(connection)
        log.info("a client came; there are %d", len(self._connections))
        try:
            await connection.serve()
        except Exception:
            log.exception("a connection failed")
        finally:
            self._connections.discard(connection)
            self._detach(connection)
            log.info("a client went: %s", connection.end_reason)
        return connection.end_reason

    def _handlers(self, token: str | None) -> dict[str, Handler]:
        own = Front(token=token, greeted=self._greet, shut_down=self._shut_down)
        return _Handlers(front.bound(own), self._need_for_request)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that outlives every connection; its failure is logged and ends nothing."""

        async def guarded() -> None:
            try:
                await work()
            except Exception:
                log.exception("a task failed")

        self._tasks.start_soon(guarded)

    # The engine

    def _need(self) -> Engine:
        """The engine, built if it is not there yet."""
        if self._engine is None:
            with made_to_stay():
                self._engine = self._context.run(self._built)  # whoever asks: it is for all
        return self._engine

    def _need_for_request(self) -> Engine:
        """No engine is begun in order to end."""
        if self._engine is None and self._draining:
            raise Draining.of("begins nothing")
        return self._need()

    def _built(self) -> Engine:
        from pathlib import Path

        from tertuliad.config import load
        from tertuliad.engine import Engine
        from tertuliad.memory import keep_little
        from tertuliad.models import Models
        from tertuliad.sessions.retry import TurnLimits

        keep_little()
        options = self._options
        home = Path(options.home)
        settings = self._start.settings or load(home, without_file=True)
        idle_s = options.session_idle_timeout
        return Engine(
            home,
            models=Models(settings),
            session_idle_s=settings.session_idle_s if idle_s is None else idle_s,
            turn_limits=TurnLimits(
                retries=options.turn_retries,
                timeout_s=options.turn_timeout,
                idle_timeout_s=options.turn_idle_timeout,
            ),
            leave_waiting=options.leave_waiting,
            connections=self._connections,
            audience=self._audience,
            spawn=self._spawn,
            draining=lambda: self._draining,
        )

    def _greet(self, caller: Caller) -> None:
        """Build the engine once the first client has its answer."""
        if self._greeted:
            return
        self._greeted = True
        assert isinstance(caller, Connection)

        async def warm() -> None:
            await caller.flushed()
            await self._warm()

        self._spawn(warm)

    async def _warm(self) -> None:
        if not self._stopping.is_set():
            self._need()
        self._warmed.set()

    async def _take_up(self) -> None:
        """Go on with what an earlier process left waiting, if it did."""
        with anyio.move_on_after(limits.GREETING_S):
            await self._warmed.wait()
        if not self._stopping.is_set():
            await self._need().take_up(self._stopping.is_set)

    def _detach(self, caller: Caller) -> None:
        if self._engine is not None:
            self._engine.hub.detach_all(caller)

    # The end

    def stop(self, reason: str, grace_s: float = 0.0) -> None:
        """Begin the clean stop. Turns get `grace_s` to end by themselves; the second time that
        somebody asks, no more."""
        if grace_s == 0 or self._stopping.is_set():
            self._hurry.set()
        if not self._stopping.is_set():
            log.info("stopping: %s", reason)
            lifetime.end_anyway(grace_s + limits.SHUTDOWN_GRACE_S * 2)
            self._stopping.set()

    def _watch(self) -> None:
        async def signals() -> None:
            async for name in lifetime.signals():
                grace_s = self._options.drain_grace if name == "SIGTERM" else 0.0
                self.stop(name, grace_s)

        async def parent(pid: int, is_parent: bool) -> None:
            await lifetime.wait_for_death(pid, is_parent=is_parent)
            self.stop(f"process {pid} is gone")

        self._tasks.start_soon(signals)
        if self._options.owned:
            self._tasks.start_soon(parent, self._start.parent, True)
        if self._options.parent_pid is not None:
            self._tasks.start_soon(parent, self._options.parent_pid, False)

    def _shut_down(self, caller: Caller) -> Reply:
        """`runtime.shutdown`: a daemon with an owner drains; a shared one lets this client go."""
        if not self._options.owned:
            self._detach(caller)
            return all_settled([])
        self._draining = True
        lifetime.end_anyway(limits.EXIT_AFTER_SHUTDOWN_S, status=0)
        return all_settled([]) if self._engine is None else self._engine.interrupt()

    async def _drain(self) -> None:
        self._draining = True
        engine, cut = self._engine, False
        if engine is not None:
            await self._grace(engine)
        with anyio.move_on_after(limits.SHUTDOWN_GRACE_S):
            if engine is not None:
                cut = not engine.turns_ended().done()
                await engine.interrupt().settled()
            async with anyio.create_task_group() as tasks:
                for connection in list(self._connections):
                    tasks.start_soon(connection.answered)
            for connection in list(self._connections):
                await connection.flushed()
            if cut and self._connections:
                await anyio.sleep(limits.LAST_REFUSALS_S)
                for connection in list(self._connections):
                    await connection.flushed()
        for connection in list(self._connections):
            connection.abort()
        if engine is not None:
            await engine.aclose()

    async def _grace(self, engine: Engine) -> None:
        """Let running turns end by themselves, as long as they may."""
        async with anyio.create_task_group() as tasks:

            async def hurried() -> None:
                await self._hurry.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(hurried)
            with anyio.move_on_after(self._options.drain_grace):
                await engine.turns_ended().settled()
            tasks.cancel_scope.cancel()


class _Handlers(dict[str, Handler]):
    """By method: the front's own, and each of the engine's from its first request on."""

    def __init__(self, own: dict[str, Handler], engine: Callable[[], Engine]) -> None:
        super().__init__(own)
        self._engine = engine

    def __contains__(self, method: object) -> bool:
        return method in METHODS

    def __missing__(self, method: str) -> Handler:
        handler = self[method] = self._engine().handlers[method]
        return handler


def _announce(stdout: int, line: str, options: Options) -> None:
    """Say where to connect. On stdio, standard output belongs to the frames."""
    fd = 2 if options.stdio else stdout
    with contextlib.suppress(OSError):
        os.write(fd, line.encode(errors="surrogateescape") + b"\n")
