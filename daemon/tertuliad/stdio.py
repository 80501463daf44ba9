"""The process's own standard streams as one byte stream.

`claim_stdout` comes before anything else is imported: afterwards file descriptor 1 is standard
error, so that whatever a library prints cannot get between the frames. The descriptors are
switched to non-blocking and given back as they were.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel


def claim_stdout() -> int:
    """A descriptor of the real standard output; descriptor 1 now leads to standard error."""
    real = os.dup(1)
    os.set_inheritable(real, False)
    os.dup2(2, 1)
    return real


def _can_be_polled(fd: int) -> bool:
    """Whether the kernel can say when `fd` is ready: pipes, sockets and terminals, not files."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class StdioStream(anyio.abc.ByteStream):
    """Reads `stdin`, writes `stdout` (descriptors). Dies with the process's client."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._polled = {fd: _can_be_polled(fd) for fd in (stdin, stdout)}
        self._were_blocking = {fd: os.get_blocking(fd) for fd in self._polled}
        for fd, polled in self._polled.items():
            if polled:
                os.set_blocking(fd, False)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        waited = False
        while True:
            try:
                data = os.read(self._stdin, max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._stdin)
                waited = True
            except OSError as error:
                # EIO from a terminal that is gone, EBADF from one that never was.
                raise anyio.EndOfStream from error
            else:
                if not data:
                    raise anyio.EndOfStream
                if not waited:
                    # A client that floods leaves the others their turn.
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                return data

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
        for fd, was_blocking in self._were_blocking.items():
            try:
                os.set_blocking(fd, was_blocking)
            except OSError:
                continue  # closed meanwhile: nothing to give back
