"""One async connection: a byte stream, a task that reads it, one that writes it, and the core.

Callers never write to the stream themselves: a caller that is cancelled must not leave half a frame
on it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import anyio
import anyio.abc

from tertulia import limits
from tertulia.attachments import Hold
from tertulia.calls import Params
from tertulia.core import Core
from tertulia.errors import ConnectionLost, DaemonFailed, FellBehind, TertuliaError, Timeout, again
from tertulia.launch import Address, UnixAddress
from tertulia.process import StderrTail, cannot_run, ended, unanswered
from tertulia.records import Event
from tertulia.streams import connected_now, listener_of, no_answer, no_daemon

_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""What a stream raises once it is over, from either side."""


class AsyncEventQueue:
    """A feed that tasks can wait on. Every reader of it sees its end."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._more = anyio.Event()
        self._ended = False
        self._error: Exception | None = None

    def push(self, event: Event) -> None:
        if self._ended:
            return
        if len(self._events) >= limits.FEED_EVENTS:
            self.end(FellBehind(f"{limits.FEED_EVENTS} events wait and nobody reads them."))
            return
        self._events.append(event)
        self._more.set()

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._more.set()

    def check(self) -> None:
        """As `EventQueue.check`."""
        if self._error is not None:
            raise again(self._error)

    async def take(self) -> Event | None:
        """The next event, None at a clean end. Raises the end's error."""
        while not self._events:
            if self._ended:
                if self._error is not None:
                    raise again(self._error)
                return None
            if self._more.is_set():
                self._more = anyio.Event()
            await self._more.wait()
        return self._events.popleft()


class Peer(Protocol):
    """What is at the other end of the stream."""

    async def attend(self) -> None:
        """What has to be done for it while the connection lives."""

    async def reason(self) -> ConnectionLost:
        """Why the stream ended."""

    async def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        """As `Stream.told`."""

    async def aclose(self) -> None:
        """End it from this side. Bounded."""


class AsyncLink:
    """A connection in use. `run` is the task in which it lives."""

    def __init__(
        self, send: anyio.abc.ByteSendStream, receive: anyio.abc.ByteReceiveStream, peer: Peer
    ) -> None:
        self.peer = peer
        self._core = Core()
        self._send = send
        self._receive = receive
        self._to_write = anyio.Event()
        self._to_end = anyio.Event()
        self._ended = anyio.Event()

    @property
    def lost(self) -> bool:
        """Whether the connection is over."""
        return self._core.lost

    async def request(self, method: str, params: Any, timeout: float | None) -> Any:
        """The result. Raises an `RpcError`, `ConnectionLost`, or `Timeout` after `timeout` s."""
        return await self._settled(method, self._core.request(method, params), timeout)

    async def attach(self, method: str, params: Params, timeout: float | None, hold: Hold) -> Any:
        """As `Link.attach`."""
        return await self._settled(method, self._core.attach(method, params, hold), timeout)

    async def attach_first(
        self, method: str, params: Params, timeout: float | None, hold: Hold
    ) -> Any:
        """As `attach`, of a hold that is the caller's only with the result: without one, because of
        a cancellation among others, it is let go, now or with the answer."""
        answer = self._core.attach(method, params, hold)
        try:
            return await self._settled(method, answer, timeout)
        except BaseException:
            answer.add_done_callback(lambda _: self._core.release(params["sessionId"], hold))
            self._to_write.set()
            raise

    async def release(self, session_id: str, hold: Hold, timeout: float | None) -> None:
        """As `Link.release`."""
        answer = self._core.release(session_id, hold)
        if answer is not None:
            await self._settled("session.detach", answer, timeout)

    async def _settled(self, method: str, answer: Future[Any], timeout: float | None) -> Any:
        self._to_write.set()
        with anyio.move_on_after(timeout):
            await _until_done(answer)
        if not answer.done():
            raise Timeout(f"No answer to {method} within {timeout:g} s", "it was sent")
        return answer.result()

    def subscribe(self, session_id: str, hold: Hold) -> AsyncEventQueue:
        """The session's events from now on, for as long as the caller holds the queue."""
        feed = AsyncEventQueue()
        self._core.subscribe(session_id, feed, hold)
        return feed

    async def run(self) -> None:
        """Read and write until `aclose`, and end it then. A cancellation around it does not end it:
        the daemon is still to be asked to stop, and to be read until it has."""
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read, name="tertulia reader")
                    tasks.start_soon(self._write, name="tertulia writer")
                    tasks.start_soon(self.peer.attend, name="tertulia attendant")
                    await self._until_ended()
                    tasks.cancel_scope.cancel()
        finally:  # whatever happened: nobody may wait for what is gone
            self._ended.set()

    async def _until_ended(self) -> None:
        try:
            await self._to_end.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self.peer.aclose()

    async def _read(self) -> None:
        try:
            while True:
                self._core.receive(await self._receive.receive(limits.READ_BYTES))
                if self._core.has_outgoing:
                    self._to_write.set()
        except _ENDS:
            self._core.lose(await self.peer.reason())
        except ConnectionLost as error:
            self._core.lose(error)

    async def _write(self) -> None:
        """Write what there is, joined; what breaks here, the reader reports."""
        with contextlib.suppress(*_ENDS):
            while True:
                await self._to_write.wait()
                self._to_write = anyio.Event()
                if data := self._core.outgoing():
                    await self._send.send(data)

    async def aclose(self) -> None:
        """End the connection and whatever waits on it. Idempotent. Who is cancelled meanwhile has
        ended it all the same: that is done in `run`."""
        self._core.lose(ConnectionLost("The client was closed."))
        self._to_end.set()
        await self._ended.wait()


