"""The composition root: it wires the daemon's parts, runs them and stops them in order.

It imports everything and nobody imports it, except the entry. The order of a stop: no new clients,
no new requests, running turns end by themselves within a grace (after SIGTERM) or with an event
that says so, what is queued for clients is written, connections end, the store closes. All of it
has a bounded time. Messages that wait for a turn wait for the next start.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from tertulia_protocol import VERSION, layout
from tertulia_protocol.envelope import encode_error
from tertulia_protocol.errors import Overloaded, StoreFailed
from tertulia_protocol.events import LifecycleType
from tertulia_protocol.framing import encode_frame
from tertuliad import lifetime, limits, listeners
from tertuliad.audience import Audience
from tertuliad.config import ConfigError, load
from tertuliad.connection import Connection
from tertuliad.follow import Hub
from tertuliad.handlers import table
from tertuliad.handlers.context import Caller, Context
from tertuliad.models import Models
from tertuliad.options import Options
from tertuliad.replies import Reply
from tertuliad.rpc import Handler
from tertuliad.sessions import left_over
from tertuliad.sessions.registry import Sessions
from tertuliad.sessions.world import World
from tertuliad.stdio import StdioStream
from tertuliad.store.base import Row
from tertuliad.store.indexer import Indexer
from tertuliad.store.owners import Owners
from tertuliad.store.schema import FILE_NAME
from tertuliad.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

STOPPED = "The daemon was stopped while this turn ran; its answer is lost. Send the message again."


class Daemon:
    """One for each process. `tasks` is the root task group."""

    def __init__(self, options: Options, tasks: anyio.abc.TaskGroup) -> None:
        self._options = options
        self._tasks = tasks
        self._audience = Audience()
        self._draining = False
        self._stopping = anyio.Event()
        self._hurry = anyio.Event()
        """Turns get no grace any more."""
        settings = load(options.home, path=options.config)
        self._models = Models(settings)
        self._owners = Owners(layout.run_folder(options.home))
        self._store = SqliteStore(options.home, _call_soon())
        self._indexer = Indexer(self._store, self._spawn)
        self._hub = Hub(self._store, lambda session_id: self._sessions.running(session_id))
        self._world = World(
            store=self._store,
            owners=self._owners,
            resolve=self._models.resolve,
            publish=self._hub.publish,
            lifecycle=self._changed,
            spawn=self._spawn,
            credentials={},
            request_headers={},
            version=VERSION,
            turn_limits=options.turn_limits,
            draining=lambda: self._draining,
        )
        self._sessions = Sessions(self._world)
        self._warmed = False

    # Serving

    async def serve(self, stdout: int) -> None:
        """Listen as the options say, until something ends the daemon."""
        options = self._options
        self._watch()
        await anyio.lowlevel.checkpoint()  # who learns of us below may end us at once
        with contextlib.ExitStack() as cleanup:
            if options.socket is not None:
                bound = cleanup.enter_context(listeners.unix_socket(options.socket))
                listener = await listeners.listen_unix(bound)
                self._accept(listener, self._handlers(None), authenticated=True)
                _announce(stdout, f"tertuliad listening on {options.socket}", options)
            if options.port is not None:
                await self._listen_tcp(stdout, cleanup)
            if options.stdio:
                stream = StdioStream(0, stdout)
                handlers = self._handlers(None)
                self._tasks.start_soon(self._serve_stdio, stream, handlers)
            if (options.home / FILE_NAME).exists():
                self._spawn(self._take_up)
            await self._stopping.wait()
            await self._drain()
        self._tasks.cancel_scope.cancel()

    async def _listen_tcp(self, stdout: int, cleanup: contextlib.ExitStack) -> None:
        options = self._options
        assert options.port is not None
        listener = await listeners.listen_tcp(options.host, options.port)
        port = listeners.port_of(listener)
        token, told = options.token, ""
        if options.allow_anonymous:
            token = None
        elif token is None:
            token, path = cleanup.enter_context(listeners.token_file(options.home, port))
            told = f" (the token is in {path})"
        self._accept(listener, self._handlers(token), authenticated=token is None)
        _announce(stdout, f"tertuliad listening on port {port}{told}", options)

    def _accept(
        self,
        listener: anyio.abc.Listener[anyio.abc.SocketStream],
        handlers: dict[str, Handler],
        *,
        authenticated: bool,
    ) -> None:
        async def client(stream: anyio.abc.SocketStream) -> None:
            if len(self._audience.connections) >= limits.CONNECTIONS:
                await _turn_away(stream)
                return
            await self._serve(stream, handlers, authenticated=authenticated, is_socket=True)

        self._tasks.start_soon(_serve_listener, listener, client, self._tasks)

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
    ) -> str:
        """Serve one client to its end; the reason of it."""
        connection = Connection(
            stream,
            handlers,
            authenticated=authenticated,
            is_socket=is_socket,
            is_draining=lambda: self._draining,
            max_body=self._options.max_body,
        )
        connection.on_low = lambda: self._hub.on_low(connection)
        connection.on_end = lambda: self._hub.end_waits(connection)
        self._audience.connections.add(connection)
        log.debug("a client came; there are %d", len(self._audience.connections))
        try:
            await connection.serve()
        except Exception:
            log.exception("a connection failed")
        finally:
            self._audience.connections.discard(connection)
            self._hub.detach_all(connection)
            log.debug("a client went: %s", connection.end_reason)
        return connection.end_reason

    def _handlers(self, token: str | None) -> dict[str, Handler]:
        return table.bound(
            Context(
                world=self._world,
                sessions=self._sessions,
                hub=self._hub,
                models=self._models,
                token=token,
                shut_down=self._shut_down,
                warm=self._warm,
                deleted=self._audience.tell_deleted,
            )
        )

    def _changed(self, kind: LifecycleType, row: Row) -> None:
        """Something of a session was stored."""
        self._audience.tell_changed(kind, row)
        self._indexer.changed()

    async def _take_up(self) -> None:
        """Go on with what an earlier process left waiting."""
        try:
            await left_over.take_up(self._store, self._sessions, self._stopping.is_set)
        except* StoreFailed as group:
            log.error("what was left waiting cannot be read: %s", next(_leaves(group)))

    def _warm(self) -> None:
        if not self._warmed:
            self._warmed = True
            self._spawn(self._models.warm)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that outlives every connection; its failure is logged and ends nothing."""

        async def guarded() -> None:
            try:
                await work()
            except Exception:
                log.exception("a task failed")

        self._tasks.start_soon(guarded)

    # The end

    def stop(self, reason: str, grace_s: float = 0.0) -> None:
        """Begin the clean stop. Turns get `grace_s` to end by themselves; the second time that
        somebody asks, no more."""
        if grace_s == 0 or self._stopping.is_set():
            self._hurry.set()
        if not self._stopping.is_set():
            log.debug("stopping: %s", reason)
            lifetime.end_anyway(grace_s + limits.SHUTDOWN_GRACE_S * 2)
            self._stopping.set()

    def _watch(self) -> None:
        async def signals() -> None:
            async for name in lifetime.signals():
                grace_s = self._options.drain_grace_s if name == "SIGTERM" else 0.0
                self.stop(name, grace_s)

        async def parent(pid: int, is_parent: bool) -> None:
            await lifetime.wait_for_death(pid, is_parent=is_parent)
            self.stop(f"process {pid} is gone")

        self._tasks.start_soon(signals)
        if self._options.owned:
            self._tasks.start_soon(parent, os.getppid(), True)
        if self._options.parent_pid is not None:
            self._tasks.start_soon(parent, self._options.parent_pid, False)

    def _shut_down(self, caller: Caller) -> Reply:
        """`runtime.shutdown`: a daemon with an owner drains; a shared one lets this client go."""
        if not self._options.owned:
            self._hub.detach_all(caller)
            reply = Reply()
            reply.give(None)
            return reply
        self._draining = True
        lifetime.end_anyway(limits.EXIT_AFTER_SHUTDOWN_S, status=0)
        return _all_settled(self._sessions.interrupt_all(STOPPED))

    async def _drain(self) -> None:
        self._draining = True
        await self._grace()
        with anyio.move_on_after(limits.SHUTDOWN_GRACE_S):
            with contextlib.suppress(Exception):
                await _all_settled(self._sessions.interrupt_all(STOPPED)).settled()
            for connection in list(self._audience.connections):
                await connection.flushed()
        for connection in list(self._audience.connections):
            connection.abort()
        with anyio.move_on_after(limits.SHUTDOWN_GRACE_S, shield=True):
            await self._models.aclose()
        self._store.close()
        self._owners.close()

    async def _grace(self) -> None:
        """Let running turns end by themselves, as long as they may."""
        ended = [self._sessions.when_idle(session_id) for session_id in self._world.running]
        async with anyio.create_task_group() as tasks:

            async def hurried() -> None:
                await self._hurry.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(hurried)
            with anyio.move_on_after(self._options.drain_grace_s):
                await _all_settled(ended).settled()
            tasks.cancel_scope.cancel()


