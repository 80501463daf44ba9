"""The process's own standard streams as one byte stream.

The descriptors are switched to non-blocking and given back as they were.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from tertuliad.descriptors import can_be_polled
from tertuliad.limits import READ_AHEAD_BYTES, READ_CHUNK_BYTES


class StdioStream(anyio.abc.ByteStream):
    """Reads `stdin`, writes `stdout` (descriptors). Dies with the process's client.

    The loop watches `stdin` all the time, but for when a reader is far behind: to begin and to end
    that for each message costs more than to read it.
    """

    def __init__(self, stdin: int, stdout: int, came: bytes = b"") -> None:
        """`came` was read from `stdin` already."""
        self._stdin = stdin
        self._stdout = stdout
        self._came: deque[bytes] = deque([came] if came else [])
        self._came_bytes = len(came)
        self._ended = False
        self._watching = False
        self._news = asyncio.Event()
        self._polled = {fd: can_be_polled(fd) for fd in (stdin, stdout)}
        self._were_blocking = {fd: os.get_blocking(fd) for fd in self._polled}
        for fd, polled in self._polled.items():
            if polled:
                os.set_blocking(fd, False)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._came:
            # A client that floods leaves the others their turn.
            await anyio.lowlevel.cancel_shielded_checkpoint()
        while not self._came:
            if self._ended:
                raise anyio.EndOfStream
            if not self._polled[self._stdin]:
                self._read()  # of a file: it is there
                continue
            self._watch()
            self._news.clear()
            await self._news.wait()
        return self._taken(max_bytes)

    def _taken(self, max_bytes: int) -> bytes:
        piece = self._came.popleft()
        if len(piece) > max_bytes:
            self._came.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        self._came_bytes -= len(piece)
        return piece

    def _read(self) -> None:
        """What is there, as far as one read takes it."""
        try:
            piece = os.read(self._stdin, READ_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""  # EIO from a terminal that is gone, EBADF from one that never was
        if piece:
            self._came.append(piece)
            self._came_bytes += len(piece)
        else:
            self._ended = True
        if self._ended or self._came_bytes >= READ_AHEAD_BYTES:
            self._unwatch()
        self._news.set()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().add_reader(self._stdin, self._read)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self._stdin)

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        while view:
            try:
                written = os.write(self._stdout, view)
            except BlockingIOError:
                await anyio.wait_writable(self._stdout)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                view = view[written:]

    async def send_eof(self) -> None:
        """There is no half-close: the end of the process ends the stream."""

    async def aclose(self) -> None:
        self._unwatch()
        for fd, was_blocking in self._were_blocking.items():
            try:
                os.set_blocking(fd, was_blocking)
            except OSError:
                continue  # closed meanwhile: nothing to give back
