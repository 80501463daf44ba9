"""The client's core with both ends played by hand: frames in, frames out, no I/O."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from tertulia.attachments import Hold
from tertulia.core import Core
from tertulia.errors import ConnectionLost, DaemonFailed, Overloaded, RpcError, SessionNotFound
from tertulia.records import Event
from tertulia_protocol.framing import Body, Framer, encode_frame


class Kept:
    """A feed that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ends: list[Exception | None] = []

    def push(self, event: Event) -> None:
        self.events.append(event)

    def end(self, error: Exception | None) -> None:
        self.ends.append(error)


def frame(message: dict[str, Any]) -> bytes:
    return encode_frame(msgspec.json.encode({"jsonrpc": "2.0", **message}))


def event_frame(session_id: str, kind: str = "session.idle") -> bytes:
    event: dict[str, Any] = {
        "id": "e",
        "timestamp": "t",
        "parentId": None,
        "type": kind,
        "data": {},
    }
    params = {"sessionId": session_id, "event": event}
    return frame({"method": "session.event", "params": params})


def sent(core: Core) -> list[Any]:
    frames = Framer().feed(core.outgoing())
    assert all(isinstance(each, Body) for each in frames)
    return [msgspec.json.decode(each.data) for each in frames if isinstance(each, Body)]


def held(core: Core, session_id: str = "s") -> Hold:
    """A hold of a session that is attached to."""
    hold = Hold()
    core.attach("session.resume", {"sessionId": session_id}, hold)
    core.receive(frame({"id": sent(core)[-1]["id"], "result": {"sessionId": session_id}}))
    return hold


def test_replies_in_any_order_and_any_cut_of_the_bytes_reach_their_askers() -> None:
    core = Core()
    futures = [core.request("ping", {"message": str(number)}) for number in range(3)]
    ids = [message["id"] for message in sent(core)]
    replies = b"".join(frame({"id": i, "result": {"for": i}}) for i in reversed(ids))
    for offset in range(len(replies)):
        core.receive(replies[offset : offset + 1])
    assert [future.result(0) for future in futures] == [{"for": i} for i in ids]


@pytest.mark.parametrize("result", [None, {"result": 1, "error": 2, "id": 3}, [], "text", 0])
def test_a_result_of_any_shape_arrives_as_it_is(result: Any) -> None:
    core = Core()
    future = core.request("ping", {})
    core.receive(frame({"id": sent(core)[-1]["id"], "result": result}))
    assert future.result(0) == result


@pytest.mark.parametrize(
    "error",
    [
        {"code": 0, "message": "no"},
        {"code": -32001, "message": "no", "data": "text", "extra": 1},
        {"code": "strange", "message": None},
        {},
    ],
)
def test_an_error_of_any_shape_is_an_rpc_error(error: dict[str, Any]) -> None:
    core = Core()
    future = core.request("ping", {})
    core.receive(frame({"id": sent(core)[-1]["id"], "error": error}))
    raised = future.exception(0)
    assert isinstance(raised, RpcError)
    assert raised.message


def test_an_errors_kind_brings_its_class_and_data_back() -> None:
    core = Core()
    future = core.request("session.send", {})
    data = {"kind": "overloaded", "retryMs": 250}
    error = {"code": -32004, "message": "later", "data": data}
    core.receive(frame({"id": sent(core)[-1]["id"], "error": error}))
    raised = future.exception(0)
    assert isinstance(raised, Overloaded)
    assert raised.data == data


def test_an_error_without_id_is_for_the_only_one_that_waits() -> None:
    core = Core()
    future = core.request("session.send", {"prompt": "x"})
    core.receive(frame({"id": None, "error": {"code": -32600, "message": "too large"}}))
    with pytest.raises(RpcError, match="too large"):
        future.result(0)


def test_an_error_without_id_ends_nobody_where_several_wait() -> None:
    core = Core()
    futures = [core.request("ping", {}) for _ in range(2)]
    core.receive(frame({"id": None, "error": {"code": -32600, "message": "whose?"}}))
    assert not any(future.done() for future in futures)


def test_replies_to_nobody_are_dropped() -> None:
    core = Core()
    future = core.request("ping", {})
    [request] = sent(core)
    core.receive(frame({"id": 4711, "result": 1}) + frame({"id": "text", "result": 1}))
    core.receive(frame({"id": request["id"], "result": 2}))
    core.receive(frame({"id": request["id"], "result": 3}))
    assert future.result(0) == 2


def test_the_daemons_questions_are_refused_and_not_left_open() -> None:
    core = Core()
    core.receive(frame({"id": "q1", "method": "userInput.request", "params": {}}))
    [answer] = sent(core)
    assert answer["id"] == "q1"
    assert answer["error"]["code"] == -32601


