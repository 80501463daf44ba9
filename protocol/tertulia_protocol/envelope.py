"""JSON-RPC 2.0 envelopes: one decoded body is a request, a notification, a reply, or a fault.

A fault carries the error to answer and the id it belongs to, where one can be found. Ids are
strings or integers and are echoed as they came. Batches are refused with one answer. A lone
surrogate (legal JSON, and JavaScript sends it) becomes U+FFFD.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from typing import Any

import msgspec

from tertulia_protocol import errors
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.framing import HEAD_BYTES

RequestId = str | int
Encoded = bytes | bytearray


class Request(msgspec.Struct, frozen=True):
    id: RequestId
    method: str
    params: msgspec.Raw


class Notification(msgspec.Struct, frozen=True):
    method: str
    params: msgspec.Raw


class Reply(msgspec.Struct, frozen=True):
    """An answer to a request of ours: `result` or the `error` object, as it came."""

    id: RequestId
    result: msgspec.Raw | None
    error: msgspec.Raw | None


class Fault(msgspec.Struct, frozen=True):
    """What was sent is none of these; `code` and `message` are to be answered to `id`."""

    id: RequestId | None
    code: int
    message: str


Envelope = Request | Notification | Reply | Fault
Steps = Generator[None, None, Envelope]

NO_PARAMS = msgspec.Raw(b"{}")
_ABSENT = msgspec.Raw(b"")


class _Wire(msgspec.Struct):
    """What nearly every message is."""

    jsonrpc: str = ""
    id: str | int | float | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _AnyWire(msgspec.Struct):
    """An object with whatever members. Nothing is built of them: they may be huge."""

    jsonrpc: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_decoder = json_decoder(_Wire)
_any_decoder = json_decoder(_AnyWire)
_json_decoder = json_decoder(msgspec.Raw)
_encoder = msgspec.json.Encoder()

SPARE_LEVELS = 200
"""A message could be nested so much deeper than it is: whoever reads later what was stored of it
has a deeper stack, and more around it."""
HARMLESS_LEVELS = 500
"""As much nesting leaves them. (The interpreter takes 1,000 levels together with its stack.)"""

_LONE = (
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
"""The escape of a lone surrogate, where every backslash begins an escape."""
_REPLACED = rb"\ufffd"
WINDOW_BYTES = 1024 * 1024
"""As much of a body is searched for lone surrogates in one go."""

_LEADING_ID = (
    rb'\s*\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|-?\d+|true|false|null)\s*,)*?'
    rb'\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)\s*[,}]'
)
"""The id among the plain members that a body begins with, where its end is seen. Compiled when the
first body cannot be decoded."""


def find_id(head: Encoded) -> RequestId | None:
    """The id in the first bytes of a body that cannot be decoded whole."""
    match = re.match(_LEADING_ID, head[:HEAD_BYTES])
    if match is None:
        return None
    try:
        found: RequestId = json_decoder(str | int).decode(match[1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found


def decode(body: Encoded) -> Envelope:
    """What `body` is. Never raises."""
    if _may_be_deep(body):
        steps = decoding(body)
    else:
        try:
            return _classify(_decoder.decode(body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            steps = decoding(body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Envelope = end.value
            return found


def decoding(body: Encoded) -> Steps:
    """The same, with a yield wherever others may have their turn while a huge body is decoded."""
    try:
        if _may_be_deep(body):
            yield
            _check_depth(body)
            yield
        try:
            return _classify(_decoder.decode(body))
        except msgspec.ValidationError:
            yield
            return _classify_any(body)
        except msgspec.DecodeError:
            yield
        mended = yield from _mended(body)
        yield
        _check_depth(mended)
        yield
        return _classify_any(mended)
    except RecursionError:
        return _parse_error(body, "The message is nested too deep.")
    except UnicodeDecodeError:
        return _parse_error(body, "The message is not valid UTF-8.")
    except msgspec.DecodeError as error:
        return _parse_error(body, f"The message is not JSON: {error}.")


def _may_be_deep(body: Encoded) -> bool:
    return body.count(b"[") + body.count(b"{") > HARMLESS_LEVELS


def _check_depth(body: Encoded) -> None:
    """Raises `RecursionError`, unless there are levels to spare; what is wrong besides is not told
    here."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        _json_decoder.decode(b"[" * SPARE_LEVELS + body + b"]" * SPARE_LEVELS)


