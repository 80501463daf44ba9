"""The least that a daemon on our libraries can do: the floor that the figures are read against.

    python -m tests.bench --bare

A message is stored and made durable, the model is asked, its deltas are passed on, the answer is
stored and made durable. Everything else is left out: no session has a state, nothing is checked or
bounded, nobody else may look on, nothing can be listed, resumed, aborted or deleted.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from tertulia_protocol.framing import Body, Framer, encode_frame
from tertuliad.store.durable import sync_file
from tertuliad.store.kernel_sync import offered
from tertuliad.store.log_file import LogFile


class Log:
    """One table; rows that come while the disk is busy share the next transaction."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "bare.db"
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, body BLOB)")
        log = LogFile(path)
        log.lengthen()  # nobody else writes
        self._file = log.descriptor()
        self._kernel = offered(asyncio.get_running_loop())
        self._waiting: list[tuple[bytes, Callable[[], None]]] = []
        self._busy = False

    def store(self, body: bytes, done: Callable[[], None]) -> None:
        self._waiting.append((body, done))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        group, self._waiting = self._waiting, []
        self._busy = bool(group)
        if not group:
            return
        self._db.execute("BEGIN IMMEDIATE")
        rows = [(body,) for body, _ in group]
        self._db.executemany("INSERT INTO rows (body) VALUES (?)", rows)
        self._db.execute("COMMIT")

        def synced(error: OSError | None) -> None:
            assert error is None
            self._next()
            for _, answer in group:
                answer()

        if self._kernel is None:
            sync_file(self._file)
            synced(None)
        else:
            self._kernel.sync(self._file, synced)


class Bare(asyncio.Protocol):
    """Its one client's connection."""

    def __init__(self, out: asyncio.WriteTransport, log: Log) -> None:
        self._out = out
        self._log = log
        self._framer = Framer(1 << 26)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._urls: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        for frame in self._framer.feed(data):
            if isinstance(frame, Body):
                self._take(msgspec.json.decode(frame.data))

    def connection_lost(self, exc: Exception | None) -> None:
        os._exit(0)

    def _take(self, request: dict[str, Any]) -> None:
        params = request["params"]
        session = params.get("sessionId", "")

        def answer() -> None:
            self._tell({"jsonrpc": "2.0", "id": request["id"], "result": {"sessionId": session}})

        if request["method"] == "session.create":
            self._urls[session] = params["provider"]["baseUrl"]
            self._log.store(msgspec.json.encode(params), answer)
        elif request["method"] == "session.send":
            self._log.store(msgspec.json.encode(params), answer)
            task = asyncio.ensure_future(self._turn(session, params["prompt"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            answer()

    async def _turn(self, session: str, prompt: str) -> None:
        messages = [{"role": "user", "content": prompt}]
        body = msgspec.json.encode({"model": "bare", "stream": True, "messages": messages})
        said: list[str] = []
        url = f"{self._urls[session]}/chat/completions"
        async with self._http.post(url, data=body, headers={"x-bare": "1"}) as response:
            rest = b""
            async for piece in response.content.iter_any():
                *events, rest = (rest + piece).split(b"\n\n")
                text = "".join(filter(None, map(_text, events)))
                if text:
                    said.append(text)
                    self._event(session, "assistant.message_delta", {"deltaContent": text})
        answer = {"content": "".join(said)}
        self._log.store(msgspec.json.encode(answer), lambda: self._end(session, answer))

    def _end(self, session: str, answer: dict[str, str]) -> None:
        self._event(session, "assistant.message", answer)
        self._event(session, "session.idle", {})

    def _event(self, session: str, kind: str, data: dict[str, str]) -> None:
        event = {"sessionId": session, "event": {"type": kind, "data": data}}
        self._tell({"jsonrpc": "2.0", "method": "session.event", "params": event})

    def _tell(self, message: dict[str, Any]) -> None:
        self._out.write(encode_frame(msgspec.json.encode(message)))


def _text(event: bytes) -> str | None:
    if not event.startswith(b"data: {"):
        return None
    choices = msgspec.json.decode(event[6:])["choices"]
    return choices[0]["delta"].get("content") if choices else None


async def main() -> None:
    loop = asyncio.get_running_loop()
    home = Path(os.environ.get("COPILOT_HOME", "."))
    out, _ = await loop.connect_write_pipe(asyncio.Protocol, sys.stdout)
    log = Log(home)
    await loop.connect_read_pipe(lambda: Bare(out, log), sys.stdin)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
