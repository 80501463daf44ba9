"""The client's side of one connection, free of I/O: bytes in, replies and events out.

Both drivers, the blocking one and the async one, stand on this and hold no protocol logic of their
own. Not thread-safe: a driver with threads holds one lock around every call. Nothing here blocks,
so that the driver's reader never stops reading.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

import msgspec

from tertulia import calls
from tertulia.attachments import Attachments, Hold
from tertulia.errors import ConnectionLost, RpcError, SessionNotFound, again, rpc_error
from tertulia.records import Event
from tertulia.rpc import Calls
from tertulia_protocol import envelope
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.framing import SENSELESS_BODY_BYTES, Body, Framer, encode_frame

T = TypeVar("T")


class Feed(Protocol):
    """Where one reader's events of one session go. Must not block."""

    def push(self, event: Event) -> None:
        """One more event."""

    def end(self, error: Exception | None) -> None:
        """No more events come: because of `error`, or because this client closed the session."""


class _EventParams(msgspec.Struct, rename="camel"):
    session_id: str
    event: Event


class _LifecycleParams(msgspec.Struct, rename="camel"):
    type: str
    session_id: str


_OF_THE_WEB = tuple(f"Not a header line: '{begins}" for begins in ("HTTP/", "<"))
_encode = msgspec.json.Encoder().encode
_event_params = json_decoder(_EventParams)
_lifecycle_params = json_decoder(_LifecycleParams)


