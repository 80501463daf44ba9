"""A server may close a connection that it promised to keep; no turn is lost to that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tertuliad.providers.base import ProviderFailed
from tertuliad.providers.http import Http

pytestmark = pytest.mark.anyio

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"


class ForgetfulServer:
    """Answers the first `good` requests of each connection and hangs up on the next."""

    def __init__(self, good: int) -> None:
        self.good = good
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served = 0
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            self.requests += 1
            if served >= self.good:
                break
            served += 1
            writer.write(ANSWER)
        writer.close()


@asynccontextmanager
async def forgetful(good: int) -> AsyncIterator[tuple[ForgetfulServer, str]]:
    server = ForgetfulServer(good)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield server, f"http://127.0.0.1:{port}/v1"
    finally:
        listener.close()


async def ask(http: Http, url: str) -> bytes:
    with anyio.fail_after(10):
        with await http.ask("POST", url, headers={}) as answer:
            return (await answer.read_all(100))[0]


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    http = Http()
    async with forgetful(good=1) as (server, url):
        assert [await ask(http, url) for _ in range(3)] == [b"ok"] * 3
        assert server.requests == 5  # the second and the third were asked once more
        await http.aclose()


async def test_a_fresh_connection_that_is_closed_is_a_failure_at_once() -> None:
    http = Http()
    async with forgetful(good=0) as (server, url):
        with pytest.raises(ProviderFailed) as caught:
            await ask(http, url)
        assert caught.value.kind == "connection"
        assert server.requests == 1
        await http.aclose()
