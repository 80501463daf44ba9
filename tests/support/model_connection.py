"""The HTTP side of the scripted model: one connection, and one streamed answer under way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.model_script import Call

if TYPE_CHECKING:
    from tests.support.scripted_model import ScriptedModel

WRITE_BYTES = 64 * 1024  # undelayed chunks are joined up to this size
STRICT = "Conversation roles must alternate user/assistant/user/assistant/..."
EARLY_S = 5e-4  # a chunk may leave that much before its time
REASONS = {
    200: "OK",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
    502: "Bad Gateway",
}


@dataclass(slots=True)
class Received:
    """One request as it came in; header names are in lower case, `body` is decoded JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes = b""


def response(
    status: int, body: bytes, kind: str = "application/json", *extra: str, close: bool = False
) -> bytes:
    """A whole HTTP response with its length."""
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Scripted')}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        *extra,
        *(["connection: close"] if close else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def http_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


class Streaming:
    """One streamed answer under way. `advance` writes what is due and says when to come back."""

    __slots__ = ("call", "connection", "limit", "next", "period", "prefix", "start", "total")

    def __init__(self, connection: Connection, call: Call, now: float) -> None:
        numbers = call.script.numbers
        self.connection = connection
        self.call = call
        self.start = now
        self.period = numbers.get("d", 0) / 1000
        self.next = 0
        self.total = call.count + numbers.get("reason", 0)
        self.limit = min(
            self.total, *(numbers.get(w, self.total) for w in ("cut", "stall", "fail"))
        )
        self.prefix = STREAM_HEAD

    def advance(self, now: float) -> float | None:
        """Write what is due; None when nothing more will come by the clock."""
        if self.connection.streaming is not self:
            return None
        owed = self.limit
        if self.period:
            owed = min(owed, int((now + EARLY_S - self.start) / self.period) + 1)
        while (events := self._take(owed)) and self.next < owed:
            self._send(events)
            if self.connection.paused or self.connection.transport.is_closing():
                return None  # `resume_writing` calls again, where somebody still reads
        due = self.start + self.next * self.period
        if self.next < self.limit or (self.period and due > now + EARLY_S):
            self._send(events)
            return due
        self._finish(events)
        return None

    def _take(self, owed: int) -> bytes:
        """The events that are owed, as many as one write holds."""
        events, size = [], 0
        while self.next < owed and size < WRITE_BYTES:
            event = self.call.event(self.next)
            self.next += 1
            size += len(event)
            events.append(event)
        return b"".join(events)

    def _send(self, events: bytes, end: bytes = b"") -> None:
        if "crlf" in self.call.script.flags:
            events = events.replace(b"\n", b"\r\n")
        self.connection.transport.write(self.prefix + http_chunk(events) + end)
        self.prefix = b""

    def _finish(self, events: bytes) -> None:
        numbers = self.call.script.numbers
        if "cut" in numbers and self.next >= numbers["cut"]:
            self._send(events)
            self.connection.drop()
        elif "stall" in numbers and self.next >= numbers["stall"]:
            self._send(events)
        else:
            self._send(events + self.call.tail(), b"0\r\n\r\n")
            self.connection.done()


class Connection(asyncio.Protocol):
    """One client's connection: requests one after another, each answered before the next."""

    transport: asyncio.Transport

    def __init__(self, server: ScriptedModel) -> None:
        self.server = server
        self.buffer = bytearray()
        self.busy = False  # a chat completion is being answered
        self.closing = False  # the client asked to close after this answer
        self.paused = False
        self.streaming: Streaming | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        with contextlib.suppress(OSError):
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connections.add(self)
        self.server.stats.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.streaming = None
        if self.busy:
            self.server.ended(aborted=True)
        self.busy = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.streaming is not None:
            self.server.schedule(self.streaming)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer and not self.buffer[:1].isupper():
            self.transport.close()  # no HTTP: TLS, perhaps
            return
        while not self.busy and self._take_request():
            pass

    def _take_request(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self.buffer[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        taken = self._take_body(end + 4, headers)
        if taken is None:
            return False
        raw, used = taken
        del self.buffer[:used]
        method, path = lines[0].split(" ")[:2]
        self.closing = headers.get("connection", "").lower() == "close"
        self.server.answer(self, Received(method, path.partition("?")[0], headers, None, raw))
        return True

    def _take_body(self, at: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
        """The body and where it ends in the buffer; None while it is incomplete."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._take_chunks(at)
        length = int(headers.get("content-length", "0"))
        if len(self.buffer) < at + length:
            return None
        return bytes(self.buffer[at : at + length]), at + length

    def _take_chunks(self, at: int) -> tuple[bytes, int] | None:
        body = bytearray()
        while (end := self.buffer.find(b"\r\n", at)) >= 0:
            size = int(self.buffer[at:end].split(b";")[0], 16)
            at = end + 2 + size + 2
            if len(self.buffer) < at:
                return None
            if size == 0:
                return bytes(body), at
            body += self.buffer[end + 2 : end + 2 + size]
        return None

    def reply(self, data: bytes) -> None:
        """Write a whole response that no call is behind."""
        self.transport.write(data)
        if self.closing:
            self.transport.close()

    def begin(self, call: Call) -> None:
        """Answer `call` now, or after its slow start."""
        self.busy = True
        self.server.began()
        wait = call.script.number("slowstart", 0)
        if not call.stream:
            wait += call.script.number("d", 0) * call.script.number("n", 1)
        if wait:
            self.server.loop.call_later(wait / 1000, self._start, call)
        else:
            self._start(call)

    def _start(self, call: Call) -> None:
        crowd = call.script.number("crowd", 0)
        if "hang" in call.script.flags:
            return
        if not crowd and "held" not in call.script.flags:
            self._answer(call)
            return
        self.server.hold(functools.partial(self._answer, call))
        if crowd and self.server.stats.active >= crowd:
            self.server.release()

    def _answer(self, call: Call) -> None:
        if self.transport.is_closing():
            return
        if (refused := self._refusal(call)) is not None:
            self.finish(refused)
        elif "nonsense" in call.script.flags:
            body = bytes(range(256)) + b"\x00not an answer\n\n" * 4
            kind = "text/event-stream" if call.stream else "application/json"
            self.finish(response(200, body, kind))
        elif not call.stream or "ndjson" in call.script.flags:
            self._start_whole(call)
        else:
            self._start_stream(call)

    def _refusal(self, call: Call) -> bytes | None:
        script = call.script
        if "redirect" in script.flags:
            return response(307, b"", "text/plain", "location: http://elsewhere.invalid/v1?key=1")
        if "html" in script.flags:
            page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
            return response(502, page, "text/html")
        if "strict" in script.flags and not call.roles_alternate:
            return response(400, json.dumps(call.error(STRICT, 400)).encode())
        if (status := script.number("e", 0)) == 0:
            return None
        extra = ["retry-after: 1"] if status == 429 else []
        if "plain" in script.flags:
            return response(status, f"fake error {status}".encode(), "text/plain", *extra)
        body = json.dumps(call.error(f"fake error {status}", status)).encode()
        return response(status, body, "application/json", *extra)

    def _start_whole(self, call: Call) -> None:
        data = response(200, call.whole())
        if {"cut", "stall"} & call.script.numbers.keys():
            self.transport.write(data[: -len(data) // 4])
            if "cut" in call.script.numbers:
                self.drop()
            return
        self.finish(data)

    def _start_stream(self, call: Call) -> None:
        tool = call.tool
        if tool and "stall" in call.script.numbers:
            self.transport.write(STREAM_HEAD + http_chunk(call.tool_events(tool)[0]))
        elif "empty" in call.script.flags or tool:
            events = b"".join(call.tool_events(tool)) if tool else b""
            self.finish(STREAM_HEAD + http_chunk(events + call.tail()) + b"0\r\n\r\n")
        elif "bytes1" in call.script.flags:
            events = b"".join(map(call.event, range(call.count))) + call.tail()
            self._drip(iter(events), STREAM_HEAD)
        else:
            self.streaming = Streaming(self, call, self.server.loop.time())
            self.server.schedule(self.streaming)

    def _drip(self, rest: Iterator[int], head: bytes = b"") -> None:
        """Write the next byte in a chunk of its own, and come back in the loop's next round."""
        if self.transport.is_closing():
            return
        byte = next(rest, None)
        if byte is None:
            self.finish(b"0\r\n\r\n")
            return
        self.transport.write(head + http_chunk(bytes((byte,))))
        self.server.loop.call_soon(self._drip, rest)

    def finish(self, data: bytes) -> None:
        self.transport.write(data)
        self.done()

    def drop(self) -> None:
        """End the connection in the middle of an answer."""
        self.busy = False
        self.streaming = None
        self.server.ended()
        self.transport.close()

    def done(self) -> None:
        self.busy = False
        self.streaming = None
        self.server.ended()
        if self.closing:
            self.transport.close()
        elif self.buffer:
            self.server.loop.call_soon(self.data_received, b"")
