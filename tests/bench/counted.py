"""What the raw client reads of a frame, and what it notes of a turn."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec


class _Told(msgspec.Struct):
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _Params(msgspec.Struct, rename="camel"):
    session_id: str = ""
    event: _Told | None = None


class Frame(msgspec.Struct):
    id: int | str | None = None
    method: str | None = None
    params: _Params | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None


class _Delta(msgspec.Struct, rename="camel"):
    delta_content: str = ""


class _Message(msgspec.Struct):
    content: str = ""


decode_frame = msgspec.json.Decoder(Frame).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_message = msgspec.json.Decoder(_Message).decode


class Turn:
    """One turn as its client saw it; times in ms from its sending."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started = time.perf_counter()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.text: list[str] = []  # of its deltas
        self.message = ""
        self.first_ms = 0.0
        self.ms = 0.0
        self.failed = False
        self._wanted = 0
        self._reached: asyncio.Future[None] | None = None

    @property
    def deltas(self) -> int:
        return len(self.text)

    def take(self, kind: str, data: msgspec.Raw) -> bool:
        """Note one event; whether it was the turn's last."""
        if kind == "assistant.message_delta":
            self.text.append(_decode_delta(data).delta_content)
            self.first_ms = self.first_ms or (time.perf_counter() - self.started) * 1000
            if self._reached is not None and len(self.text) >= self._wanted:
                self._settle(self._reached)
        elif kind == "assistant.message":
            self.message = _decode_message(data).content
        elif kind == "session.error":
            self.failed = True
        elif kind == "session.idle":
            self.ms = (time.perf_counter() - self.started) * 1000
            self._settle(self.ended)
            return True
        return False

    def reached(self, deltas: int) -> asyncio.Future[None]:
        """Done once so many deltas were seen, whether before or from now on."""
        self._wanted = deltas
        self._reached = asyncio.get_running_loop().create_future()
        if len(self.text) >= deltas:
            self._settle(self._reached)
        return self._reached

    def break_off(self, error: Exception) -> None:
        """Nothing more will come. Who waits is told; who does not, need not ask."""
        for waiting in (self.ended, self._reached):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()

    @staticmethod
    def _settle(waiting: asyncio.Future[None]) -> None:
        if not waiting.done():
            waiting.set_result(None)
