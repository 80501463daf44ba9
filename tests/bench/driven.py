"""One daemon under measurement, and a raw client that is fast enough not to be what is measured.

The client is an asyncio protocol on the daemon's pipes: it cuts frames, decodes the few members
that it counts, and notes times. Any daemon of the same wire can be driven.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from tests.bench.counted import Frame, Turn, decode_frame
from tests.bench.machine import Processes

PATIENCE_S = 120.0
"""For any one answer or turn; a daemon that takes longer has failed."""
STOP_S = 10.0
SDK_FLAGS = ("--headless", "--no-auto-update", "--stdio", "--no-auto-login")
_HEADER = re.compile(rb"(?:[^\r\n]*\r\n)*?Content-Length: *(\d+)\r\n(?:[^\r\n]+\r\n)*\r\n", re.I)


class Failed(Exception):
    """The daemon did not do what is to be measured."""


class Daemon(msgspec.Struct, frozen=True):
    """A daemon's name, and the command that starts it on stdio. `only` names the sections that it
    can do, where it cannot do all."""

    name: str
    command: tuple[str, ...]
    only: frozenset[str] | None = None


class Driven(asyncio.SubprocessProtocol):
    """A running daemon. Lives from `start` to `stop`."""

    def __init__(self, daemon: Daemon, home: Path, model_urls: Sequence[str]) -> None:
        self.bytes_received = 0
        self._daemon = daemon
        self._home = home
        self._model_urls = model_urls
        self._opened = 0
        self._rest = bytearray()
        self._ids = 0
        self._waiting: dict[int | str | None, asyncio.Future[msgspec.Raw]] = {}
        self._turns: dict[str, Turn] = {}
        self._errors = b""
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport
        self._gone: asyncio.Future[None]

    async def start(self) -> None:
        """Spawn it and shake hands."""
        await self._spawn(*(() if "--stdio" in self._daemon.command else SDK_FLAGS))
        assert self._transport is not None
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        await self.request("connect", supportedTaskKinds=[])

    async def _spawn(self, *flags: str) -> None:
        loop = asyncio.get_running_loop()
        self._gone = loop.create_future()
        cwd = self._home / "cwd"
        cwd.mkdir(parents=True, exist_ok=True)
        transport, _ = await loop.subprocess_exec(
            lambda: self, *self._daemon.command, *flags, cwd=cwd, env=self._environment()
        )
        self._transport = transport

    def _environment(self) -> dict[str, str]:
        nowhere = "http://127.0.0.1:9"
        given = {"PYTHONPATH": path} if (path := os.environ.get("PYTHONPATH")) else {}
        return given | {
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
            "COPILOT_PROVIDER_BASE_URL": self._model_urls[0],
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
        else:
            self.received(data)

    def received(self, data: bytes) -> None:
        """What the daemon says."""
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
                self._take(decode_frame(body))
        del rest[:at]

    def _take(self, frame: Frame) -> None:
        if frame.method is None:
            self._take_answer(frame)
        elif frame.id is not None:
            refused = {"code": -32601, "message": "not handled by the benchmark"}
            self._send({"jsonrpc": "2.0", "id": frame.id, "error": refused})
        elif frame.params is not None and frame.params.event is not None:
            session, event = frame.params.session_id, frame.params.event
            turn = self._turns.get(session)
            if turn is not None and turn.take(event.type, event.data):
                del self._turns[session]

    def _take_answer(self, frame: Frame) -> None:
        waiting = self._waiting.pop(frame.id, None)
        if waiting is None or waiting.done():
            return
        if frame.error is not None:
            waiting.set_exception(Failed(f"refused: {frame.error}"))
        else:
            waiting.set_result(frame.result)

    def process_exited(self) -> None:
        self._gone.set_result(None)
        error = self._ended()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        for turn in self._turns.values():
            turn.break_off(error)

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
        """A small system prompt, no tools, streaming; the models' servers take turns."""
        self._opened += 1
        return {
            "model": "fake-n1-d0",
            "provider": {
                "type": "openai",
                "baseUrl": self._model_urls[self._opened % len(self._model_urls)],
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
        """New sessions by so many callers, each of whom asks again when it was answered."""
        sessions: list[str] = []
        left = iter(range(count))

        async def caller() -> None:
            sessions.extend([await self.create() for _ in left])

        await asyncio.gather(*(caller() for _ in range(at_once)))
        return sessions

    async def resume(self, session: str) -> None:
        await self.request("session.resume", sessionId=session, **self._settings())

    async def begin(self, session: str, script: str) -> Turn:
        """Send a message that has the model play `script`; back when it was accepted."""
        turn = self._turns[session] = Turn()
        await self.request("session.send", sessionId=session, prompt=f"hi [[{script}]]")
        return turn

    async def seen(self, turn: Turn, deltas: int) -> None:
        await asyncio.wait_for(turn.reached(deltas), PATIENCE_S)

    async def finish(self, turn: Turn, *, may_fail: bool = False) -> None:
        """Back at the turn's end."""
        await asyncio.wait_for(turn.ended, PATIENCE_S)
        if turn.failed and not may_fail:
            raise Failed(f"a turn of {self._daemon.name} failed")

    async def turn(self, session: str, script: str) -> Turn:
        """A whole turn."""
        turn = await self.begin(session, script)
        await self.finish(turn)
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
