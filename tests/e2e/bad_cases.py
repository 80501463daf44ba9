"""Input that no client should send, and what each piece of it is answered: a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.wire import frame

LIMIT_BYTES = 6_000_000
"""The daemons that meet these cases take bodies up to this size."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
NO_METHOD = -32601
BAD_PARAMS = -32602
NOT_FOUND = -32001
RESULT = None

_RPC = '"jsonrpc":"2.0"'


@dataclass(frozen=True)
class Case:
    """`answers` are (id, error code or RESULT), in any order; `path` is the fault's, where known.

    `ends`: the stream cannot be read on, so that the daemon closes it behind its answer.
    `foreign`: on a socket it is closed without one, for it may be a web page.
    """

    name: str
    sent: tuple[bytes, ...]
    answers: tuple[tuple[Any, int | None], ...]
    path: str | None = None
    ends: bool = False
    foreign: bool = False


def _request(ident: Any, method: Any = "ping", params: Any = ...) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": ident, "method": method}
    return message if params is ... else {**message, "params": params}


def _said(name: str, body: Any, *answers: tuple[Any, int | None], path: str | None = None) -> Case:
    return Case(name, (frame(body),), answers, path)


def _bytewise(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[i : i + 1] for i in range(len(data)))


def bodies() -> Iterator[Case]:
    """Frames that are whole; what is in them is not."""
    yield _said("JSON that breaks off", f'{{{_RPC},"id":50,"method":', (50, PARSE_ERROR))
    yield _said("a string", '"hello"', (None, INVALID_REQUEST))
    yield _said("a number", "7", (None, INVALID_REQUEST))
    yield _said("null", "null", (None, INVALID_REQUEST))
    yield _said("an object without members", "{}", (None, INVALID_REQUEST))
    yield _said("an empty body", b"", (None, PARSE_ERROR))
    yield _said("a NUL", b"\x00", (None, PARSE_ERROR))
    invalid = f'{{{_RPC},"id":51,"method":"'.encode() + b'\xff\xfe\xc3"}'
    yield _said("invalid UTF-8", invalid, (51, PARSE_ERROR))
    yield _said("UTF-16", f'{{{_RPC},"id":5}}'.encode("utf-16"), (None, PARSE_ERROR))
    yield _said("an unknown method", _request(52, "no.such.method", {}), (52, NO_METHOD))
    yield _said("an empty method", _request(53, ""), (53, NO_METHOD))
    yield _said("a method that is a number", _request(59, 7), (59, INVALID_REQUEST))
    yield _said("an unknown notification", {"jsonrpc": "2.0", "method": "no.such.notification"})
    yield _said("a method of ours as a notification", {"jsonrpc": "2.0", "method": "ping"})
    yield _said("an answer to nothing", {"jsonrpc": "2.0", "id": 999, "result": {}})
    yield _said("an id without a method", {"jsonrpc": "2.0", "id": 1}, (1, INVALID_REQUEST))
    yield _said("no jsonrpc", {"id": 57, "method": "ping"}, (57, INVALID_REQUEST))
    yield _said("jsonrpc 1.0", _request(58) | {"jsonrpc": "1.0"}, (58, INVALID_REQUEST))
    yield _said("a null id", _request(None), (None, INVALID_REQUEST))
    yield _said("an id that is a fraction", _request(1.5), (None, INVALID_REQUEST))
    yield _said("an id that is an object", _request({"a": 1}), (None, INVALID_REQUEST))
    yield _said("a string as id", _request("abc"), ("abc", RESULT))
    yield _said("an id beyond 2^53", _request(2**60 + 1), (2**60 + 1, RESULT))
    yield _said("an id beyond 2^64", _request(2**70 + 1), (2**70 + 1, RESULT))
    twice = f'{{{_RPC},"id":62,"id":63,"method":"ping"}}'
    yield _said("a member twice", twice, (63, RESULT))
    yield _said("a batch", [_request(60), _request(61)], (None, INVALID_REQUEST))
    yield _said("an empty batch", "[]", (None, INVALID_REQUEST))
    deep = f'{{{_RPC},"id":64,"method":"session.list","params":{"[" * 20000}{"]" * 20000}}}'
    yield _said("20,000 levels of nesting", deep, (64, PARSE_ERROR))
    deep = f'{{{_RPC},"id":65,"method":"ping","params":{{"more":{"[" * 20000}'
    yield _said("20,000 levels without an end", deep, (65, PARSE_ERROR))
    surrogate = f'{{{_RPC},"id":66,"method":"ping","params":{{"message":"\\ud83d"}}}}'
    yield _said("a lone surrogate", surrogate, (66, RESULT))
    huge = f'{{{_RPC},"id":67,"method":"ping","params":{{"message":"","n":1{"0" * 5000}}}}}'
    yield _said("a number of 5,000 digits", huge, (67, RESULT))


