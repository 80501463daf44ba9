"""Envelopes keep: `decode` never raises, ids come back as they came, and a request is only what is
one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tertulia_protocol import envelope, errors
from tertulia_protocol.envelope import Envelope, Fault, Notification, Reply, Request

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
ids = st.integers() | st.text()
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "id": ids | json_values,
        "method": st.text(max_size=8) | json_values,
        "params": json_values,
        "result": json_values,
        "error": st.dictionaries(st.text(max_size=8), json_values, max_size=3) | json_values,
        "more": json_values,
    },
)


def decode(value: Any, *, ascii_only: bool = True) -> Envelope:
    return envelope.decode(json.dumps(value, ensure_ascii=ascii_only).encode())


def is_id(value: Any) -> bool:
    return type(value) in (int, str)


def kind_of(value: Any) -> type[Envelope]:
    """What JSON-RPC 2.0 calls `value`; everything that it does not name is a fault."""
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        return Fault
    has_id = is_id(value.get("id"))
    if "id" in value and not has_id:
        return Fault
    if "method" in value:
        named = isinstance(value["method"], str)
        return Fault if not named else Request if has_id else Notification
    return Reply if has_id and ("result" in value or "error" in value) else Fault


# Any input at all


@given(st.binary(max_size=200))
@example(b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}')
@example(b'{"id":"\xff","method":')
@example(b"\xef\xbb\xbf{}")
@example(b"")
@example(b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"m"}')
def test_any_bytes_are_decoded_to_something(body: bytes) -> None:
    assert isinstance(envelope.decode(body), Envelope)


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_inside_a_message_are_decoded_to_something(a: bytes, b: bytes, c: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":"%b","method":"%b","params":{"x":"%b"}}' % (a, b, c)
    assert isinstance(envelope.decode(body), Envelope)


@given(messages | json_values, st.booleans())
def test_a_message_is_what_the_standard_calls_it(value: Any, ascii_only: bool) -> None:
    assert type(decode(value, ascii_only=ascii_only)) is kind_of(value)


@given(json_values | messages, st.integers(0, 1000))
def test_a_message_that_is_cut_is_never_a_request(value: Any, cut: int) -> None:
    whole = json.dumps(value).encode()
    decoded = envelope.decode(whole[: cut % len(whole)])
    assert isinstance(decoded, Fault)


@given(ids, st.booleans())
def test_an_id_comes_back_as_it_came(request_id: int | str, ascii_only: bool) -> None:
    request = decode({"jsonrpc": "2.0", "id": request_id, "method": "m"}, ascii_only=ascii_only)
    assert isinstance(request, Request)
    assert request.id == request_id
    assert type(request.id) is type(request_id)
    answer = json.loads(envelope.encode_error(request.id, errors.INVALID_REQUEST, "no"))
    assert answer["id"] == request_id


@given(json_values)
def test_params_are_handed_on_whole(params: Any) -> None:
    request = decode({"jsonrpc": "2.0", "id": 1, "method": "m", "params": params})
    assert isinstance(request, Request)
    assert json.loads(bytes(request.params)) == params


def test_absent_params_are_an_empty_object() -> None:
    request = decode({"jsonrpc": "2.0", "id": 1, "method": "m"})
    assert isinstance(request, Request)
    assert request.params == envelope.NO_PARAMS


# Replies


@given(json_values)
def test_a_reply_carries_its_result(result: Any) -> None:
    reply = decode({"jsonrpc": "2.0", "id": "a", "result": result})
    assert isinstance(reply, Reply)
    assert reply.result is not None
    assert json.loads(bytes(reply.result)) == result
    assert reply.error is None


def test_a_reply_with_an_error_carries_all_of_its_members() -> None:
    error = {"code": 0, "message": "m", "data": {"a": 1}, "extra": True}
    reply = decode({"jsonrpc": "2.0", "id": 1, "error": error})
    assert isinstance(reply, Reply)
    assert reply.error is not None
    assert json.loads(bytes(reply.error)) == error
    assert reply.result is None


def test_a_result_next_to_a_null_error_is_a_result() -> None:
    reply = decode({"jsonrpc": "2.0", "id": 1, "result": 5, "error": None})
    assert reply == Reply(1, msgspec.Raw(b"5"), None)


# What is told


@pytest.mark.parametrize(
    ("body", "request_id", "code", "words"),
    [
        (b"", None, errors.PARSE_ERROR, "not JSON"),
        (b"{", None, errors.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","id":50,"method":', 50, errors.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","id":51,"method":"\xff\xfe\xc3"}', 51, errors.PARSE_ERROR, "UTF-8"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":NaN}', 1, errors.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"} {}', 1, errors.PARSE_ERROR, "not JSON"),
        (b'"hello"', None, errors.INVALID_REQUEST, "object"),
        (b"null", None, errors.INVALID_REQUEST, "object"),
        (b"[]", None, errors.INVALID_REQUEST, "Batches"),
        (b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', None, errors.INVALID_REQUEST, "Batches"),
        (b'{"id":57,"method":"m"}', 57, errors.INVALID_REQUEST, '"jsonrpc": "2.0"'),
        (b'{"jsonrpc":2.0,"id":"x","method":"m"}', "x", errors.INVALID_REQUEST, '"jsonrpc"'),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', None, errors.INVALID_REQUEST, "id"),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', None, errors.INVALID_REQUEST, "id"),
        (b'{"jsonrpc":"2.0","id":59,"method":7}', 59, errors.INVALID_REQUEST, "method"),
        (b'{"jsonrpc":"2.0","id":59}', 59, errors.INVALID_REQUEST, "result"),
        (b'{"jsonrpc":"2.0"}', None, errors.INVALID_REQUEST, "method"),
    ],
)
def test_a_fault_says_what_is_wrong_and_to_whom(
    body: bytes, request_id: int | str | None, code: int, words: str
) -> None:
    fault = envelope.decode(body)
    assert isinstance(fault, Fault)
    assert (fault.id, fault.code) == (request_id, code)
    assert words in fault.message


@pytest.mark.parametrize("place", ["params", "result", "more", "id"])
def test_nesting_without_end_is_a_fault_that_keeps_the_id(place: str) -> None:
    nested = b"[" * 20_000 + b"]" * 20_000
    fault = envelope.decode(
        b'{"jsonrpc":"2.0","id":64,"method":"m","%b":%b}' % (place.encode(), nested)
    )
    assert fault == Fault(64, errors.PARSE_ERROR, "The message is nested too deep.")


def from_deeper(frames: int, raw: msgspec.Raw) -> object:
    return msgspec.json.decode(raw) if frames == 0 else from_deeper(frames - 1, raw)


@pytest.mark.parametrize("inmost", [b"1", b'"\\ud83d"'])
def test_what_is_taken_can_be_read_from_a_deeper_stack(inmost: bytes) -> None:
    """As can what was stored of it."""
    depth = 0
    while True:
        depth += 1
        nested = b"[" * depth + inmost + b"]" * depth
        body = b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % nested
        taken = envelope.decode(body)
        if not isinstance(taken, Request):
            break
        assert from_deeper(envelope.SPARE_LEVELS // 2, taken.params)
    assert depth > envelope.HARMLESS_LEVELS


# Lone surrogates


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r"\ud83d", "\ufffd"),
        (r"a\udc00b", "a\ufffdb"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\ud83d\ude00", "\U0001f600"),
    ],
)
def test_a_lone_surrogate_is_replaced_wherever_it_stands(sent: str, read: str) -> None:
    body = '{"jsonrpc":"2.0","id":"%s","method":"%s","params":{"%s":["%s",99999999999999999999]}}'
    request = envelope.decode((body % (sent, sent, sent, sent)).encode())
    assert isinstance(request, Request)
    assert (request.id, request.method) == (read, read)
    assert json.loads(bytes(request.params)) == {read: [read, 99999999999999999999]}


def test_a_lone_surrogate_in_params_alone_is_replaced() -> None:
    request = envelope.decode(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\\ud83d"}}')
    assert isinstance(request, Request)
    assert msgspec.json.decode(request.params) == {"a": "\ufffd"}


@given(
    st.lists(
        st.sampled_from(
            [
                "\\\\",
                "\\n",
                '\\"',
                r"\ud83d",
                r"\uDBFF",
                r"\ude00",
                r"\uDC00",
                "u",
                "d83d",
                "é",
                "x",
            ]
        )
        | st.text(st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32)),
        max_size=20,
    ),
    st.integers(1, 30),
)
def test_a_body_that_is_searched_in_pieces_is_read_as_in_one(pieces: list[str], size: int) -> None:
    text = "".join(pieces)
    body = f'{{"jsonrpc":"2.0","id":1,"method":"m","params":["{text}"]}}'.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "WINDOW_BYTES", size)
        request = envelope.decode(body)
    assert isinstance(request, Request)
    said = json.loads(f'"{text}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(request.params) == [said]


@given(st.binary(max_size=60), messages)
def test_what_is_decoded_step_by_step_is_the_same(more: bytes, value: Any) -> None:
    body = bytearray(json.dumps(value).encode() + more)
    steps = envelope.decoding(body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    assert found == envelope.decode(bytes(body))


# The id of what cannot be decoded


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"x', 7),
        (b' { "id" : "a\\"b" , ', 'a"b'),
        (b'{"method":"m","id":-3,', -3),
        (b'{"method":"m","flag":true,"n":12,"id":"z"}', "z"),
        (b'{"params":{"id":7},"id":8,', None),
        (b'{"id":1.5,"method":"m"', None),
        (b'{"id":1e3,"method":"m"', None),
        (b'{"id":null,', None),
        (b'{"id":"\xff",', None),
        (b'{"id":' + b"9" * 5000 + b',"method":', None),
        (b'{"id":12', None),
        (b"[1,2", None),
        (b"", None),
    ],
)
def test_the_id_of_a_cut_message_is_found_only_where_it_is_certain(
    head: bytes, found: int | str | None
) -> None:
    assert envelope.find_id(head) == found


@given(ids, st.text(max_size=10), st.integers(0, 300))
def test_a_found_id_is_the_id(request_id: int | str, method: str, cut: int) -> None:
    value = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {"id": "no"}}
    body = json.dumps(value).encode()
    assert envelope.find_id(body[: cut % len(body)]) in (None, request_id)


@given(st.none() | ids, st.integers(-40000, 40000), st.text(), st.none() | st.just({"kind": "x"}))
def test_an_error_is_encoded_as_the_standard_says(
    request_id: int | str | None, code: int, message: str, data: dict[str, Any] | None
) -> None:
    answer = json.loads(envelope.encode_error(request_id, code, message, data))
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    assert answer == {"jsonrpc": "2.0", "id": request_id, "error": error}
