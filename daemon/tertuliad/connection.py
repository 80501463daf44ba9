"""One client's connection: a reader, a writer, and an outbox between the daemon and the writer.

The rules of this file:
- The reader never waits for work. It feeds the framer and hands frames to the gate, and lets the
  other connections have their turn after every few of them, and between the steps of a large one.
- Replies always enter the outbox. Events enter while it is below its high mark; above it the
  followers of this connection fall behind, and `on_low` tells when they may catch up.
- A peer whose outbox grows beyond all bounds asks and never reads: it is closed.
- Who has to say a token first is a stranger until then: it has little time, and its messages and
  its outbox are small.
- Frames that wait together leave together, in one write; a large one leaves in pieces.
- The end of a connection ends its own waiting requests and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import anyio
import anyio.abc
import anyio.lowlevel

from tertulia_protocol.errors import NotAuthenticated
from tertulia_protocol.framing import Body, Broken, Framer
from tertuliad import limits
from tertuliad.askers import new_asker
from tertuliad.rpc import Gate, Handler

log = logging.getLogger(__name__)


class Connection:
    """Dies with its stream; `caller` facts (who it is, what it follows) die with it."""

    def __init__(
        self,
        stream: anyio.abc.ByteStream,
        handlers: Mapping[str, Handler],
        *,
        authenticated: bool,
        is_socket: bool,
        is_draining: Callable[[], bool],
        audience: set[Connection],
        acknowledge: Callable[[], None] | None = None,
        max_body: int = limits.MAX_BODY_BYTES,
    ) -> None:
        """It is in the `audience` from the first that its peer says, once that is no stranger, to
        its end. On stdio the peer has spoken: the handshake was answered to it."""
        self._authenticated = authenticated
        self.is_socket = is_socket
        self._audience = audience
        self.on_low: Callable[[], None] | None = None
        """Called when the outbox has drained below its low mark after it was above the high."""
        self.on_end: Callable[[], None] | None = None
        """Called when the peer sends no more, before what it asked is waited for."""
        self.ending = False
        """The peer sends no more."""
        self.end_reason = "it closed its end"
        self._stream = stream
        self._is_draining = is_draining
        self._acknowledge = acknowledge
        self._max_body = max_body
        self._framer = Framer(max_body if authenticated else min(max_body, limits.STRANGER_BYTES))
        self.asker = new_asker()
        self._gate = Gate(self, handlers, self.send, self._spawn)
        self._outbox: deque[bytes | memoryview] = deque()
        self._outbox_bytes = 0
        self._was_high = False
        self._closing = False
        self._wake = asyncio.Event()
        self._quiet = anyio.Event()
        self._drained = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def authenticated(self) -> bool:
        return self._authenticated

    def let_in(self) -> None:
        """It has said the token."""
        self._authenticated = True
        self._framer.max_body = self._max_body
        self._heard()

    def _heard(self) -> None:
        if self._authenticated:
            self._audience.add(self)

    @property
    def draining(self) -> bool:
        return self._is_draining()

    @property
    def is_over(self) -> bool:
        """Nothing more comes or leaves."""
        return self._closing

    @property
    def outbox_bytes(self) -> int:
        return self._outbox_bytes

    def send(self, *pieces: bytes | memoryview) -> None:
        """Queue a frame that has to arrive, whole or in pieces. However large it is, what counts is
        what waits already."""
        if self._closing:
            return
        bound = limits.OUTBOX_MAX_BYTES if self._authenticated else limits.STRANGER_BYTES
        if self._outbox_bytes > bound:
            log.warning("a client asks and does not read: its connection is closed")
            self.end_reason = "it does not read"
            self.abort()
            return
        for piece in pieces:
            self._push(piece)

    def offer(self, frame: bytes) -> bool:
        """Queue a frame unless the reader lags; False: not taken."""
        if self._closing or self._was_high:
            return False
        self._push(frame)
        return True

    def _push(self, frame: bytes | memoryview) -> None:
        if not self._outbox:
            self._wake.set()
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        if self._outbox_bytes > limits.OUTBOX_HIGH_BYTES:
            self._was_high = True

    def abort(self) -> None:
        """End the connection at once; what waits in the outbox is dropped."""
        self._drop()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def _drop(self) -> None:
        """Nothing more comes or leaves, and nothing of it is kept for the garbage collector."""
        self._closing = True
        self._outbox.clear()
        self._outbox_bytes = 0
        self._framer = Framer(0)

    async def serve(self) -> None:
        """Until the stream ends or is broken. Never raises for what the peer did."""
        if not self.is_socket:
            self._heard()
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._write)
                if not self._authenticated:
                    self._tasks.start_soon(self._expect_token)
                await self._read()
                await self._finish()
                self._tasks.cancel_scope.cancel()
        finally:
            self._audience.discard(self)
            self._drop()
            self._drained.set()
            self._gate.close()
            with anyio.CancelScope(shield=True), anyio.move_on_after(limits.CLOSE_S):
                await self._stream.aclose()

    async def _expect_token(self) -> None:
        await anyio.sleep(limits.STRANGER_S)
        if not self._authenticated:
            self.end_reason = "it said no token"
            self._gate.refuse(_no_token())
            with anyio.move_on_after(limits.STRANGER_FAREWELL_S):
                await self.flushed()
            self.abort()

    async def _read(self) -> None:
        while not self._closing:
            try:
                data = await self._stream.receive(limits.READ_CHUNK_BYTES)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            if not await self._take(data):
                return
            if self._acknowledge is not None and self._framer.mid_frame:
                self._acknowledge()  # the peer may hold the rest back until then

    async def _take(self, data: bytes) -> bool:
        """Act on what came; False: the stream cannot be read on. Nothing of a large message is kept
        by the reader once this has returned."""
        self._heard()
        for number, frame in enumerate(self._framer.feed(data), 1):
            if number % limits.FRAMES_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            if isinstance(frame, Broken):
                self.end_reason = frame.message
            if isinstance(frame, Broken) and frame.foreign and self.is_socket:
                return False  # it may be a web page: not a word
            if isinstance(frame, Body) and len(frame.data) > limits.LARGE_BODY_BYTES:
                await self._gate.take_large(frame.data)
            else:
                self._gate.take(frame)
            if isinstance(frame, Broken):
                return False
        return True

    async def _finish(self) -> None:
        """The peer sends no more: what it asked is still answered, within a bound."""
        with anyio.move_on_after(limits.SHUTDOWN_GRACE_S):
            await self._all_answered()
            await self.flushed()

    async def answered(self) -> None:
        """The daemon stops: what was asked is answered, as far as that comes soon."""
        with anyio.move_on_after(limits.LAST_ANSWERS_S):
            await self._all_answered()
        self._gate.refuse_rest()

    async def _all_answered(self) -> None:
        """Wait for what is in flight; what waits for news is answered as it is."""
        self.ending = True
        if self.on_end is not None:
            self.on_end()
        if self._gate.in_flight:
            self._gate.on_quiet = self._quiet.set
            await self._quiet.wait()

    async def flushed(self) -> None:
        """Wait until the outbox is written, or the stream is broken."""
        while self._outbox_bytes and not self._closing:
            if self._drained.is_set():
                self._drained = anyio.Event()
            await self._drained.wait()

    async def _write(self) -> None:
        while True:
            while not self._outbox:
                self._wake.clear()
                await self._wake.wait()
            try:
                await self._write_next()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.abort()
                return

    async def _write_next(self) -> None:
        chunk = self._next_chunk()
        await self._stream.send(chunk)
        self._written(len(chunk))

    def _next_chunk(self) -> bytes:
        """The frames that leave in one write, or a piece of a large one."""
        if self._outbox_bytes <= limits.WRITE_CHUNK_BYTES:
            whole = b"".join(self._outbox)
            self._outbox.clear()
            return whole
        first = self._outbox.popleft()
        if len(first) > limits.WRITE_CHUNK_BYTES:
            view = memoryview(first)
            self._outbox.appendleft(view[limits.WRITE_CHUNK_BYTES :])
            return bytes(view[: limits.WRITE_CHUNK_BYTES])
        frames, size = [first], len(first)
        while self._outbox and size + len(self._outbox[0]) <= limits.WRITE_CHUNK_BYTES:
            frame = self._outbox.popleft()
            frames.append(frame)
            size += len(frame)
        return b"".join(frames)

    def _written(self, size: int) -> None:
        self._outbox_bytes = max(0, self._outbox_bytes - size)
        if self._was_high and self._outbox_bytes < limits.OUTBOX_LOW_BYTES:
            self._was_high = False
            if self.on_low is not None:
                self.on_low()
        if not self._outbox_bytes:
            self._drained.set()

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Start a waiting request's task; gives what cancels it."""
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await work()

        assert self._tasks is not None
        self._tasks.start_soon(run)
        return scope.cancel


def _no_token() -> NotAuthenticated:
    return NotAuthenticated(
        f"AUTHENTICATION_FAILED: the connection token did not come within {limits.STRANGER_S:g} s."
        " Connect again, and call connect with it first."
    )