async def _turn_away(stream: anyio.abc.SocketStream) -> None:
    """Say that there are too many clients, and close."""
    full = Overloaded(f"{limits.CONNECTIONS} clients are connected, and no more are taken.")
    refusal = encode_error(None, full.code, full.message, full.data)
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        with anyio.move_on_after(limits.SHUTDOWN_GRACE_S):
            await stream.send(encode_frame(refusal))
    await stream.aclose()


async def _serve_listener(
    listener: anyio.abc.Listener[anyio.abc.SocketStream],
    client: Callable[[anyio.abc.SocketStream], Coroutine[Any, Any, None]],
    tasks: anyio.abc.TaskGroup,
) -> None:
    """Accept for ever. Out of file descriptors, say, it pauses and goes on."""
    while True:
        try:
            await listener.serve(client, tasks)
        except* OSError as group:
            log.warning("accepting a client failed: %s", next(_leaves(group)))
            await anyio.sleep(limits.ACCEPT_PAUSE_S)


def _call_soon() -> Callable[[Callable[[], None]], Any]:
    """What runs a function on this event loop, from any thread."""
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe


def _all_settled(replies: list[Reply]) -> Reply:
    """A reply of None once all of `replies` have an outcome, whatever it is."""
    final = Reply()
    left = len(replies)

    def settled(_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            final.give(None)

    for reply in replies:
        reply.add_done_callback(settled)
    if not replies:
        final.give(None)
    return final


def _announce(stdout: int, line: str, options: Options) -> None:
    """Say where to connect. On stdio, standard output belongs to the frames."""
    fd = 2 if options.stdio else stdout
    with contextlib.suppress(OSError):
        os.write(fd, line.encode() + b"\n")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What a person can do something about is said in a line, without a traceback."""
    try:
        yield
    except* (ConfigError, listeners.ListenFailed) as group:
        for error in _leaves(group):
            os.write(2, f"tertuliad: {error}\n".encode())
        raise SystemExit(1) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def run(options: Options, stdout: int) -> int:
    """Run a daemon until its end; the process's exit status."""

    async def root() -> None:
        async with anyio.create_task_group() as tasks:
            await Daemon(options, tasks).serve(stdout)

    backend: dict[str, Any] = {}
    with contextlib.suppress(ImportError):
        import uvloop

        backend["loop_factory"] = uvloop.new_event_loop
    try:
        with _explained():
            anyio.run(root, backend="asyncio", backend_options=backend)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
