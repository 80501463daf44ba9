"""One daemon under measurement, and a raw client that is fast enough not to be what is measured.

The client is an asyncio protocol on the daemon's pipes: it cuts frames, decodes the few members
that it counts, and notes times. Any daemon of the same wire can be driven.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from tests.bench.machine import Processes

PATIENCE_S = 120.0
"""For any one answer or turn; a daemon that takes longer has failed."""
STOP_S = 10.0
SDK_FLAGS = ("--headless", "--no-auto-update", "--stdio", "--no-auto-login")
_HEADER = re.compile(rb"(?:[^\r\n]*\r\n)*?Content-Length: *(\d+)\r\n(?:[^\r\n]+\r\n)*\r\n", re.I)


class Failed(Exception):
    """The daemon did not do what is to be measured."""


class Daemon(msgspec.Struct, frozen=True):
    """A daemon's name, and the command that starts it on stdio."""

    name: str
    command: tuple[str, ...]


class _Told(msgspec.Struct):
    type: str = ""


class _Params(msgspec.Struct, rename="camel"):
    session_id: str = ""
    event: _Told | None = None


class _Frame(msgspec.Struct):
    id: int | str | None = None
    method: str | None = None
    params: _Params | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None


class Turn(msgspec.Struct):
    """One turn as its client saw it; times in ms from its sending."""

    started: float
    ended: asyncio.Future[None]
    deltas: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    ms: float = 0.0
    failed: bool = False


