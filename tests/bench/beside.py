"""A section about turns beside clients and models that are stuck: of our daemon alone, on a socket
that it shares."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench.driven import PATIENCE_S, Driven, Failed
from tests.bench.measuring import Bench, Numbers, Section, median

PIECE = b"x" * 2**20


class Shared(Driven):
    """A daemon on a unix socket. Its own client is one of several."""

    @property
    def socket(self) -> Path:
        return self._home / "s"

    async def start(self) -> None:
        await self._spawn("--socket", str(self.socket))
        stream, _ = await asyncio.wait_for(self._connected(), PATIENCE_S)
        self._stdin = stream
        await self.request("connect")

    async def _connected(self) -> tuple[asyncio.Transport, asyncio.Protocol]:
        loop = asyncio.get_running_loop()
        while not self._gone.done():
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return await loop.create_unix_connection(lambda: _Stream(self), str(self.socket))
            await asyncio.sleep(0.01)
        raise self._ended()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:  # on its standard output it says where it listens
            super().pipe_data_received(fd, data)


class _Stream(asyncio.Protocol):
    def __init__(self, driven: Driven) -> None:
        self.data_received = driven.received  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def _shared(bench: Bench) -> AsyncIterator[Shared]:
    driven = Shared(bench.daemon, bench.home, bench.model_urls)
    try:
        await driven.start()
        yield driven
    finally:
        await driven.kill()


async def beside(bench: Bench) -> Numbers:
    """Turns of a session: alone, and beside each of three that are stuck."""
    async with _shared(bench) as driven:
        sizes = bench.sizes

        async def p50() -> float:
            session = await driven.create()  # a longer history would be longer turns
            return median(
                [(await driven.turn(session, "fake-n1-d0")).ms for _ in range(sizes.turns)]
            )

        await p50()
        alone = await p50()
        async with _huge_frame(driven):
            huge = await p50()
        async with _half_open(driven, sizes.half_open):
            half_open = await p50()
        for held in await driven.create_many(sizes.stuck):
            await driven.begin(held, "fake-hang")
        stuck = await p50()
    return {
        "beside.alone": alone,
        "beside.huge": huge / alone,
        "beside.half_open": half_open / alone,
        "beside.stuck": stuck / alone,
    }


@contextlib.asynccontextmanager
async def _half_open(driven: Shared, count: int) -> AsyncIterator[None]:
    """So many clients that connect and say nothing."""
    writers = []
    try:
        for _ in range(count):
            _, writer = await asyncio.open_unix_connection(str(driven.socket))
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.close()


@contextlib.asynccontextmanager
async def _huge_frame(driven: Shared) -> AsyncIterator[None]:
    """A client that sends one frame after the other of 60 MiB each, and reads what it is
    answered."""
    reader, writer = await asyncio.open_unix_connection(str(driven.socket))

    async def send() -> None:
        head, tail = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"', b'"}}'
        while True:
            size = len(head) + 60 * len(PIECE) + len(tail)
            for piece in (b"Content-Length: %d\r\n\r\n" % size, head, *[PIECE] * 60, tail):
                writer.write(piece)
                await writer.drain()

    async def read() -> None:
        while await reader.read(2**20):
            pass
        raise Failed("a client with large frames was hung up on")

    tasks = [asyncio.create_task(work()) for work in (send, read)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()


BESIDE = {"beside": Section(beside, long=True)}
