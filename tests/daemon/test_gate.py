"""The gate keeps: every request gets exactly one answer; a refusal says why; nothing raises."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia_protocol import errors
from tertulia_protocol.framing import Broken, Skipped
from tertulia_protocol.methods import runtime as methods
from tertuliad import limits
from tertuliad.replies import Reply
from tests.support.gate_alone import AT_ONCE, IN_A_TASK, GateAlone

pytestmark = pytest.mark.anyio


def echo(caller: Any, params: methods.PingParams) -> Any:
    return {"said": params.message}


def error_of(answer: dict[str, Any]) -> dict[str, Any]:
    error: dict[str, Any] = answer["error"]
    return error


# Admission


def test_an_unknown_method_is_named() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.ask("no.such.method", 52)
    (answer,) = gate.sent
    assert answer["id"] == 52
    assert error_of(answer)["code"] == errors.METHOD_NOT_FOUND
    assert error_of(answer)["message"].startswith("Unhandled method no.such.method")
    assert "rpc.discover" in error_of(answer)["message"]


def test_a_known_method_without_a_handler_is_unknown_too() -> None:
    gate = GateAlone({})
    gate.ask(AT_ONCE)
    assert error_of(gate.sent[0])["code"] == errors.METHOD_NOT_FOUND


@pytest.mark.parametrize("method", ["no.such.notification", "ping", "session.create", "$/progress"])
def test_a_notification_gets_no_answer(method: str) -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.take({"jsonrpc": "2.0", "method": method, "params": {"x": 1}})
    assert gate.sent == []


def test_nothing_but_connect_is_done_before_authentication() -> None:
    gate = GateAlone({AT_ONCE: echo, "connect": lambda caller, params: "welcome"})
    gate.authenticated = False
    gate.ask(AT_ONCE, 1)
    gate.ask("no.such.method", 2)
    gate.ask("connect", 3)
    assert [answer.get("error", {}).get("code") for answer in gate.sent] == [
        errors.NOT_AUTHENTICATED,
        errors.NOT_AUTHENTICATED,
        None,
    ]
    assert "connect" in error_of(gate.sent[0])["message"]


def test_a_draining_daemon_takes_no_more_requests() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.draining = True
    gate.ask(AT_ONCE)
    assert error_of(gate.sent[0])["code"] == errors.DRAINING
    assert error_of(gate.sent[0])["data"]["kind"] == "draining"


def test_what_was_asked_before_the_drain_is_still_answered() -> None:
    pending = Reply()
    gate = GateAlone({AT_ONCE: lambda caller, params: pending})
    gate.ask(AT_ONCE)
    gate.draining = True
    pending.give("done")
    assert gate.sent == [{"jsonrpc": "2.0", "id": 1, "result": "done"}]


def test_an_id_in_flight_cannot_be_used_again_until_its_answer() -> None:
    replies = [Reply(), Reply()]
    waiting = iter(replies)
    gate = GateAlone({AT_ONCE: lambda caller, params: next(waiting)})
    gate.ask(AT_ONCE, "a")
    gate.ask(AT_ONCE, "a")
    assert error_of(gate.sent[0])["code"] == errors.INVALID_REQUEST
    assert "'a'" in error_of(gate.sent[0])["message"]
    replies[0].give("first")
    gate.ask(AT_ONCE, "a")
    replies[1].give("second")
    assert [answer.get("result") for answer in gate.sent] == [None, "first", "second"]


def test_a_number_and_its_text_are_two_ids() -> None:
    replies = {"one": Reply(), "two": Reply()}
    gate = GateAlone({AT_ONCE: lambda caller, params: replies[params.message]})
    gate.ask(AT_ONCE, 1, {"message": "one"})
    gate.ask(AT_ONCE, "1", {"message": "two"})
    replies["two"].give(2)
    replies["one"].give(1)
    assert [(answer["id"], answer["result"]) for answer in gate.sent] == [("1", 2), (1, 1)]


def test_what_ends_a_turn_is_taken_though_too_many_requests_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 1)
    monkeypatch.setattr(limits, "URGENT_COMMANDS", 1)
    waits = dict.fromkeys((AT_ONCE, "session.abort"), lambda caller, params: Reply())
    gate = GateAlone(waits)
    gate.ask(AT_ONCE, 1)
    for number in (2, 3):
        gate.ask("session.abort", number, {"sessionId": "s"})
    (refused,) = gate.sent
    assert refused["id"] == 3


def test_what_ends_a_turn_is_taken_though_too_many_bytes_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BYTES_IN_FLIGHT", 1)
    taken: list[Any] = []

    def take(caller: Any, params: Any) -> Reply:
        taken.append(params)
        return Reply()

    gate = GateAlone(dict.fromkeys((AT_ONCE, "session.abort"), take))
    gate.ask(AT_ONCE, 1, {"message": "waits"})
    gate.ask("session.abort", 2, {"sessionId": "s"})
    assert len(taken) == 2
    assert not gate.sent


def test_too_many_unanswered_requests_are_refused_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 2)
    pending: list[Reply] = []

    def wait(caller: Any, params: Any) -> Reply:
        pending.append(Reply())
        return pending[-1]

    gate = GateAlone({AT_ONCE: wait})
    for number in (1, 2, 3):
        gate.ask(AT_ONCE, number)
    (refused,) = gate.sent
    assert refused["id"] == 3
    assert error_of(refused)["code"] == errors.OVERLOADED
    assert error_of(refused)["data"]["retryMs"] > 0
    pending[0].give(None)
    gate.ask(AT_ONCE, 3)
    assert len(pending) == 3


# Params


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("session.create", "hello", "$"),
        ("session.create", [1, 2], "$"),
        ("session.create", [{"model": 5}], "$.model"),
        ("session.create", 5, "$"),
        ("session.create", {"sessionId": 5}, "$.sessionId"),
        ("session.create", {"systemMessage": {"sections": {"tone": {}}}}, None),
        ("session.create", {"tools": [{"name": "a"}, {"name": 1}]}, "$.tools[1].name"),
        ("session.send", None, "$.sessionId"),
        ("session.send", {"sessionId": 5, "prompt": {}}, "$.sessionId"),
        ("session.send", {"sessionId": "a", "prompt": {}}, "$.prompt"),
        ("session.send", {"sessionId": "a", "prompt": ""}, "$.prompt"),
    ],
)
def test_wrong_params_are_answered_with_the_path_of_the_fault(
    method: str, params: Any, path: str | None
) -> None:
    gate = GateAlone({method: lambda caller, params: pytest.fail("it was called")})
    gate.ask(method, 1, params)
    (answer,) = gate.sent
    error = error_of(answer)
    assert error["code"] == errors.INVALID_PARAMS
    assert error["data"]["kind"] == "invalid_params"
    if path is not None:
        assert error["data"]["path"] == path
    assert error["data"]["path"] in error["message"]


@pytest.mark.parametrize(
    "session_id", ["", ".", "..", "a/b", "/", "a b", "a\tb", "\x00", "ä", "x" * 300, ".hidden"]
)
def test_a_session_id_of_another_alphabet_is_refused(session_id: str) -> None:
    gate = GateAlone({"session.create": lambda caller, params: pytest.fail("it was called")})
    gate.ask("session.create", 1, {"sessionId": session_id})
    error = error_of(gate.sent[0])
    assert error["code"] == errors.INVALID_PARAMS
    assert error["data"]["path"] == "$.sessionId"


@pytest.mark.parametrize("params", [None, [], [None], {}, [{}], {"message": None, "unknown": [1]}])
def test_no_params_have_many_forms(params: Any) -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.take({"jsonrpc": "2.0", "id": 1, "method": AT_ONCE, "params": params})
    assert gate.sent == [{"jsonrpc": "2.0", "id": 1, "result": {"said": None}}]


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.take(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"a\\ud83db"}}')
    assert gate.sent == [{"jsonrpc": "2.0", "id": 1, "result": {"said": "a\ufffdb"}}]


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"\xff":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"\xc3',
    ],
)
def test_invalid_utf8_is_answered_wherever_it_stands(body: bytes) -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.take(body)
    (answer,) = gate.sent
    assert answer["id"] == 1
    if "error" in answer:
        assert answer["error"]["code"] in (errors.PARSE_ERROR, errors.INVALID_PARAMS)


def test_an_id_that_is_no_utf8_is_answered_as_unknown() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.take(b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}')
    (answer,) = gate.sent
    assert answer["id"] is None
    assert error_of(answer)["code"] == errors.PARSE_ERROR


@pytest.mark.parametrize("levels", [500, 20_000])
def test_deep_nesting_is_answered(levels: int) -> None:
    gate = GateAlone({AT_ONCE: echo})
    nested = b"[" * levels + b"]" * levels
    gate.take(b'{"jsonrpc":"2.0","id":64,"method":"ping","params":{"message":%b}}' % nested)
    gate.take(b'{"jsonrpc":"2.0","id":65,"method":"ping","params":{"unknown":%b}}' % nested)
    gate.ask(AT_ONCE, 66)
    assert [answer["id"] for answer in gate.sent] == [64, 65, 66]
    assert "error" in gate.sent[0]


# Frames that are not read


def test_a_skipped_frame_is_answered_under_its_id() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.gate.take(Skipped(5000, 1000, b'{"jsonrpc":"2.0","id":"big","method":"ping","params":{'))
    (answer,) = gate.sent
    assert answer["id"] == "big"
    assert error_of(answer)["code"] == errors.INVALID_REQUEST
    assert "5000" in error_of(answer)["message"]


def test_a_skipped_frame_whose_id_is_not_near_is_answered_without() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.gate.take(Skipped(5000, 1000, b'{"jsonrpc":"2.0","params":{"id":7,'))
    assert gate.sent[0]["id"] is None


def test_a_broken_stream_is_told_what_was_wrong() -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.gate.take(Broken("The header has no Content-Length."))
    assert gate.sent[0]["id"] is None
    assert error_of(gate.sent[0])["code"] == errors.PARSE_ERROR
    assert "Content-Length" in error_of(gate.sent[0])["message"]


# Cancelling


async def test_a_request_is_answered_once_when_it_ends_while_it_is_cancelled() -> None:
    async def stubborn(caller: Any, params: Any) -> str:
        with anyio.CancelScope(shield=True):
            await release.wait()
        return "done all the same"

    release = anyio.Event()
    async with anyio.create_task_group() as tasks:
        gate = GateAlone({IN_A_TASK: stubborn}, tasks)
        gate.ask(IN_A_TASK)
        await anyio.wait_all_tasks_blocked()
        gate.cancel(1)
        gate.cancel(1)
        release.set()
        await gate.answered(1)
        gate.cancel(1)
    assert len(gate.sent) == 1


async def test_a_request_that_is_cancelled_before_it_began_is_answered() -> None:
    async def work(caller: Any, params: Any) -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        gate = GateAlone({IN_A_TASK: work}, tasks)
        gate.ask(IN_A_TASK)
        gate.cancel(1)
        (answer,) = await gate.answered(1)
        assert error_of(answer)["code"] == errors.REQUEST_CANCELLED


def test_a_reply_that_waits_for_a_commit_is_not_cancelled() -> None:
    pending = Reply()
    gate = GateAlone({AT_ONCE: lambda caller, params: pending})
    gate.ask(AT_ONCE)
    gate.cancel(1)
    assert gate.sent == []
    pending.give("stored")
    assert gate.sent == [{"jsonrpc": "2.0", "id": 1, "result": "stored"}]


@pytest.mark.parametrize("params", [None, 5, {}, {"id": None}, {"id": {}}, {"id": "unknown"}])
def test_a_cancellation_of_nothing_is_passed_over(params: Any) -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.take({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": params})
    gate.ask(AT_ONCE)
    assert len(gate.sent) == 1


# Answers


@pytest.mark.parametrize(
    "error",
    [
        errors.SessionNotFound.of("a"),
        errors.SessionExists("there", {"sessionId": "a"}),
        errors.TurnBusy("busy", {"sessionId": "a"}),
        errors.Overloaded("full"),
        errors.Draining("stopping"),
        errors.NotSupported("not yet"),
        errors.ModelUnavailable("none"),
        errors.StoreFailed("disk"),
        errors.RpcError(-1, "odd", {"any": [1]}),
    ],
)
async def test_a_typed_error_arrives_as_the_client_knows_it(error: errors.RpcError) -> None:
    async def in_task(caller: Any, params: Any) -> None:
        raise error

    def at_once(caller: Any, params: Any) -> Any:
        if params.message:
            raise error
        reply = Reply()
        reply.fail(error)
        return reply

    async with anyio.create_task_group() as tasks:
        gate = GateAlone({AT_ONCE: at_once, IN_A_TASK: in_task}, tasks)
        gate.ask(AT_ONCE, 1, {"message": "raise"})
        gate.ask(AT_ONCE, 2)
        gate.ask(IN_A_TASK, 3)
        for answer in await gate.answered(3):
            wire = error_of(answer)
            back = errors.rpc_error(wire["code"], wire["message"], wire.get("data"))
            assert type(back) is type(error)
            assert (back.code, back.message, back.data) == (error.code, error.message, error.data)


async def test_a_result_that_cannot_be_encoded_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def in_task(caller: Any, params: Any) -> Any:
        return object()

    caplog.set_level(logging.CRITICAL + 1)
    async with anyio.create_task_group() as tasks:
        gate = GateAlone({AT_ONCE: lambda caller, params: object(), IN_A_TASK: in_task}, tasks)
        gate.ask(AT_ONCE, 1)
        gate.ask(IN_A_TASK, 2)
        answers = await gate.answered(2)
        assert [error_of(answer)["code"] for answer in answers] == [errors.INTERNAL_ERROR] * 2


def test_a_late_result_that_cannot_be_encoded_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    reply = Reply()
    gate = GateAlone({AT_ONCE: lambda caller, params: reply})
    gate.ask(AT_ONCE)
    reply.give(object())
    assert error_of(gate.sent[0])["code"] == errors.INTERNAL_ERROR


def test_nothing_is_answered_after_the_connection_ended() -> None:
    reply = Reply()
    gate = GateAlone({AT_ONCE: lambda caller, params: reply})
    gate.ask(AT_ONCE)
    gate.gate.close()
    reply.give("too late")
    assert gate.sent == []


def test_quiet_is_told_when_the_last_answer_is_out() -> None:
    replies = [Reply(), Reply()]
    waiting = iter(replies)
    gate = GateAlone({AT_ONCE: lambda caller, params: next(waiting)})
    quiet: list[int] = []
    gate.gate.on_quiet = lambda: quiet.append(len(gate.sent))
    gate.ask(AT_ONCE, 1)
    gate.ask(AT_ONCE, 2)
    replies[1].give(None)
    replies[0].fail(errors.SessionNotFound.of("a"))
    assert quiet == [2]


# Any messages at all

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
odd_messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "id": st.integers(0, 3) | st.sampled_from(["a", "b"]) | json_values,
        "method": st.sampled_from([AT_ONCE, "session.send", "nope"]) | json_values,
        "params": json_values,
        "result": json_values,
        "error": json_values,
    },
)


@given(st.lists(odd_messages | json_values | st.binary(max_size=30), max_size=8))
def test_every_request_of_any_messages_gets_exactly_one_answer(messages: list[Any]) -> None:
    gate = GateAlone({AT_ONCE: echo})
    for message in messages:
        before = len(gate.sent)
        gate.take(message)
        added = gate.sent[before:]
        assert len(added) == _answers_due(message)
        if isinstance(message, dict) and type(message.get("id")) in (int, str) and added:
            assert added[0]["id"] == message["id"]
    assert gate.gate.in_flight == 0


def _answers_due(message: Any) -> int:
    """Notifications and replies get none; all else gets one."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return 1
    if "method" in message:
        return 0 if isinstance(message["method"], str) and "id" not in message else 1
    is_reply = type(message.get("id")) in (int, str) and not message.keys().isdisjoint(
        ("result", "error")
    )
    return 0 if is_reply else 1


@pytest.mark.parametrize("request_id", [7, 'a "quoted" one'])
def test_a_large_result_is_framed_as_a_small_one(
    request_id: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = GateAlone({AT_ONCE: echo})
    gate.ask(AT_ONCE, request_id, {"message": "x"})
    monkeypatch.setattr(limits, "LARGE_BODY_BYTES", 0)
    gate.ask(AT_ONCE, request_id, {"message": "x"})
    assert gate.sent == [{"jsonrpc": "2.0", "id": request_id, "result": {"said": "x"}}] * 2


def test_a_result_is_encoded_as_the_registry_says() -> None:
    result = methods.PingResult(message="pong", timestamp="t", protocol_version=3)
    gate = GateAlone({AT_ONCE: lambda caller, params: result})
    gate.ask(AT_ONCE)
    assert gate.sent[0]["result"] == json.loads(msgspec.json.encode(result))
    assert gate.sent[0]["result"]["protocolVersion"] == 3
