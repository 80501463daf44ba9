"""A plain client of the daemon's bytes, for tests: one thread reads, waits have a bound.

The rules of this file:
- Every wait has a bound, `BOUND_S`; reaching it is a failure and never a measurement.
- Nothing of the project is imported, so that no fault can hide itself by sitting at both ends.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

BOUND_S = 30.0

Event = dict[str, Any]
T = TypeVar("T")
_HEADER = re.compile(rb"Content-Length: ([0-9]+)\r\n\r\n")


class WireError(Exception):
    """An error answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict[str, Any] = error.get("data") or {}


def frame(message: Any) -> bytes:
    """A frame with `message`: JSON text, bytes, or what is to become JSON."""
    if not isinstance(message, bytes):
        text = message if isinstance(message, str) else json.dumps(message)
        message = text.encode()
    return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)


class Wire:
    """A client of one connection. A thread reads; `frames` grows in the order of arrival.

    `fault` is set where the daemon's bytes are anything but frames, `ended` after the last byte.
    """

    def __init__(
        self,
        receive: Callable[[], bytes],
        send: Callable[[bytes], object],
        close: Callable[[], object],
    ) -> None:
        self.frames: list[dict[str, Any]] = []
        self.raw = bytearray()
        self.ended = False
        self.fault: str | None = None
        self.send_bytes = send
        self.close = close
        self._receive = receive
        self._ids = itertools.count(10_001)  # apart from those that tests choose
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = bytearray()
        while data := self._receive_or_end():
            with self._changed:
                self.raw += data
                rest += data
                self._take(rest)
                self._changed.notify_all()
        with self._changed:
            self.ended = True
            if rest and self.fault is None:
                self.fault = f"the stream ends inside a frame: {bytes(rest[-200:])!r}"
            self._changed.notify_all()

    def _receive_or_end(self) -> bytes:
        try:
            return self._receive()
        except (OSError, ValueError):  # reset by the daemon, or closed by ourselves
            return b""

    def _take(self, rest: bytearray) -> None:
        while self.fault is None and rest:
            header = _HEADER.match(rest)
            if header is None:
                if len(rest) > 64 or not rest.startswith(b"Content-Length: "[: len(rest)]):
                    self.fault = f"no frame: {bytes(rest[:200])!r}"
                return
            end = header.end() + int(header[1])
            if len(rest) < end:
                return
            self.frames.append(json.loads(rest[header.end() : end]))
            del rest[:end]

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """What `look` gives, once it is not None; asked again after every arrival."""
        found: T | None = None

        def happened() -> bool:
            nonlocal found
            found = look()
            return found is not None or self.ended

        with self._changed:
            self._changed.wait_for(happened, BOUND_S)
        if found is None:
            raise AssertionError(
                f"{what} did not come; ended={self.ended} fault={self.fault}"
                f" last frames: {json.dumps(self.frames[-5:])[:2000]}"
            )
        return found

    def until_end(self) -> None:
        """Wait until the daemon has closed the stream."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, BOUND_S), "the stream did not end"

    # Requests

    def send(self, message: Any) -> None:
        self.send_bytes(frame(message))

    def ask(self, method: str, params: Any = None) -> int:
        """Send a request; its id."""
        ident = next(self._ids)
        self.send({"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}})
        return ident

    def answers(self, ident: object) -> list[dict[str, Any]]:
        """The answers to request `ident` so far."""
        return [f for f in self.frames if "method" not in f and f.get("id", ...) == ident]

    def answer(self, ident: object) -> dict[str, Any]:
        """Wait for the answer to request `ident`."""
        return self.until(lambda: next(iter(self.answers(ident)), None), f"answer {ident}")

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of a request. Raises `WireError`."""
        answer = self.answer(self.ask(method, params))
        if "error" in answer:
            raise WireError(answer["error"])
        return answer["result"]

    def refused(self, method: str, /, **params: Any) -> WireError:
        """The error that answers a request; fails where it has a result."""
        try:
            result = self.call(method, **params)
        except WireError as error:
            return error
        raise AssertionError(f"{method} was not refused: {result}")

    # Sessions

    def create(self, provider: Mapping[str, Any] | None = None, /, **params: Any) -> str:
        """Create a session with the model `fake` unless told otherwise; its id."""
        given = {"model": "fake", **({"provider": provider} if provider else {}), **params}
        return str(self.call("session.create", **given)["sessionId"])

    def notes(self, method: str) -> list[dict[str, Any]]:
        """The params of the notifications of `method` so far."""
        return [f["params"] for f in self.frames if f.get("method") == method]

    def events(self, session: str, *types: str) -> list[Event]:
        """The session's events so far, or those of `types`."""
        events = [n["event"] for n in self.notes("session.event") if n["sessionId"] == session]
        return [e for e in events if not types or e["type"] in types]

    def stored(self, session: str) -> list[Event]:
        """The session's events so far, without those that are only live."""
        return [event for event in self.events(session) if not event.get("ephemeral")]

    def event(self, session: str, kind: str, nth: int = 1) -> Event:
        """Wait for the session's `nth` event of that type."""

        def look() -> Event | None:
            found = self.events(session, kind)
            return found[nth - 1] if len(found) >= nth else None

        return self.until(look, f"{kind} number {nth} of {session}")

    def turn(self, session: str, prompt: str, **params: Any) -> list[Event]:
        """Send a message; the events from then on up to the turn's `session.idle`."""
        before = len(self.events(session))
        idles = len(self.events(session, "session.idle"))
        self.call("session.send", sessionId=session, prompt=prompt, **params)
        self.event(session, "session.idle", idles + 1)
        return self.events(session)[before:]

    def history(self, session: str) -> list[Event]:
        """The session's stored events."""
        events: list[Event] = self.call("session.getMessages", sessionId=session)["events"]
        return events


def types(events: Sequence[Event]) -> list[str]:
    return [event["type"] for event in events]


def said(events: Sequence[Event]) -> list[str]:
    """The contents of the assistant's messages among `events`."""
    return [e["data"]["content"] for e in events if e["type"] == "assistant.message"]
