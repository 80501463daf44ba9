"""What this machine gives at best, measured in the same run: machines differ, and are noisy.

No daemon takes part. A figure is read beside its yardstick.
"""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tests.bench.bare_client import read_at_once
from tests.bench.machine import Processes
from tests.bench.measuring import Numbers, median, quantile, since
from tests.bench.sizes import Sizes

IMPORTS = "import anyio._backends._asyncio, msgspec, pylsp_jsonrpc.endpoint"
"""What our daemon cannot open a session without; uvloop too, where the platform has it."""
WITH_UVLOOP = IMPORTS + "\ntry: import uvloop\nexcept ImportError: pass"
SYNC_BYTES = 4096


async def yardsticks(home: Path, model_urls: Sequence[str], sizes: Sizes) -> Numbers:
    """One run of all of them; files are written in `home`."""
    numbers = _starts("python", "", sizes) | _starts("imports", WITH_UVLOOP, sizes)
    numbers |= _syncs(home, sizes.syncs)
    numbers["machine.threads"] = await _between_threads(sizes.round_trips)
    numbers["machine.model"] = await _model_alone(model_urls[0], sizes.requests)
    one = await read_at_once(model_urls, 1, f"fake-n{sizes.deltas}-d0", sizes.deltas)
    numbers["machine.stream"] = one["wall"]
    for count in sizes.bare_at_once:
        script = f"fake-n{sizes.deltas_at_once}-d10"
        found = await read_at_once(model_urls, count, script, sizes.deltas_at_once)
        numbers |= {f"machine.{count}.{name}": value for name, value in found.items()}
    return numbers


def _starts(name: str, code: str, sizes: Sizes) -> Numbers:
    """From the spawn of an interpreter until it ran `code`, and its memory then."""
    found = [_start(code) for _ in range(sizes.starts)]
    return {
        f"machine.{name}": median([ms for ms, _ in found]),
        f"machine.{name}.memory": median([memory for _, memory in found]),
    }


def _start(code: str) -> tuple[float, float]:
    told = f"{code}\nimport os\nos.write(1, b'.')\nos.read(0, 1)"
    start = time.perf_counter()
    command = [sys.executable, "-c", told]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return since(start), Processes(process.pid).resident_mb()


def _syncs(home: Path, count: int) -> Numbers:
    """An append that is made durable, as a commit has to."""
    each = []
    with tempfile.TemporaryFile(dir=home, buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(bytes(SYNC_BYTES))
            os.fdatasync(file.fileno())
            each.append(since(start))
    return {"machine.sync": median(each), "machine.sync.p99": quantile(each, 0.99)}


async def _between_threads(count: int) -> float:
    """From the loop's thread to another one and back."""
    loop = asyncio.get_running_loop()
    asked: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

    def answer() -> None:
        while (waiting := asked.get()) is not None:
            loop.call_soon_threadsafe(waiting.set_result, None)

    thread = threading.Thread(target=answer)
    thread.start()
    each = []
    for _ in range(count):
        start = time.perf_counter()
        waiting: asyncio.Future[None] = loop.create_future()
        asked.put(waiting)
        await waiting
        each.append(since(start))
    asked.put(None)
    thread.join()
    return median(each)


async def _model_alone(url: str, count: int) -> float:
    """The scripted model's one-word answer, read from a bare socket."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    message = {"role": "user", "content": "hi"}
    body = msgspec.json.encode({"model": "fake-n1-d0", "stream": True, "messages": [message]})
    head = f"POST {where.path}/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    each = []
    for _ in range(count):
        start = time.perf_counter()
        writer.write(request)
        await reader.readuntil(b"\r\n0\r\n\r\n")
        each.append(since(start))
    writer.close()
    await writer.wait_closed()
    return median(each)