def params() -> Iterator[Case]:
    """Requests whose params have another shape than their method's."""
    create, send = "session.create", "session.send"
    yield _said("params: a string", _request(53, create, "hello"), (53, BAD_PARAMS), path="$")
    yield _said("params: a list", _request(54, create, [1, 2]), (54, BAD_PARAMS), path="$")
    yield _said("params: none", _request(55, send), (55, BAD_PARAMS), path="$.sessionId")
    wrong = {"sessionId": 5, "prompt": {}}
    yield _said("params: types", _request(56, send, wrong), (56, BAD_PARAMS), path="$.sessionId")
    wrong = {"sessionId": "a", "prompt": {}}
    yield _said("params: deeper", _request(56, send, wrong), (56, BAD_PARAMS), path="$.prompt")
    wrong = {"systemMessage": {"mode": "shout"}}
    path = "$.systemMessage.mode"
    yield _said("params: an enum", _request(57, create, wrong), (57, BAD_PARAMS), path=path)
    wrong = {"tools": [{"name": "a"}, {"name": 7}]}
    path = "$.tools[1].name"
    yield _said("params: in a list", _request(58, create, wrong), (58, BAD_PARAMS), path=path)
    yield _said("params: null", _request(59, "ping", None), (59, RESULT))
    yield _said("params: [null]", _request(60, "ping", [None]), (60, RESULT))
    yield _said("params: [{}]", _request(61, "ping", [{"message": "x"}]), (61, RESULT))
    yield _said("an unknown session", _request(62, send, {"sessionId": "x", "prompt": "y"}),
                (62, NOT_FOUND))  # fmt: skip


def cuts() -> Iterator[Case]:
    """Good messages in unusual pieces, and headers that are legal though nobody sends them."""
    glued = frame(_request(65)) + frame(_request(66))
    yield Case("two messages glued", (glued,), ((65, RESULT), (66, RESULT)))
    same = frame(_request(70, "models.list")) * 2
    yield Case("an id that is in use", (same,), ((70, INVALID_REQUEST), (70, RESULT)))
    yield Case("byte by byte", _bytewise(frame(_request(67))), ((67, RESULT),))
    wide = frame(f'{{{_RPC},"id":68,"method":"ping","params":{{"message":"ünï-😀"}}}}')
    yield Case("letters cut in two", _bytewise(wide), ((68, RESULT),))
    large = _request(69, "ping", {"message": "x" * 5_000_000})
    yield Case("a message of 5 MB", (frame(large),), ((69, RESULT),))
    over = _request(71, "ping", {"message": "x" * LIMIT_BYTES})
    yield Case("a frame over the limit", (frame(over),), ((71, INVALID_REQUEST),))
    body = frame(_request(72)).partition(b"\r\n\r\n")[2]
    for name, header in {
        "a second header line": b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n",
        "a header in lower case": b"content-length: %d\r\n\r\n",
        "LF line ends": b"Content-Length: %d\n\n",
        "spaces around the length": b"Content-Length:   %d  \r\n\r\n",
    }.items():
        yield Case(name, (header % len(body) + body,), ((72, RESULT),))


def headers() -> Iterator[Case]:
    """Headers after which nobody knows where the next frame begins."""
    one = ((None, PARSE_ERROR),)
    for name, sent in {
        "a length beyond all sense": b"Content-Length: 999999999999\r\n\r\n{}",
        "a length of 30 digits": b"Content-Length: %b\r\n\r\n{}" % (b"9" * 30),
        "a negative length": b"Content-Length: -5\r\n\r\n{}",
        "a length that is no number": b"Content-Length: abc\r\n\r\n{}",
        "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "no Content-Length": b"Content-Type: application/json\r\n\r\n{}",
        "a header without end": b"X: " + b"a" * 1_000_000,
        "JSON without a header": b'{"jsonrpc":"2.0","id":70,"method":"ping"}\n',
    }.items():
        yield Case(name, (sent,), one, ends=True)
    short = frame(_request(74)).replace(b"Content-Length: 4", b"Content-Length: 3")
    cut = short + frame(_request(75))
    yield Case("a length that is too short", (cut,), (*one, (74, PARSE_ERROR)), ends=True)
    garbage = b"GARBAGE LINE WITHOUT COLON\r\n\r\n"
    yield Case("a line without a colon", (garbage,), one, ends=True, foreign=True)
    page = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield Case("a web page", (page,), one, ends=True, foreign=True)


GOES_ON = [*bodies(), *params(), *cuts()]
ENDS = list(headers())