class Core:
    """What is in flight on one connection: requests that wait, and the feeds of its sessions."""

    def __init__(self) -> None:
        self._framer = Framer(SENSELESS_BODY_BYTES)
        self._out: list[bytes] = []
        self._calls = Calls(lambda message: self._out.append(encode_frame(_encode(message))))
        self._attachments = Attachments()
        self._feeds: dict[str, WeakKeyDictionary[Feed, Hold]] = {}
        self._lost: Exception | None = None

    def request(self, method: str, params: Any) -> Future[Any]:
        """Ask. The future ends with the decoded result, an `RpcError` or `ConnectionLost`.

        Lone surrogates in `params` become U+FFFD. Raises TypeError where `params` cannot be JSON,
        before anything is sent.
        """
        encoded = msgspec.Raw(_encoded(params))
        if self._lost is not None:
            raise again(self._lost)
        return self._calls.ask(method, encoded)

    def attach(self, method: str, params: calls.Params, hold: Hold) -> Future[Any]:
        """As `request`, of a method that attaches to the session which `params` name: that is
        `hold`'s with the answer, if there is still anybody who has it."""
        session_id = params["sessionId"]
        answer = self.request(method, params)
        self._attachments.ask(session_id)
        answer.add_done_callback(partial(self._attached, session_id, ref(hold)))
        return answer

    def release(self, session_id: str, hold: Hold) -> Future[Any] | None:
        """End the feeds of `hold`, and where nobody else holds the session, detach: the request."""
        feeds = self._feeds.pop(session_id, WeakKeyDictionary())
        for feed, holder in list(feeds.items()):
            if holder is hold:
                del feeds[feed]
                feed.end(None)
        if feeds:
            self._feeds[session_id] = feeds
        return self._detach(session_id) if self._attachments.release(session_id, hold) else None

    @property
    def lost(self) -> bool:
        """Whether the stream is over."""
        return self._lost is not None

    @property
    def has_outgoing(self) -> bool:
        return bool(self._out)

    def outgoing(self) -> bytes:
        """The bytes that are to be written now."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> None:
        """Take what the stream brought. Raises `ConnectionLost` where it is not the protocol."""
        for frame in self._framer.feed(data):
            if not isinstance(frame, Body):
                raise ConnectionLost(_unreadable(frame.message))
            self._take(frame.data)

    def lose(self, error: Exception) -> None:
        """The stream is over: end whatever waits with `error`. The first reason stays."""
        if self._lost is not None:
            return
        self._lost = again(error)
        self._calls.fail(error)
        for session_id in list(self._feeds):
            self._end_feeds(session_id, self._lost)

    def subscribe(self, session_id: str, feed: Feed, hold: Hold) -> None:
        """Route the session's events to `feed`, for as long as its reader holds it, and until
        `hold` is released. It ends at once where `hold` does not keep the session attached."""
        if self._lost is not None:
            feed.end(self._lost)
        elif not self._attachments.has(session_id, hold):
            feed.end(None if hold.closed else SessionNotFound.of(session_id))
        else:
            self._feeds.setdefault(session_id, WeakKeyDictionary())[feed] = hold

    def _attached(self, session_id: str, hold: ReferenceType[Hold], answer: Future[Any]) -> None:
        granted = answer.exception() is None
        if self._attachments.answered(session_id, hold(), granted=granted):
            self._detach(session_id)

    def _detach(self, session_id: str) -> Future[Any] | None:
        """What is asked for later to attach again is behind it on the stream."""
        detach = calls.detach(session_id)
        return None if self.lost else self.request(detach.method, detach.params)

    def _end_feeds(self, session_id: str, error: Exception) -> None:
        """No more events of the session come to this client."""
        for feed in self._feeds.pop(session_id, ()):
            feed.end(error)

    def _take(self, body: envelope.Encoded) -> None:
        message = envelope.decode(body)
        match message:
            case envelope.Notification(method="session.event", params=params):
                self._route(params)
            case envelope.Notification(method="session.lifecycle", params=params):
                self._note_lifecycle(params)
            case envelope.Reply(id=request_id):
                self._calls.reply(request_id, _outcome(message))
            case envelope.Request(id=request_id, method=method):
                self._calls.refuse(request_id, method)
            case envelope.Fault():
                self._calls.reply_without_id(_error_without_id(body, message))

    def _route(self, params: msgspec.Raw) -> None:
        notice = _decoded(_event_params, params)
        for feed in self._feeds.get(notice.session_id, ()):
            feed.push(notice.event)

    def _note_lifecycle(self, params: msgspec.Raw) -> None:
        notice = _decoded(_lifecycle_params, params)
        if notice.type == "session.deleted":
            self._attachments.forget(notice.session_id)
            self._end_feeds(notice.session_id, SessionNotFound.of(notice.session_id))


def _unreadable(why: str) -> str:
    """What is told of a stream of another kind; `why` shows how it begins."""
    if why.startswith(_OF_THE_WEB):
        return "This is a web server and no tertuliad: check the address."
    return f"The daemon's stream cannot be read: {why}"


def _encoded(params: Any) -> bytes:
    try:
        return _encode(params)
    except UnicodeEncodeError:
        return _encode(_mended(msgspec.to_builtins(params)))


def _mended(value: Any) -> Any:
    """`value` with U+FFFD for each half of a surrogate pair that stands alone."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(name): _mended(member) for name, member in value.items()}
    return [_mended(item) for item in value] if isinstance(value, list) else value


def _decoded(decoder: msgspec.json.Decoder[T], params: msgspec.Raw) -> T:
    try:
        return decoder.decode(params)
    except msgspec.DecodeError as error:
        raise ConnectionLost(f"The daemon sent a notification of no known shape: {error}") from None


def _outcome(reply: envelope.Reply) -> Any:
    if reply.error is None:
        return msgspec.json.decode(reply.result) if reply.result is not None else None
    error: dict[str, Any] = msgspec.json.decode(reply.error)
    code = error.get("code")
    message = str(error.get("message") or "The daemon refused without a reason.")
    return rpc_error(code if isinstance(code, int) else 0, message, error.get("data"))


def _error_without_id(body: envelope.Encoded, fault: envelope.Fault) -> RpcError:
    """What the daemon answers to a message whose id it could not read."""
    try:
        error = msgspec.json.decode(body)["error"]
        return rpc_error(error["code"], error["message"], error.get("data"))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        raise ConnectionLost(f"The daemon sent what is no message: {fault.message}") from None
