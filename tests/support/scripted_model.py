"""A scripted OpenAI-compatible model over real HTTP: the test double of this project.

Standard library only. As a process: `python tests/support/scripted_model.py --port 0` prints
`scripted model on 127.0.0.1:PORT` and serves until its stdin ends (`--stay`: ignore stdin) or
SIGTERM. In a test: `async with ScriptedModel() as model:` and give `model.base_url` to a provider.

What a call does is written in the model's name, or in `[[...]]` in the last user message, which
wins: `fake` followed by words joined with `-`:

    nN  N chunks (1)            dMS  that many ms between them (0)     sCHARS  letters a chunk (5)
    eSTATUS  that HTTP error    codeNAME  its `error.code`             html  502 and an HTML page
    plain  errors as plain text redirect  307 to another origin       slowstartMS  wait first
    toolNAME  call that tool first (arguments from `[[args:{...}]]`), answer after its result
    echo  `messages=<n> users=<n> bytes=<body bytes>`                 history  all user texts
    say  the text of `[[say:...]]`, which alone is enough             reasonN  N reasoning chunks
    hang  never answer          cutN  N chunks, then drop
    stallN  N chunks, then silence; where a tool is called, a word and half of that call
    failN  N chunks, then an error object in the stream               nonsense  200, no SSE or JSON
    empty  no choices at all    nodone  end without finish or [DONE]   length  that finish reason
    choicesN  N choices (not streamed)     ndjson  the stream is answered with one JSON body
    crlf  CRLF line ends        bytes1  one byte a write              badutf8  no UTF-8
    strict  400 where two messages of one role follow each other
    held  wait for `release`    crowdN  wait until N calls are being answered, then all go on

Texts answered in pieces (`say`, `history`, `echo`) are cut into N parts. Chunks that are due at the
same time leave in one write, so a late server catches up as a real one does.

Also: GET /stats, /last (summaries of the last 50 calls), POST /reset, GET .../models.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import heapq
import itertools
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

if not __package__:  # started as a script: make `tests` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.model_connection import EARLY_S, Connection, Received, Streaming, response
from tests.support.model_script import Call

KEPT_SUMMARIES = 50


@dataclass(slots=True)
class Stats:
    requests: int = 0
    by_path: dict[str, int] = field(default_factory=dict)
    active: int = 0
    max_active: int = 0
    bytes_in: int = 0
    aborted: int = 0  # calls whose client left before their end
    connections: int = 0

    def wire(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "byPath": self.by_path,
            "active": self.active,
            "maxActive": self.max_active,
            "bytesIn": self.bytes_in,
            "aborted": self.aborted,
            "connections": self.connections,
        }


class ScriptedModel:
    """The server. Lives from `async with` to its end; every attribute may be read at any time.

    `models` are the entries of GET /models (strings or whole objects), `models_status` its HTTP
    status. With `api_key` set, a call without that bearer token gets 401.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        models: Sequence[str | dict[str, Any]] = ("fake", "fake-n1-d0", "fake-n50-d10"),
        models_status: int = 200,
        api_key: str | None = None,
        keep_requests: bool = True,
    ) -> None:
        self.port = port
        self.models = list(models)
        self.models_status = models_status
        self.api_key = api_key
        self.requests: list[Received] = []
        self.stats = Stats()
        self.connections: set[Connection] = set()
        self.loop: asyncio.AbstractEventLoop
        self._keep = keep_requests
        self._last: deque[dict[str, Any]] = deque(maxlen=KEPT_SUMMARIES)
        self._numbers = itertools.count(1)
        self._order = itertools.count()
        self._held: list[Callable[[], None]] = []
        self._due: list[tuple[float, int, Streaming]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._listener: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> list[Received]:
        """The chat completions among `requests`."""
        return [r for r in self.requests if r.path.endswith("/chat/completions")]

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self._listener = await self.loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, backlog=2048
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.transport.abort()
        while self.connections:
            await asyncio.sleep(0)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until `happened()`; it is asked again whenever a call begins or ends."""
        while not happened():
            waiter = self.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def began(self) -> None:
        self.stats.active += 1
        self.stats.max_active = max(self.stats.max_active, self.stats.active)
        self._wake()

    def ended(self, *, aborted: bool = False) -> None:
        self.stats.active -= 1
        self.stats.aborted += aborted
        self._wake()

    def hold(self, go_on: Callable[[], None]) -> None:
        """A call waits for `release`."""
        self._held.append(go_on)

    def release(self) -> None:
        """Every call that is held goes on."""
        held, self._held = self._held, []
        for go_on in held:
            go_on()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def schedule(self, stream: Streaming) -> None:
        """Advance `stream` now, and again when its next chunk is due."""
        due = stream.advance(self.loop.time())
        if due is not None:
            heapq.heappush(self._due, (due, next(self._order), stream))
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            if self._timer.when() <= self._due[0][0]:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due[0][0], self._tick)

    def _tick(self) -> None:
        """Advance each that is due, once: by rounding one may still be due at the same `now`."""
        self._timer = None
        now = self.loop.time()
        ready = []
        while self._due and self._due[0][0] <= now + EARLY_S:
            ready.append(heapq.heappop(self._due))
        for _, order, stream in ready:
            due = stream.advance(now)
            if due is not None:
                heapq.heappush(self._due, (due, order, stream))
        if self._due:
            self._arm()

    def answer(self, connection: Connection, received: Received) -> None:
        """Route one request."""
        path = received.path
        if received.method == "GET" and path == "/stats":
            return connection.reply(response(200, json.dumps(self.stats.wire()).encode()))
        self.stats.requests += 1
        self.stats.by_path[path] = self.stats.by_path.get(path, 0) + 1
        self.stats.bytes_in += len(received.raw)
        if path == "/reset":
            self.stats = Stats(active=self.stats.active)
            return connection.reply(response(200, b"{}"))
        if path == "/last":
            return connection.reply(response(200, json.dumps(list(self._last)).encode()))
        if self._keep:
            self.requests.append(received)
        if self.api_key and received.headers.get("authorization") != f"Bearer {self.api_key}":
            return connection.reply(_error(401, "Incorrect API key provided", "invalid_api_key"))
        if received.method == "GET" and path.endswith("/models"):
            return connection.reply(self._listing())
        if not path.endswith("/chat/completions"):
            return connection.reply(_error(404, "not found"))
        return self._chat(connection, received)

    def _listing(self) -> bytes:
        if self.models_status != 200:
            return _error(self.models_status, f"fake error {self.models_status}")
        entries = [
            {"id": m, "object": "model", "created": 0, "owned_by": "fake"}
            if isinstance(m, str)
            else m
            for m in self.models
        ]
        return response(200, json.dumps({"object": "list", "data": entries}).encode())

    def _chat(self, connection: Connection, received: Received) -> None:
        try:
            received.body = json.loads(received.raw)
        except ValueError:
            return connection.reply(_error(400, "bad json"))
        if not isinstance(received.body, dict):
            return connection.reply(_error(400, "not an object"))
        call = Call(next(self._numbers), received.body, len(received.raw))
        self._last.append(call.summary(received.path, received.body))
        return connection.begin(call)


def _error(status: int, message: str, code: str | None = None) -> bytes:
    error = {"message": message, "type": "invalid_request_error", "code": code}
    return response(status, json.dumps({"error": error}).encode())


def _watch_stdin(stop: Callable[[], object]) -> None:
    while os.read(0, 4096):
        pass
    stop()


async def _serve(port: int, stay: bool, models: Sequence[str] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = ScriptedModel(port=port, keep_requests=False)
    if models:
        server.models = list(models)
    async with server:
        print(f"scripted model on 127.0.0.1:{server.port}", flush=True)
        if not stay:
            ended = functools.partial(loop.call_soon_threadsafe, stop.set)
            threading.Thread(target=_watch_stdin, args=(ended,), daemon=True).start()
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible model.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stay", action="store_true", help="serve on when stdin ends")
    parser.add_argument("--models", help="ids for GET /models, separated by commas")
    args = parser.parse_args(argv)
    asyncio.run(_serve(args.port, args.stay, args.models.split(",") if args.models else None))


if __name__ == "__main__":
    main()