def test_events_reach_the_feeds_of_their_session_only() -> None:
    core = Core()
    mine, other = Kept(), Kept()
    core.subscribe("mine", mine, held(core, "mine"))
    core.subscribe("other", other, held(core, "other"))
    core.receive(event_frame("mine") + event_frame("nobody's"))
    core.receive(frame({"method": "from.the.future", "params": [1]}))
    assert [event.type for event in mine.events] == ["session.idle"]
    assert other.events == []


def test_a_feed_that_nobody_holds_is_forgotten() -> None:
    core = Core()
    feed = Kept()
    core.subscribe("s", feed, held(core))
    seen = feed.events
    del feed
    gc.collect()
    core.receive(event_frame("s"))
    assert seen == []


def test_the_end_of_the_connection_ends_everything_that_waits_once() -> None:
    core = Core()
    feed = Kept()
    core.subscribe("s", feed, held(core))
    future = core.request("ping", {})
    core.lose(ConnectionLost("first"))
    core.lose(ConnectionLost("second"))
    late = Kept()
    core.subscribe("s", late, Hold())
    for error in (future.exception(0), *feed.ends, *late.ends):
        assert isinstance(error, ConnectionLost)
        assert str(error) == "first"
    assert len(feed.ends) == len(late.ends) == 1
    with pytest.raises(ConnectionLost, match="first"):
        core.request("ping", {})


def test_each_who_asks_behind_the_end_is_told_by_an_error_of_its_own() -> None:
    core = Core()
    waiting = [core.request("ping", {}) for _ in range(3)]
    core.lose(DaemonFailed("gone", returncode=3, stderr="why"))

    def told(ask: Callable[[], object]) -> tuple[Exception, int]:
        with pytest.raises(DaemonFailed, match="gone\nwhy") as caught:
            ask()
        assert (caught.value.returncode, caught.value.stderr) == (3, "why")
        return caught.value, len(traceback.extract_tb(caught.tb))

    for asks in (
        [future.result for future in waiting],
        [partial(core.request, "ping", {})] * 3,
    ):
        errors, depths = zip(*map(told, asks), strict=True)
        assert len({id(error) for error in errors}) == 3
        assert len(set(depths)) == 1


def test_a_deleted_sessions_feeds_end_with_an_error() -> None:
    core = Core()
    feed = Kept()
    core.subscribe("gone", feed, held(core, "gone"))
    notice = {"type": "session.deleted", "sessionId": "gone"}
    core.receive(frame({"method": "session.lifecycle", "params": notice}))
    assert isinstance(feed.ends[0], SessionNotFound)


def test_a_feed_of_who_is_not_attached_ends_at_once() -> None:
    core = Core()
    closed, deleted, never = held(core), held(core, "gone"), Hold()
    closed.closed = True
    core.release("s", closed)
    notice = {"type": "session.deleted", "sessionId": "gone"}
    core.receive(frame({"method": "session.lifecycle", "params": notice}))
    other = held(core)
    feeds = [Kept() for _ in range(4)]
    for feed, session_id, hold in zip(
        feeds, ("s", "gone", "s", "s"), (closed, deleted, never, other), strict=True
    ):
        core.subscribe(session_id, feed, hold)
    assert feeds[0].ends == [None]
    for feed in feeds[1:3]:
        assert [type(end) for end in feed.ends] == [SessionNotFound]
    assert feeds[3].ends == []


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        encode_frame(b"{"),
        encode_frame(b"[]"),
        encode_frame(b'{"jsonrpc":"2.0","method":"session.event","params":{"event":1}}'),
    ],
)
def test_a_stream_that_is_not_the_protocol_is_a_lost_connection(stream: bytes) -> None:
    with pytest.raises(ConnectionLost):
        Core().receive(stream)


def test_params_that_are_no_json_are_refused_before_anything_is_sent() -> None:
    core = Core()
    with pytest.raises(TypeError):
        core.request("ping", {"message": object()})
    assert core.outgoing() == b""


def test_no_log_level_writes_what_is_sent_and_received(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="pylsp_jsonrpc")
    core = Core()
    future = core.request("session.create", {"provider": {"apiKey": "secret-key"}})
    core.receive(frame({"id": sent(core)[-1]["id"], "error": {"code": 0, "message": "secret"}}))
    core.receive(frame({"id": 1, "method": "secret.question"}))
    assert future.done()
    assert "secret" not in caplog.text


def test_lone_surrogates_are_mended_and_pairs_are_joined() -> None:
    core = Core()
    params = {"prompt": "a\ud83d", "more": [{"k\udc00": "\ud83d\ude00"}, 1, None]}
    core.request("session.send", params)
    (message,) = sent(core)
    assert message["params"] == {
        "prompt": "a\ufffd",
        "more": [{"k\ufffd": "\U0001f600"}, 1, None],
    }


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n", b"<!DOCTYPE HTML>\n"])
def test_a_web_server_is_told_from_a_daemon(first: bytes) -> None:
    with pytest.raises(ConnectionLost, match="web server and no tertuliad"):
        Core().receive(first)
