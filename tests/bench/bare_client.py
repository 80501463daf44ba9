"""The models' streams read with aiohttp alone: what no daemon behind that client can be below.

Each stream is split into events and decoded, as a daemon has to; nothing is stored or passed on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import aiohttp
import msgspec

from tests.bench.driven import PATIENCE_S, Failed
from tests.bench.measuring import Numbers, own_cpu_s, quantile, since


class _Said(msgspec.Struct):
    content: str = ""


class _Choice(msgspec.Struct):
    delta: _Said


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Chunk).decode


class _Stream:
    """One answer under way: its text so far, and when its first words came (ms)."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_ms = 0.0
        self.chunks = 0
        self._rest = b""

    def take(self, piece: bytes) -> None:
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                self.chunks += sum(bool(c.delta.content) for c in _decode(event[6:]).choices)
        if self.chunks and not self.first_ms:
            self.first_ms = since(self.started)


async def read_at_once(model_urls: Sequence[str], count: int, script: str, chunks: int) -> Numbers:
    """`count` answers at once: wall and 99th percentile of the first words in ms, own CPU in s."""
    bound = aiohttp.ClientTimeout(total=PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=bound) as http:
        cpu, start = own_cpu_s(), time.perf_counter()
        urls = [model_urls[at % len(model_urls)] for at in range(count)]
        streams = await asyncio.gather(*(_read(http, url, script) for url in urls))
        numbers = {
            "wall": since(start),
            "first": quantile([stream.first_ms for stream in streams], 0.99),
            "cpu": own_cpu_s() - cpu,
        }
    if any(stream.chunks != chunks for stream in streams):
        raise Failed("the scripted model did not say all that it should")
    return numbers


async def _read(http: aiohttp.ClientSession, url: str, script: str) -> _Stream:
    body = {"model": script, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    stream = _Stream()
    async with http.post(f"{url}/chat/completions", json=body) as answer:
        async for piece in answer.content.iter_any():
            stream.take(piece)
    return stream