def _parse_error(body: Encoded, message: str) -> Fault:
    return Fault(find_id(body), errors.PARSE_ERROR, message)


def _mended(body: Encoded) -> Generator[None, None, Encoded]:
    """`body` with every lone surrogate replaced by U+FFFD, whose escape is as long."""
    lone = re.compile(_LONE)
    masked = body.replace(b"\\\\", b"\0\0")  # an escaped backslash begins no other escape
    mended = None
    for start in range(0, len(body), WINDOW_BYTES):
        end = start + WINDOW_BYTES
        yield
        for match in lone.finditer(masked, start, end + 2 * len(_REPLACED)):
            if match.start() < end:  # else the next window knows better what follows it
                mended = mended or bytearray(body)
                mended[match.start() : match.end()] = _REPLACED
    return mended or body


def _classify(wire: _Wire) -> Envelope:
    plain_id = wire.id if isinstance(wire.id, str | int) else None
    if wire.jsonrpc != "2.0":
        return _invalid(plain_id, 'A message has "jsonrpc": "2.0".')
    if plain_id is None and wire.id is not msgspec.UNSET:
        return _invalid(None, "An id is a string or an integer.")
    if wire.method is msgspec.UNSET:
        return _reply(wire, plain_id)
    params = wire.params if len(wire.params) else NO_PARAMS
    if plain_id is None:
        return Notification(wire.method, params)
    return Request(plain_id, wire.method, params)


def _classify_any(body: Encoded) -> Envelope:
    """What a body is that is no usual message; raises what is said of one that is not JSON."""
    try:
        given = _any_decoder.decode(body)
    except msgspec.ValidationError:
        return _no_object(_json_decoder.decode(body))
    plain_id = _plain(given.id, str | int | float)
    if _plain(given.jsonrpc, str) != "2.0":
        return _invalid(plain_id, 'A message has "jsonrpc": "2.0".')
    if len(given.id) and plain_id is None:
        return _invalid(None, "An id is a string or an integer.")
    if len(given.method) and _plain(given.method, str) is None:
        return _invalid(plain_id, "A method is named by a string.")
    return _classify(_decoder.decode(body))


def _plain(raw: msgspec.Raw, kind: Any) -> Any:
    """A member of that type; None: it is absent, or something else."""
    try:
        value = json_decoder(kind).decode(raw) if len(raw) else None
    except msgspec.ValidationError:
        return None
    return None if isinstance(value, float) else value


def _no_object(raw: msgspec.Raw) -> Fault:
    if bytes(memoryview(raw)[:1]) != b"[":
        return Fault(None, errors.INVALID_REQUEST, "A message is a JSON object.")
    return Fault(
        None,
        errors.INVALID_REQUEST,
        "Batches are not supported: send each message in a frame of its own.",
    )


def _reply(wire: _Wire, plain_id: RequestId | None) -> Envelope:
    if plain_id is None or not (len(wire.result) or len(wire.error)):
        return _invalid(plain_id, "A message has a method, or an id with a result or an error.")
    if bytes(memoryview(wire.error)[:1]) == b"{":
        return Reply(plain_id, None, wire.error)
    return Reply(plain_id, wire.result if len(wire.result) else None, None)


def _invalid(request_id: RequestId | None, message: str) -> Fault:
    return Fault(request_id, errors.INVALID_REQUEST, message)


def sayable(text: str) -> str:
    """`text` with `?` for what is no Unicode, as are some bytes in a file's name."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def encode_result(request_id: RequestId, result: Any) -> bytes:
    """The body of an answer."""
    return _encoder.encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def encode_error(
    request_id: RequestId | None, code: int, message: str, data: dict[str, Any] | None = None
) -> bytes:
    """The body of an error answer."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encoder.encode({"jsonrpc": "2.0", "id": request_id, "error": error})
