"""The defects of python-lsp-jsonrpc 1.1.2 that the gate works around.

Each one is shown on the library alone, so that an upstream fix is noticed (then the workaround that
the message names may go), and next to it stands what the daemon does in the same case.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from typing import Any

import anyio
import pytest
from pylsp_jsonrpc.endpoint import Endpoint
from pylsp_jsonrpc.exceptions import JsonRpcException, JsonRpcInternalError
from pylsp_jsonrpc.streams import JsonRpcStreamReader

from tertulia_protocol import errors, framing
from tertulia_protocol.framing import Body, Broken
from tests.support.gate_alone import AT_ONCE, IN_A_TASK, GateAlone

pytestmark = pytest.mark.anyio

Sent = list[dict[str, Any]]


def raw(handlers: dict[str, Callable[[Any], Any]]) -> tuple[Endpoint, Sent]:
    """The library's endpoint alone, and what it sends."""
    sent: Sent = []
    return Endpoint(handlers, sent.append), sent


def request(method: str, request_id: Any = 1, params: Any = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def cancel(request_id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": request_id}}


def gone(what: str) -> str:
    """The message of a test that fails because the library was mended."""
    return f"python-lsp-jsonrpc has mended this: {what} may go from the daemon"


@pytest.fixture
def futures_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Exceptions in a future's callbacks are only logged: keep that log out of the output."""
    caplog.set_level(logging.CRITICAL, "concurrent.futures")
    return caplog


# 1. Cancelled requests


def test_the_library_never_answers_a_cancelled_request(
    futures_log: pytest.LogCaptureFixture,
) -> None:
    work: Future[Any] = Future()
    endpoint, sent = raw({"m": lambda _: work})
    endpoint.consume(request("m"))
    endpoint.consume(cancel(1))
    assert work.cancelled()
    assert sent == [], gone("the future whose cancel() returns False (replies.Reply)")


async def test_a_cancelled_request_is_answered_as_cancelled() -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def wait_for_ever(caller: Any, params: Any) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        gate = GateAlone({IN_A_TASK: wait_for_ever}, tasks)
        gate.ask(IN_A_TASK, 1)
        with anyio.fail_after(20):
            await begun.wait()
        gate.cancel(1)
        (answer,) = await gate.answered(1)
        assert answer["id"] == 1
        assert answer["error"]["code"] == errors.REQUEST_CANCELLED
        assert ended.is_set()
        assert gate.gate.in_flight == 0


# 2. Late replies


def test_the_library_raises_on_a_late_reply_to_a_question_that_was_cancelled(
    futures_log: pytest.LogCaptureFixture,
) -> None:
    endpoint, sent = raw({})
    question = endpoint.request("client.method")
    question.cancel()
    with pytest.raises(InvalidStateError):
        endpoint.consume({"jsonrpc": "2.0", "id": sent[0]["id"], "result": 1})
        pytest.fail(gone("the rule that the library's futures are never cancelled"))


def test_a_reply_to_nothing_that_was_asked_is_passed_over() -> None:
    gate = GateAlone({AT_ONCE: lambda caller, params: "pong"})
    gate.take({"jsonrpc": "2.0", "id": "never-asked", "result": {}})
    gate.take({"jsonrpc": "2.0", "id": 7, "error": {"code": 0, "message": "", "extra": 1}})
    gate.ask(AT_ONCE, 7)
    assert gate.sent == [{"jsonrpc": "2.0", "id": 7, "result": "pong"}]


# 3. Results that look like a reply

LOOKS_LIKE_A_REPLY = {"result": 1, "error": None, "id": 99, "other": 2}


def test_the_library_merges_such_a_result_into_its_reply() -> None:
    endpoint, sent = raw({"m": lambda _: dict(LOOKS_LIKE_A_REPLY)})
    endpoint.consume(request("m"))
    merged = {"jsonrpc": "2.0", **LOOKS_LIKE_A_REPLY}
    assert sent == [merged], gone("encoding each result to msgspec.Raw")


@pytest.mark.parametrize("result", [LOOKS_LIKE_A_REPLY, {"error": "x"}, {"result": None}, None])
async def test_any_result_comes_back_as_it_was_given(result: Any) -> None:
    async def later(caller: Any, params: Any) -> Any:
        return result

    async with anyio.create_task_group() as tasks:
        gate = GateAlone({AT_ONCE: lambda caller, params: result, IN_A_TASK: later}, tasks)
        gate.ask(AT_ONCE, 1)
        gate.ask(IN_A_TASK, 2)
        assert await gate.answered(2) == [
            {"jsonrpc": "2.0", "id": number, "result": result} for number in (1, 2)
        ]


# 4. Internal errors


def fails_with_a_secret(*_: Any) -> Any:
    raise ValueError("the key is sk-secret")


def test_the_library_sends_tracebacks_under_the_wrong_code() -> None:
    endpoint, sent = raw({"m": fails_with_a_secret})
    endpoint.consume(request("m"))
    error = sent[0]["error"]
    assert "traceback" in error["data"], gone("wire_error's mapping of unexpected exceptions")
    assert "sk-secret" in error["message"], gone("wire_error's mapping of unexpected exceptions")
    assert JsonRpcInternalError.CODE == errors.INVALID_PARAMS, gone("the code of our own")


async def test_an_unexpected_error_shows_a_reference_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def later(caller: Any, params: Any) -> Any:
        fails_with_a_secret()

    caplog.set_level(logging.ERROR, "tertuliad")
    async with anyio.create_task_group() as tasks:
        gate = GateAlone({AT_ONCE: fails_with_a_secret, IN_A_TASK: later}, tasks)
        gate.ask(AT_ONCE, 1)
        gate.ask(IN_A_TASK, 2)
        for answer in await gate.answered(2):
            error = answer["error"]
            assert error["code"] == errors.INTERNAL_ERROR
            assert error["data"].keys() == {"kind", "reference"}
            assert error["data"]["reference"] in error["message"]
            assert "sk-secret" not in str(answer)
            assert error["data"]["reference"] in caplog.text
    assert "sk-secret" in caplog.text


# 5. Framing


def read_by_the_library(data: bytes) -> list[Any]:
    got: list[Any] = []
    JsonRpcStreamReader(io.BytesIO(data)).listen(got.append)
    return got


def read_by_us(data: bytes) -> list[bytes | str]:
    frames = framing.Framer().feed(data)
    return [
        bytes(frame.data) if isinstance(frame, Body) else type(frame).__name__ for frame in frames
    ]


def test_the_library_swallows_the_stream_on_a_header_in_other_case() -> None:
    data = b"content-length: 2\r\n\r\n{}Content-Length: 2\r\n\r\n[]"
    assert read_by_the_library(data) == [], gone("nothing: we have a framer of our own")
    assert read_by_us(data) == [b"{}", b"[]"]


def test_the_library_wants_the_length_on_the_first_line() -> None:
    data = b"X-Other: 1\r\nContent-Length: 2\r\n\r\n{}Content-Length: 2\r\n\r\n[]"
    assert read_by_the_library(data) == [], gone("nothing: we have a framer of our own")
    assert read_by_us(data) == [b"{}", b"[]"]


def test_the_library_replays_a_message_on_a_bad_length() -> None:
    data = b'Content-Length: 7\r\n\r\n{"a":1}Content-Length: abc\r\n\r\n'
    assert read_by_the_library(data) == [{"a": 1}] * 2, gone("nothing: we have a framer")
    assert read_by_us(data) == [b'{"a":1}', Broken.__name__]


# 6. Messages that are none


@pytest.mark.parametrize("message", [5, None, {"jsonrpc": "2.0"}])
def test_the_library_raises_on_what_is_no_message(message: Any) -> None:
    endpoint, _ = raw({})
    with pytest.raises((TypeError, KeyError)):
        endpoint.consume(message)
        pytest.fail(gone("envelope.decode before consume"))


@pytest.mark.parametrize("message", [[], [request("m")], {"id": 1, "method": "m"}])
def test_the_library_does_not_answer_batches_and_other_versions(message: Any) -> None:
    endpoint, sent = raw({"m": lambda _: 1})
    endpoint.consume(message)
    assert sent == [], gone("envelope.decode before consume")


def test_the_library_takes_a_null_id_for_a_request() -> None:
    endpoint, sent = raw({"m": lambda _: 1})
    endpoint.consume(request("m", None))
    assert sent == [{"jsonrpc": "2.0", "id": None, "result": 1}], gone("the check of ids")


def test_the_library_lets_a_duplicate_id_take_the_place_of_the_first(
    futures_log: pytest.LogCaptureFixture,
) -> None:
    futures: list[Future[Any]] = [Future(), Future()]
    waiting = iter(futures)
    endpoint, _ = raw({"m": lambda _: next(waiting)})
    endpoint.consume(request("m"))
    endpoint.consume(request("m"))
    endpoint.consume(cancel(1))
    now = [future.cancelled() for future in futures]
    assert now == [False, True], gone("the refusal of ids in flight")


@pytest.mark.parametrize(
    ("message", "request_id", "code"),
    [
        (b"{", None, errors.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":3,"method":', 3, errors.PARSE_ERROR),
        (b"5", None, errors.INVALID_REQUEST),
        (b"null", None, errors.INVALID_REQUEST),
        (b"[]", None, errors.INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', None, errors.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0"}', None, errors.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, errors.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None, errors.INVALID_REQUEST),
        (b'{"id":4,"method":"ping"}', 4, errors.INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":5,"method":"ping"}', 5, errors.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":6,"method":7}', 6, errors.INVALID_REQUEST),
    ],
)
def test_what_is_no_message_gets_one_answer(
    message: bytes, request_id: int | None, code: int
) -> None:
    gate = GateAlone({AT_ONCE: lambda caller, params: "pong"})
    gate.take(message)
    (answer,) = gate.sent
    assert answer["id"] == request_id
    assert answer["error"]["code"] == code
    assert answer["error"]["message"]


# 7. Errors from the other side


def test_the_library_cannot_read_errors_with_more_members() -> None:
    with pytest.raises(TypeError):
        JsonRpcException.from_dict({"code": 1, "message": "m", "more": 2})
        pytest.fail(gone("errors.rpc_error"))


def test_the_library_loses_the_code_0() -> None:
    zero = JsonRpcInternalError(message="m", code=0)
    assert zero.code != 0, gone("errors.rpc_error")


def test_errors_keep_their_code_whatever_it_is() -> None:
    assert errors.rpc_error(0, "m").code == 0
    assert errors.rpc_error(0, "m", ["not", "an", "object"]).data is None


# 8. Threads, shutdown, logs


@pytest.fixture
def library_log() -> Iterator[logging.Logger]:
    """The library's log, which importing the gate has disabled, as it is without us."""
    logger = logging.getLogger("pylsp_jsonrpc.endpoint")
    was, logger.disabled = logger.disabled, False
    yield logger
    logger.disabled = was


def test_the_library_runs_five_at_once_and_cancels_none_that_runs() -> None:
    begun = threading.Semaphore(0)
    go_on = threading.Event()

    def work() -> int:
        begun.release()
        return 1 if go_on.wait(20) else 0

    endpoint, sent = raw({"m": lambda _: work})
    try:
        for number in range(6):
            endpoint.consume(request("m", number))
        assert all(begun.acquire(timeout=20) for _ in range(5))
        assert not begun.acquire(blocking=False), gone("running waiting methods as tasks")
        endpoint.consume(cancel(0))
        assert sent == [], gone("cancelling work through its task")
    finally:
        go_on.set()
        endpoint.shutdown()
    assert {answer["result"] for answer in sent} == {1}


async def test_as_many_wait_at_once_as_are_asked() -> None:
    everybody, waiting = anyio.Event(), 0

    async def together(caller: Any, params: Any) -> str:
        nonlocal waiting
        waiting += 1
        if waiting == 50:
            everybody.set()
        await everybody.wait()
        return "together"

    async with anyio.create_task_group() as tasks:
        gate = GateAlone({IN_A_TASK: together}, tasks)
        for number in range(50):
            gate.ask(IN_A_TASK, number)
        answers = await gate.answered(50)
        assert {answer["id"] for answer in answers} == set(range(50))


def test_the_library_leaves_its_questions_open_at_shutdown() -> None:
    endpoint, _ = raw({})
    question = endpoint.request("client.method")
    endpoint.shutdown()
    assert not question.done(), gone("nothing: the daemon asks nothing yet")


def test_the_library_logs_whole_messages(
    library_log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, library_log.name)
    endpoint, _ = raw({"m": lambda _: 1})
    endpoint.consume(request("m", 1, {"apiKey": "sk-secret"}))
    assert "sk-secret" in caplog.text, gone("disabling the library's logger")


def test_the_gate_logs_no_message_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "pylsp_jsonrpc.endpoint")
    gate = GateAlone({AT_ONCE: lambda caller, params: "pong"})
    gate.ask(AT_ONCE, 1, {"message": "sk-secret"})
    gate.ask(AT_ONCE, 2, {"message": 5, "apiKey": "sk-secret"})
    gate.take({"jsonrpc": "2.0", "method": "sk-secret", "params": {}})
    gate.take({"jsonrpc": "2.0", "id": 9, "result": "sk-secret"})
    gate.take(b'{"jsonrpc":"2.0","id":10,"method":"sk-secret"')
    assert len(gate.sent) == 3
    assert "sk-secret" not in caplog.text
