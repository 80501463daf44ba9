"""JSON-RPC 2.0 envelopes: one decoded body is a request, a notification, a reply, or a fault.

A fault carries the error to answer and the id it belongs to, where one can be found. Ids are
strings or integers and are echoed as they came. Batches are refused with one answer. A lone
surrogate (legal JSON, and JavaScript sends it) becomes U+FFFD.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tertulia_protocol import errors

RequestId = str | int


class Request(msgspec.Struct, frozen=True):
    id: RequestId
    method: str
    params: msgspec.Raw


class Notification(msgspec.Struct, frozen=True):
    method: str
    params: msgspec.Raw


class Reply(msgspec.Struct, frozen=True):
    """An answer to a request of ours: `result` as it came, or the error object."""

    id: RequestId
    result: msgspec.Raw | None
    error: dict[str, Any] | None


class Fault(msgspec.Struct, frozen=True):
    """What was sent is none of these; `code` and `message` are to be answered to `id`."""

    id: RequestId | None
    code: int
    message: str


Envelope = Request | Notification | Reply | Fault

NO_PARAMS = msgspec.Raw(b"{}")
_ABSENT = msgspec.Raw(b"")


class _Wire(msgspec.Struct):
    jsonrpc: Any = None
    id: Any = msgspec.UNSET
    method: Any = msgspec.UNSET
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: Any = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Wire)
_encoder = msgspec.json.Encoder()

_LEADING_ID = (
    rb'\s*\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|-?\d+|true|false|null)\s*,)*?'
    rb'\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)\s*[,}]'
)
"""The id among the plain members that a body begins with, where its end is seen. Compiled when the
first body cannot be decoded."""


def find_id(head: bytes) -> RequestId | None:
    """The id in the first bytes of a body that cannot be decoded whole."""
    match = re.match(_LEADING_ID, head[:4096])
    if match is None:
        return None
    try:
        found = msgspec.json.decode(match[1], type=str | int)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found


def decode(body: bytes) -> Envelope:
    """What `body` is. Never raises."""
    try:
        wire = _decoder.decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
        return _decode_again(body)
    except RecursionError:
        return Fault(find_id(body), errors.PARSE_ERROR, "The message is nested too deep.")
    return _classify(wire)


def _decode_again(body: bytes) -> Envelope:
    """The slow way, for what the fast decoder refuses: lone surrogates, or a proper fault."""
    import json  # what is sent is nearly always proper

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        again = _encoder.encode(_mended(value))
    except RecursionError:
        return Fault(find_id(body), errors.PARSE_ERROR, "The message is nested too deep.")
    except UnicodeDecodeError:
        return Fault(find_id(body), errors.PARSE_ERROR, "The message is not valid UTF-8.")
    except ValueError as error:
        return Fault(find_id(body), errors.PARSE_ERROR, f"The message is not JSON: {error}.")
    if isinstance(value, list):
        return Fault(
            None,
            errors.INVALID_REQUEST,
            "Batches are not supported: send each message in a frame of its own.",
        )
    if not isinstance(value, dict):
        return Fault(None, errors.INVALID_REQUEST, "A message is a JSON object.")
    try:
        return _classify(_decoder.decode(again))
    except (msgspec.DecodeError, RecursionError) as error:
        return Fault(find_id(body), errors.PARSE_ERROR, f"The message is not JSON: {error}.")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _mended(value: Any) -> Any:
    """`value` with every lone surrogate replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


def _classify(wire: _Wire) -> Envelope:
    plain_id = wire.id if type(wire.id) in (str, int) else None
    if wire.jsonrpc != "2.0":
        return _invalid(plain_id, 'A message has "jsonrpc": "2.0".')
    if wire.id is not msgspec.UNSET and plain_id is None:
        return _invalid(None, "An id is a string or an integer.")
    if wire.method is msgspec.UNSET:
        return _reply(wire, plain_id)
    if not isinstance(wire.method, str):
        return _invalid(plain_id, "A method is named by a string.")
    params = wire.params if bytes(wire.params) else NO_PARAMS
    if plain_id is None:
        return Notification(wire.method, params)
    return Request(plain_id, wire.method, params)


def _reply(wire: _Wire, plain_id: RequestId | None) -> Envelope:
    result = bytes(wire.result)
    if plain_id is None or (not result and wire.error is msgspec.UNSET):
        return _invalid(plain_id, "A message has a method, or an id with a result or an error.")
    if isinstance(wire.error, dict):
        return Reply(plain_id, None, wire.error)
    return Reply(plain_id, wire.result if result else None, None)


def _invalid(request_id: RequestId | None, message: str) -> Fault:
    return Fault(request_id, errors.INVALID_REQUEST, message)


def encode_error(
    request_id: RequestId | None, code: int, message: str, data: dict[str, Any] | None = None
) -> bytes:
    """The body of an error answer."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encoder.encode({"jsonrpc": "2.0", "id": request_id, "error": error})