async def _until_done(answer: Future[Any]) -> None:
    over = anyio.Event()
    answer.add_done_callback(lambda _: over.set())
    await over.wait()


class SocketPeer:
    """A daemon on TCP or a unix socket."""

    def __init__(self, address: Address, stream: anyio.abc.SocketStream) -> None:
        self._address = address
        self._stream = stream
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not a query
        self._pid = listener_of(raw)

    async def attend(self) -> None:
        """Nothing has to be done for a socket."""

    async def reason(self) -> ConnectionLost:
        return ConnectionLost(f"The daemon at {self._address} closed the connection.")

    async def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        """As `Stream.told`."""
        silent = isinstance(error, Timeout)
        return no_answer(self._address, self._pid, patience) if silent else error

    async def aclose(self) -> None:
        with contextlib.suppress(*_ENDS):
            await self._stream.aclose()


async def connected(address: Address) -> AsyncLink:
    """A link to a daemon that runs. Raises `ConnectionLost` where none answers, `Timeout` where one
    takes no connection."""
    try:
        stream = await _connect(address)
    except BlockingIOError:
        raise no_answer(address, None, limits.CONNECT_TIMEOUT_S) from None
    except OSError as error:
        raise no_daemon(address, error) from None
    return AsyncLink(stream, stream, SocketPeer(address, stream))


async def _connect(address: Address) -> anyio.abc.SocketStream:
    if isinstance(address, UnixAddress):
        made = await _connected_unix(address.path)
        return await anyio.abc.UNIXSocketStream.from_socket(made)
    with anyio.fail_after(limits.CONNECT_TIMEOUT_S):
        return await anyio.connect_tcp(address.host, address.port)


async def _connected_unix(path: str) -> socket.socket:
    until = time.monotonic() + limits.CONNECT_TIMEOUT_S
    while True:
        try:
            return connected_now(path)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        await anyio.sleep(limits.CONNECT_AGAIN_S)


class ProcessPeer:
    """A child on pipes. It is ended by end of file, then SIGTERM, then SIGKILL."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._tail = StderrTail()
        self._drained = anyio.Event()

    async def attend(self) -> None:
        """Read its stderr to the end, so that it never waits for us; keep the tail."""
        assert self._process.stderr is not None
        with contextlib.suppress(*_ENDS):
            while True:
                self._tail.add(await self._process.stderr.receive(limits.READ_BYTES))
        self._drained.set()

    async def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        """As `Stream.told`."""
        if isinstance(error, ConnectionLost):
            return await self.failure()
        return unanswered(error) if isinstance(error, Timeout) else error

    async def failure(self) -> DaemonFailed:
        """The end of the process, told with the end of its stderr."""
        with anyio.move_on_after(limits.EXIT_STATUS_S):
            await self._process.wait()
            await self._drained.wait()
        return ended(self._process.returncode, self._tail.text)

    async def reason(self) -> ConnectionLost:
        return ConnectionLost(str(await self.failure()))

    async def aclose(self) -> None:
        try:
            await self._end()
        finally:  # an event loop that ends cancels what runs in it
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self._process.aclose()

    async def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(*_ENDS):
            await self._process.stdin.aclose()
        if not await self._ended_within(limits.EOF_GRACE_S):
            self._process.terminate()
            if not await self._ended_within(limits.TERM_GRACE_S):
                self._process.kill()
                await self._ended_within(limits.KILL_GRACE_S)

    async def _ended_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._process.wait()
        return self._process.returncode is not None


async def spawned(command: Sequence[str], env: Mapping[str, str] | None) -> AsyncLink:
    """A link to a daemon of its own. Raises `DaemonFailed` where it cannot be run."""
    whole = {**os.environ, **env} if env else None
    try:
        process = await anyio.open_process(command, env=whole, start_new_session=True)
    except OSError as error:
        raise cannot_run(command[0], error) from None
    assert process.stdin is not None
    assert process.stdout is not None
    return AsyncLink(process.stdin, process.stdout, ProcessPeer(process))