class Driven(asyncio.SubprocessProtocol):
    """A running daemon. Lives from `start` to `stop`."""

    def __init__(self, daemon: Daemon, home: Path, model_url: str) -> None:
        self.bytes_received = 0
        self._daemon = daemon
        self._home = home
        self._model_url = model_url
        self._rest = bytearray()
        self._ids = 0
        self._waiting: dict[int | str | None, asyncio.Future[msgspec.Raw]] = {}
        self._turns: dict[str, Turn] = {}
        self._decode = msgspec.json.Decoder(_Frame).decode
        self._errors = b""
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport
        self._gone: asyncio.Future[None]

    async def start(self) -> None:
        """Spawn it and shake hands."""
        loop = asyncio.get_running_loop()
        self._gone = loop.create_future()
        flags = () if "--stdio" in self._daemon.command else SDK_FLAGS
        cwd = self._home / "cwd"
        cwd.mkdir(parents=True, exist_ok=True)
        transport, _ = await loop.subprocess_exec(
            lambda: self, *self._daemon.command, *flags, cwd=cwd, env=self._environment()
        )
        self._transport = transport
        self._stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        await self.request("connect", supportedTaskKinds=[])

    def _environment(self) -> dict[str, str]:
        nowhere = "http://127.0.0.1:9"
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            "HTTPS_PROXY": nowhere,
            "https_proxy": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "COPILOT_HOME": str(self._home / "data"),
            "COPILOT_OFFLINE": "true",
            "COPILOT_AUTO_UPDATE": "false",
            "COPILOT_PROVIDER_BASE_URL": self._model_url,
            "COPILOT_PROVIDER_API_KEY": "key-of-a-benchmark",
            "COPILOT_MODEL": "fake-n1-d0",
        }

    @property
    def processes(self) -> Processes:
        assert self._transport is not None
        return Processes(self._transport.get_pid())

    # The other side

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._errors = (self._errors + data)[-4000:]
            return
        self.bytes_received += len(data)
        rest = self._rest
        rest += data
        at = 0
        while (header := _HEADER.match(rest, at)) is not None:
            end = header.end() + int(header[1])
            if len(rest) < end:
                break
            body = bytes(rest[header.end() : end])
            at = end
            with contextlib.suppress(msgspec.ValidationError):  # of a kind that is not counted
                self._take(self._decode(body))
        del rest[:at]

    def _take(self, frame: _Frame) -> None:
        if frame.method is None:
            self._take_answer(frame)
        elif frame.id is not None:
            refused = {"code": -32601, "message": "not handled by the benchmark"}
            self._send({"jsonrpc": "2.0", "id": frame.id, "error": refused})
        elif frame.params is not None and frame.params.event is not None:
            turn = self._turns.get(frame.params.session_id)
            if turn is not None:
                self._take_event(frame.params.session_id, frame.params.event.type, turn)

    def _take_answer(self, frame: _Frame) -> None:
        waiting = self._waiting.pop(frame.id, None)
        if waiting is None or waiting.done():
            return
        if frame.error is not None:
            waiting.set_exception(Failed(f"refused: {frame.error}"))
        else:
            waiting.set_result(frame.result)

    def _take_event(self, session: str, kind: str, turn: Turn) -> None:
        if kind == "assistant.message_delta":
            turn.deltas += 1
            turn.last_ms = (time.perf_counter() - turn.started) * 1000
            turn.first_ms = turn.first_ms or turn.last_ms
        elif kind == "session.error":
            turn.failed = True
        elif kind == "session.idle":
            turn.ms = (time.perf_counter() - turn.started) * 1000
            del self._turns[session]
            if not turn.ended.done():
                turn.ended.set_result(None)

    def process_exited(self) -> None:
        self._gone.set_result(None)
        error = self._ended()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        for turn in self._turns.values():
            if not turn.ended.done():
                turn.ended.set_exception(error)

    def _ended(self) -> Failed:
        said = self._errors.decode(errors="replace").strip()
        return Failed(f"{self._daemon.name} ended: {said or 'it said nothing'}")

    # What is asked of it

    def _send(self, message: dict[str, Any]) -> None:
        body = msgspec.json.encode(message)
        self._stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def request(self, method: str, /, **params: Any) -> Any:
        """The result. Raises `Failed`."""
        if self._gone.done() or self._stdin.is_closing():
            raise self._ended()
        self._ids += 1
        answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[self._ids] = answer
        self._send({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params})
        return msgspec.json.decode(await asyncio.wait_for(answer, PATIENCE_S))

    def _settings(self) -> dict[str, Any]:
        """A small system prompt, no tools, streaming."""
        return {
            "model": "fake-n1-d0",
            "provider": {
                "type": "openai",
                "baseUrl": self._model_url,
                "apiKey": "key-of-a-benchmark",
            },
            "streaming": True,
            "availableTools": [],
            "systemMessage": {"mode": "replace", "content": "You are measured."},
            "requestPermission": True,
            "envValueMode": "direct",
        }

    async def create(self) -> str:
        """A new session's id."""
        session = f"bench-{os.urandom(8).hex()}"
        created = await self.request("session.create", sessionId=session, **self._settings())
        return str(created["sessionId"])

    async def create_many(self, count: int, *, at_once: int = 20) -> list[str]:
        sessions: list[str] = []
        while len(sessions) < count:
            some = min(at_once, count - len(sessions))
            sessions += await asyncio.gather(*(self.create() for _ in range(some)))
        return sessions

    async def resume(self, session: str) -> None:
        await self.request("session.resume", sessionId=session, **self._settings())

    async def turn(self, session: str, script: str) -> Turn:
        """Send a message that has the model play `script`; back at the turn's end."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn = self._turns[session] = Turn(time.perf_counter(), ended)
        await self.request("session.send", sessionId=session, prompt=f"hi [[{script}]]")
        await asyncio.wait_for(ended, PATIENCE_S)
        if turn.failed:
            raise Failed(f"a turn of {self._daemon.name} failed")
        return turn

    async def turns(self, sessions: Sequence[str], script: str) -> list[Turn]:
        """One turn in each session, all at once."""
        return await asyncio.gather(*(self.turn(session, script) for session in sessions))

    async def stop(self) -> None:
        """As an SDK stops it; killed where that does not help."""
        with contextlib.suppress(Failed, TimeoutError):
            await asyncio.wait_for(self.request("runtime.shutdown"), STOP_S)
        assert self._transport is not None
        with contextlib.suppress(ProcessLookupError):
            self._transport.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._gone), STOP_S)
        await self.kill()

    async def kill(self) -> None:
        """End it and what it started, at once, if it is still there."""
        if self._transport is None:
            return  # it never started
        if not self._gone.done():
            self.processes.kill()
            await self._gone
        self._transport.close()
