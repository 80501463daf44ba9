"""The client's end of a connection, in frames and plain JSON: it shows all that the daemon sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc

from tertulia_protocol.errors import rpc_error
from tertulia_protocol.framing import Body, Framer, encode_frame
from tests.support.in_process_model import PATIENCE_S

Message = dict[str, Any]


class FramesClient:
    """`messages` holds everything that came, in order."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.messages: list[Message] = []
        self.closed = False
        """The daemon has ended the stream."""
        self._stream = stream
        self._framer = Framer()
        self._changed = anyio.Event()
        self._may_read = anyio.Event()
        self._may_read.set()
        self._cursor = 0
        self._ids = 0

    # What the daemon sends

    async def read(self) -> None:
        """Collect what comes until the stream ends."""
        while True:
            await self._may_read.wait()
            try:
                data = await self._stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.closed = True
                self._tell()
                return
            for frame in self._framer.feed(data):
                assert isinstance(frame, Body), frame
                self.messages.append(json.loads(frame.data))
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def stop_reading(self) -> None:
        """Take one more piece at most, then nothing until `read_on`."""
        self._may_read = anyio.Event()

    def read_on(self) -> None:
        self._may_read.set()

    async def wait_for(self, wanted: Callable[[Message], bool]) -> Message:
        """The first of all messages, old and new, that is wanted."""
        with anyio.fail_after(PATIENCE_S):
            seen = 0
            while True:
                for message in self.messages[seen:]:
                    if wanted(message):
                        return message
                seen = len(self.messages)
                await self._changed.wait()

    async def next(self, wanted: Callable[[Message], bool]) -> Message:
        """The first wanted message behind the one that `next` gave last."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                for place in range(self._cursor, len(self.messages)):
                    if wanted(self.messages[place]):
                        self._cursor = place + 1
                        return self.messages[place]
                await self._changed.wait()

    async def next_event(self, kind: str, session_id: str | None = None) -> Message:
        """The next `session.event` of this type: the event itself."""

        def wanted(message: Message) -> bool:
            params = message.get("params", {})
            return (
                message.get("method") == "session.event"
                and params["event"]["type"] == kind
                and session_id in (None, params["sessionId"])
            )

        event: Message = (await self.next(wanted))["params"]["event"]
        return event

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what has come makes `condition` true."""
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                await self._changed.wait()

    async def end(self) -> None:
        """Wait until the daemon has ended the stream."""
        await self.until(lambda: self.closed)

    def events(self, session_id: str) -> list[Message]:
        """The events of a session that have come so far."""
        return [
            message["params"]["event"]
            for message in self.messages
            if message.get("method") == "session.event"
            and message["params"]["sessionId"] == session_id
        ]

    def types(self, session_id: str) -> list[str]:
        """The types of those events."""
        return [event["type"] for event in self.events(session_id)]

    def forget(self) -> None:
        """Keep nothing of what has come, so that a long test does not look through it again."""
        self.messages.clear()
        self._cursor = 0

    def answers(self) -> list[Message]:
        """The answers that have come so far, with and without an id."""
        return [message for message in self.messages if "method" not in message]

    # What the daemon gets

    async def send_raw(self, data: bytes) -> None:
        with anyio.fail_after(PATIENCE_S):
            await self._stream.send(data)

    async def send_body(self, body: bytes | str) -> None:
        await self.send_raw(encode_frame(body.encode() if isinstance(body, str) else body))

    async def send(self, message: Any) -> None:
        """A whole message, whatever it is."""
        await self.send_body(json.dumps(message))

    async def ask(self, method: str, params: Any = None, request_id: Any = None) -> Any:
        """Send a request without waiting; gives its id."""
        next_id = self.next_id()
        request_id = next_id if request_id is None else request_id
        message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        await self.send(message if params is None else {**message, "params": params})
        return request_id

    def next_id(self) -> int:
        """An id that no request has had."""
        self._ids += 1
        return self._ids

    @property
    def last_id(self) -> int:
        """The id that was made last for a request."""
        return self._ids

    async def answer(self, request_id: Any) -> Message:
        """The whole answer to `request_id`, once it has come."""
        return await self.wait_for(lambda message: message.get("id", ...) == request_id)

    async def request(self, method: str, params: Any = None) -> Any:
        """The result of a request. Raises `RpcError`."""
        answer = await self.answer(await self.ask(method, params))
        if "error" in answer:
            error = answer["error"]
            raise rpc_error(error["code"], error["message"], error.get("data"))
        return answer["result"]

    async def create(self, session_id: str, **settings: Any) -> Any:
        return await self.request("session.create", {"sessionId": session_id, **settings})

    async def say(self, session_id: str, prompt: str) -> Any:
        """Put a message; the answer comes when it is stored."""
        return await self.request("session.send", {"sessionId": session_id, "prompt": prompt})

    async def turn(self, session_id: str, prompt: str) -> Message:
        """Put a message and wait for the end of its turn: the assistant's message."""
        await self.say(session_id, prompt)
        message = await self.next_event("assistant.message", session_id)
        await self.next_event("session.idle", session_id)
        return message

    async def history(self, session_id: str) -> list[Message]:
        """The session's stored events."""
        answer = await self.request("session.getMessages", {"sessionId": session_id})
        events: list[Message] = answer["events"]
        return events

    async def send_eof(self) -> None:
        """Close the sending half."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()
