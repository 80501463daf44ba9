"""A connection keeps: every request one answer, however odd the bytes; who is slow, silent or gone
harms nobody else."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tertulia_protocol import errors, framing
from tertulia_protocol.framing import encode_frame
from tertuliad import limits
from tertuliad.listeners import accept, acknowledging
from tertuliad.replies import Reply, settled
from tertuliad.store.base import Append
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair

pytestmark = pytest.mark.anyio


def body(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def frame(**members: Any) -> bytes:
    return encode_frame(body(**members))


def ping_frame(request_id: Any, message: str = "x") -> bytes:
    return frame(id=request_id, method="ping", params={"message": message})


class Script(msgspec.Struct):
    """A conversation: what is sent, and (id, error code or 0) of each answer. `ends`: the daemon
    then closes the connection."""

    sent: bytes
    answers: list[tuple[Any, int]]
    ends: bool = False


PARSE, INVALID, PARAMS = errors.PARSE_ERROR, errors.INVALID_REQUEST, errors.INVALID_PARAMS
NESTED = b"[" * 20_000 + b"]" * 20_000

SCRIPTS: dict[str, Script] = {
    "broken JSON": Script(encode_frame(b'{"jsonrpc":"2.0","id":50,"method":'), [(50, PARSE)]),
    "a string": Script(encode_frame(b'"hello"'), [(None, INVALID)]),
    "null": Script(encode_frame(b"null"), [(None, INVALID)]),
    "an empty body": Script(encode_frame(b""), [(None, PARSE)]),
    "invalid UTF-8 in the envelope": Script(
        encode_frame(b'{"jsonrpc":"2.0","id":51,"method":"\xff\xfe\xc3"}'), [(51, PARSE)]
    ),
    "invalid UTF-8 in the params": Script(
        encode_frame(b'{"jsonrpc":"2.0","id":51,"method":"ping","params":{"message":"\xff"}}'),
        [(51, PARAMS)],
    ),
    "an unknown method": Script(
        frame(id=52, method="no.such.method", params={}), [(52, errors.METHOD_NOT_FOUND)]
    ),
    "an unknown notification": Script(frame(method="no.such.notification", params={}), []),
    "params: a string": Script(
        frame(id=53, method="session.create", params="hello"), [(53, PARAMS)]
    ),
    "params: an array": Script(
        frame(id=54, method="session.create", params=[1, 2]), [(54, PARAMS)]
    ),
    "params: none": Script(frame(id=55, method="session.send"), [(55, PARAMS)]),
    "params: fields of other types": Script(
        frame(id=56, method="session.send", params={"sessionId": 5, "prompt": {}}), [(56, PARAMS)]
    ),
    "no jsonrpc": Script(encode_frame(b'{"id":57,"method":"session.list"}'), [(57, INVALID)]),
    "jsonrpc 1.0": Script(
        encode_frame(b'{"jsonrpc":"1.0","id":58,"method":"session.list"}'), [(58, INVALID)]
    ),
    "a string id": Script(frame(id="abc", method="session.list", params={}), [("abc", 0)]),
    "a null id": Script(frame(id=None, method="session.list"), [(None, INVALID)]),
    "a fraction as id": Script(frame(id=1.5, method="session.list"), [(None, INVALID)]),
    "an id of 60 bits": Script(frame(id=2**60 + 1, method="session.list"), [(2**60 + 1, 0)]),
    "an id of 200 bits": Script(frame(id=2**200 + 1, method="session.list"), [(2**200 + 1, 0)]),
    "a reply to nothing": Script(frame(id=999, result={}), []),
    "a method that is a number": Script(frame(id=59, method=7), [(59, INVALID)]),
    "a batch": Script(
        encode_frame(b"[%b,%b]" % (body(id=60, method="ping"), body(id=61, method="ping"))),
        [(None, INVALID)],
    ),
    "an empty batch": Script(encode_frame(b"[]"), [(None, INVALID)]),
    "an id twice in a message": Script(
        encode_frame(b'{"jsonrpc":"2.0","id":62,"id":63,"method":"ping"}'), [(63, 0)]
    ),
    "nesting of 20,000 levels": Script(
        encode_frame(b'{"jsonrpc":"2.0","id":64,"method":"session.list","params":%b}' % NESTED),
        [(64, PARSE)],
    ),
    "a lone surrogate": Script(
        encode_frame(b'{"jsonrpc":"2.0","id":65,"method":"ping","params":{"message":"\\ud83d"}}'),
        [(65, 0)],
    ),
    "two messages in one write": Script(ping_frame(66) + ping_frame(67), [(66, 0), (67, 0)]),
    "another header before the length": Script(
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\n" + ping_frame(71), [(71, 0)]
    ),
    "a header in small letters": Script(
        ping_frame(72).replace(b"Content-Length", b"content-length"), [(72, 0)]
    ),
    "lines that end in LF": Script(ping_frame(73).replace(b"\r\n", b"\n"), [(73, 0)]),
    "5 MB of text": Script(ping_frame(74, "x" * 5_000_000), [(74, 0)]),
    "a length beyond sense": Script(
        b"Content-Length: 999999999999\r\n\r\n{}", [(None, PARSE)], ends=True
    ),
    "a negative length": Script(b"Content-Length: -5\r\n\r\n{}", [(None, PARSE)], ends=True),
    "a length in letters": Script(b"Content-Length: abc\r\n\r\n{}", [(None, PARSE)], ends=True),
    "two lengths": Script(
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", [(None, PARSE)], ends=True
    ),
    "no length": Script(b"Content-Type: application/json\r\n\r\n{}", [(None, PARSE)], ends=True),
    "a line that is no header": Script(
        b"GARBAGE LINE WITHOUT COLON\r\n\r\n", [(None, PARSE)], ends=True
    ),
    "JSON without a header": Script(body(id=75, method="ping") + b"\n", [(None, PARSE)], ends=True),
    "a length that is too short": Script(
        b"Content-Length: 5\r\n\r\n" + body(id=76, method="ping") + b"\r\n",
        [(None, PARSE), (None, PARSE)],
        ends=True,
    ),
    "a header without end": Script(b"X: " + b"a" * 1_000_000, [(None, PARSE)], ends=True),
}
"""Every bad input that a client may send, and some good ones that look odd."""


def summary(answers: list[dict[str, Any]]) -> list[tuple[Any, int]]:
    return [(answer["id"], answer.get("error", {}).get("code", 0)) for answer in answers]


@pytest.fixture(params=["as it is", "as if it were large"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large message is worked on in steps, and answered as a small one is."""
    if request.param != "as it is":
        monkeypatch.setattr(limits, "LARGE_BODY_BYTES", 0)
        monkeypatch.setattr(limits, "STEP_PAUSE_S", 0)
        monkeypatch.setattr(framing, "LARGE_BODY_BYTES", 0)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_script_gets_the_answers_it_says(name: str, tmp_path: Path) -> None:
    script = SCRIPTS[name]
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await client.send_raw(script.sent)
        expected = Counter(script.answers)
        if script.ends:
            await client.end()
        else:
            for request_id, _ in script.answers:
                await client.answer(request_id)
            await client.request("ping", {"message": "still there?"})
            expected[client.last_id, 0] += 1
        assert Counter(summary(client.answers())) == expected
        assert all("error" not in a or a["error"]["message"] for a in client.answers())
        assert (await other.request("ping", {"message": "you?"}))["message"] == "pong: you?"


@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if not script.ends])
async def test_a_script_in_single_bytes_gets_the_same_answers(name: str, tmp_path: Path) -> None:
    script = SCRIPTS[name]
    sent = script.sent if len(script.sent) < 300 else b""  # a long one adds time and no case
    async with pair(tmp_path) as (client, _):
        for at in range(len(sent)):
            await client.send_raw(sent[at : at + 1])
        for request_id, code in script.answers if sent else ():
            answer = await client.answer(request_id)
            assert answer.get("error", {}).get("code", 0) == code


async def test_a_web_page_at_a_socket_gets_not_a_word(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room):
        browser = room.connect(is_socket=True)
        await browser.send_raw(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + ping_frame(1))
        await browser.end()
        assert browser.messages == []


async def test_a_broken_header_at_a_socket_is_still_answered(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room):
        client = room.connect(is_socket=True)
        await client.send_raw(b"Content-Length: abc\r\n\r\n")
        await client.end()
        assert summary(client.answers()) == [(None, PARSE)]


async def test_a_frame_over_the_limit_is_answered_and_skipped(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room):
        client = room.connect(max_body=1000)
        await client.send_raw(ping_frame("big", "x" * 100_000) + ping_frame("small"))
        assert (await client.answer("small"))["result"]["message"] == "pong: x"
        assert summary(client.answers()) == [("big", INVALID), ("small", 0)]
        assert "1000" in client.answers()[0]["error"]["message"]


async def test_a_frame_over_the_limit_may_come_in_pieces(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room):
        client = room.connect(max_body=1000)
        big = ping_frame("big", "x" * 100_000)
        for at in range(0, len(big), 7001):
            await client.send_raw(big[at : at + 7001])
        await client.request("ping")
        assert summary(client.answers()) == [("big", INVALID), (1, 0)]


async def test_a_duplicate_id_is_refused_and_the_first_answered(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.ask("session.send", {"sessionId": "a", "prompt": "x", "wait": True}, "same")
        call = await room.model.next_call()
        await client.ask("ping", {}, "same")
        refused = await client.answer("same")
        assert refused["error"]["code"] == INVALID
        call.finish("done")
        await client.next_event("session.idle")
        await client.request("ping")
        of_same = [answer for answer in client.answers() if answer["id"] == "same"]
        assert [("result" in answer) for answer in of_same] == [False, True]


# Who is slow, silent or gone


async def test_half_a_frame_and_then_silence_harms_nobody(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await client.send_raw(ping_frame(1)[:-3])
        await other.create("a")
        assert (await other.turn("a", "hello"))["data"]["content"] == "answer 1 to hello"
        await client.send_raw(ping_frame(1)[-3:])
        assert (await client.answer(1))["result"]["message"] == "pong: x"


async def test_half_a_frame_is_acknowledged_at_once(tmp_path: Path) -> None:
    whole, told = ping_frame("halved"), []
    cut = whole.index(b"{")
    async with pair(tmp_path) as (_, room):
        client = room.connect(acknowledge=lambda: told.append("half"))
        await client.send_raw(whole[:cut])
        with anyio.fail_after(PATIENCE_S):
            while not told:
                await anyio.lowlevel.checkpoint()
        await client.send_raw(whole[cut:])
        await client.answer("halved")
        await client.request("ping", {"message": "in one piece"})
    assert told == ["half"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel decides")
async def test_an_acknowledgement_does_not_wait_for_an_answer() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as peer:
            first = listener.listeners[0]
            assert isinstance(first, anyio.abc.SocketListener)
            stream = await first.accept()
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            acknowledge = acknowledging(stream)
            assert acknowledge is not None
            acknowledge()
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
            await peer.aclose()
            await stream.aclose()
            acknowledge()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel decides")
def test_an_acknowledgement_on_a_closed_stream_is_nothing_on_the_daemons_own_loop() -> None:
    anyio.run(
        test_an_acknowledgement_does_not_wait_for_an_answer, backend_options={"use_uvloop": True}
    )


@pytest.fixture
def _small_outbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not read falls behind soon."""
    monkeypatch.setattr(limits, "OUTBOX_HIGH_BYTES", 8_000)
    monkeypatch.setattr(limits, "OUTBOX_LOW_BYTES", 1_000)
    monkeypatch.setattr(limits, "WRITE_CHUNK_BYTES", 1_000)


@pytest.mark.usefixtures("_small_outbox")
async def test_who_reads_nothing_catches_up_without_gap_or_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CATCH_UP_EVENTS", 7)
    async with pair(tmp_path) as (watcher, room):
        speaker = room.connect()
        await watcher.create("a", streaming=True)
        await speaker.request("session.resume", {"sessionId": "a"})
        watcher.stop_reading()
        for number in range(12):
            answer = await speaker.turn("a", f"{number} " + "x" * 500)
            assert answer["data"]["content"].startswith(f"answer {number + 1} to")
            assert all(c.outbox_bytes < 12_000 for c in room.connections)
        watcher.read_on()
        log = await speaker.history("a")
        last = log[-1]["id"]
        await watcher.next(lambda m: m.get("params", {}).get("event", {}).get("id") == last)
        await watcher.next_event("session.idle", "a")
        stored = [event for event in watcher.events("a") if not event.get("ephemeral")]
        assert [event["id"] for event in stored] == [event["id"] for event in log]
        assert watcher.events("a")[-1]["type"] == "session.idle"
        live = await watcher.turn("a", "and live again")
        assert live["data"]["content"] == "answer 13 to and live again"


@pytest.mark.usefixtures("_small_outbox")
async def test_who_reads_nothing_is_told_that_a_turn_is_over_whose_session_is_deleted_meanwhile(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (watcher, room):
        speaker = room.connect()
        await watcher.create("a", streaming=True)
        await speaker.request("session.resume", {"sessionId": "a"})
        watcher.stop_reading()
        room.model.hold = True
        await speaker.say("a", "hello")
        call = await room.model.next_call()
        with anyio.fail_after(PATIENCE_S):
            while not any(connection.outbox_bytes > 8_000 for connection in room.connections):
                call.say("x" * 500)
                await call.taken()
        await speaker.request("session.delete", {"sessionId": "a"})
        await speaker.next_event("session.idle", "a")
        watcher.read_on()
        assert (await watcher.next_event("session.idle", "a"))["data"]["aborted"] is True


async def test_who_asks_and_reads_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_MAX_BYTES", 10_000)
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        client.stop_reading()
        with anyio.move_on_after(PATIENCE_S):
            while not room.ended[client].is_set():
                try:
                    await client.send_raw(ping_frame(1, "x" * 5_000))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    break
        await room.gone(client)
        assert (await other.request("ping"))["message"] == "pong"


async def test_who_asks_for_more_than_may_wait_and_reads_it_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGE_BODY_BYTES", 10_000)
    monkeypatch.setattr(limits, "OUTBOX_MAX_BYTES", 20_000)
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        await client.request("session.log", {"sessionId": "a", "message": "x" * 50_000})
        log = await client.history("a")
        assert len(log[-1]["data"]["message"]) == 50_000
        assert (await client.request("ping"))["message"] == "pong"


async def test_an_end_stops_no_turn(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await client.create("a")
        room.model.hold = True
        await client.say("a", "hello")
        call = await room.model.next_call()
        await client.aclose()
        await room.gone(client)
        await other.request("session.resume", {"sessionId": "a"})
        call.finish("still here")
        assert (await other.next_event("assistant.message"))["data"]["content"] == "still here"
        await other.next_event("session.idle")


async def test_what_was_asked_before_the_end_of_input_is_answered(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.ask("session.create", {"sessionId": "a"}, "c")
        await client.ask("session.list", {}, "l")
        await client.send_raw(ping_frame("cut")[:-4])
        await client.send_eof()
        await client.end()
        assert {answer["id"] for answer in client.answers()} == {"c", "l"}


async def test_a_waiting_request_ends_with_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SHUTDOWN_GRACE_S", 0.01)
    async with pair(tmp_path) as (_, room):
        ended = anyio.Event()

        async def wait(caller: Any, params: Any) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        room.handlers["models.list"] = wait
        client = room.connect()
        await client.ask("models.list")
        await client.request("ping")
        await client.aclose()
        with anyio.fail_after(PATIENCE_S):
            await ended.wait()
        await room.gone(client)


# Who may


async def test_a_token_has_to_come_first(tmp_path: Path) -> None:
    async with pair(tmp_path, token="open sesame") as (client, _):
        for method, params in (
            ("ping", {}),
            ("session.list", {}),
            ("connect", {}),
            ("connect", {"token": "open says me"}),
            ("connect", {"token": ""}),
        ):
            with pytest.raises(errors.NotAuthenticated) as refused:
                await client.request(method, params)
            assert "AUTHENTICATION_FAILED" in refused.value.message
            assert "sesame" not in str(client.messages)
        assert (await client.request("connect", {"token": "open sesame"}))["ok"] is True
        assert (await client.request("session.list"))["sessions"] == []


async def test_a_stranger_is_told_nothing_of_sessions(tmp_path: Path) -> None:
    async with pair(tmp_path, token="t") as (stranger, room):
        known = room.connect()
        await known.create("a")
        await known.turn("a", "hello")
        with pytest.raises(errors.NotAuthenticated):
            await stranger.request("ping")
        assert [message.get("method") for message in stranger.messages] == [None]


async def test_a_draining_daemon_says_so(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.request("runtime.shutdown")
        with pytest.raises(errors.Draining):
            await client.create("late")


async def test_more_requests_than_the_bound_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 1)
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        waiting = {"sessionId": "a", "prompt": "x", "wait": True}
        await client.ask("session.send", waiting, "waits")
        call = await room.model.next_call()
        with pytest.raises(errors.Overloaded):
            await client.request("ping")
        call.finish("done")
        assert "result" in await client.answer("waits")
        await client.request("ping")


# The outbox


class WatchedStream(anyio.abc.ByteStream):
    """Holds the writer back until `go`, and keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.go = anyio.Event()
        self.wrote = anyio.Event()
        self.ended = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self.ended.wait()
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        self.wrote.set()
        await self.go.wait()
        self.writes.append(item)

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...


async def test_frames_that_wait_together_leave_together(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room), anyio.create_task_group() as tasks:
        stream = WatchedStream()
        connection = room.connection(stream)
        tasks.start_soon(connection.serve)
        frames = [encode_frame(b"%d" % number) for number in range(50)]
        connection.send(frames[0])
        await stream.wrote.wait()
        for each in frames[1:]:
            connection.send(each)
        stream.go.set()
        await connection.flushed()
        assert stream.writes == [frames[0], b"".join(frames[1:])]
        stream.ended.set()


async def test_a_large_frame_leaves_in_pieces_and_whole(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room), anyio.create_task_group() as tasks:
        stream = WatchedStream()
        connection = room.connection(stream)
        tasks.start_soon(connection.serve)
        stream.go.set()
        frames = [b"small", bytes(3 * limits.WRITE_CHUNK_BYTES) + b"end", b"more"]
        connection.send(frames[0])
        connection.send(memoryview(frames[1]))
        connection.send(frames[2])
        await connection.flushed()
        assert b"".join(stream.writes) == b"".join(frames)
        assert max(map(len, stream.writes)) == limits.WRITE_CHUNK_BYTES
        assert connection.outbox_bytes == 0
        stream.ended.set()


async def test_others_are_served_between_the_steps_of_a_large_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGE_BODY_BYTES", 200)
    monkeypatch.setattr(limits, "STEP_PAUSE_S", 10 * PATIENCE_S)
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await other.request("ping")
        await client.send_raw(ping_frame("large", "x" * 200) + ping_frame("behind it"))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(PATIENCE_S):
            await other.request("ping")
        assert client.answers() == []


async def test_a_large_message_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGE_BODY_BYTES", 200)
    async with pair(tmp_path) as (client, _):
        await client.send_raw(ping_frame("large", "x" * 200) + ping_frame("behind it"))
        await client.answer("behind it")
        assert summary(client.answers()) == [("large", 0), ("behind it", 0)]


async def test_everybody_who_waits_for_the_flush_is_told(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room), anyio.create_task_group() as tasks:
        stream = WatchedStream()
        connection = room.connection(stream)
        tasks.start_soon(connection.serve)
        connection.send(b"frame")
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as waiters:
                waiters.start_soon(connection.flushed)
                waiters.start_soon(connection.flushed)
                await anyio.wait_all_tasks_blocked()
                stream.go.set()
        assert connection.outbox_bytes == 0
        stream.ended.set()


async def test_nobody_waits_for_the_flush_of_a_connection_that_was_ended(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room), anyio.create_task_group() as tasks:
        connection = room.connection(WatchedStream())
        tasks.start_soon(connection.serve)
        connection.send(b"frame")
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as waiters:
                waiters.start_soon(connection.flushed)
                await anyio.wait_all_tasks_blocked()
                connection.abort()


async def test_a_frame_and_the_end_in_one_step_end_the_connection_quietly(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, room):
        connection = room.connection(WatchedStream())
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.serve)
                await anyio.wait_all_tasks_blocked()
                connection.send(b"frame")
                connection.abort()


# Any order of frames

SENDABLE: list[tuple[str, Any]] = [
    ("ping", {"message": "x"}),
    ("ping", {"message": 5}),
    ("no.such.method", None),
    ("models.list", {}),
    ("rpc.discover", {}),
    ("session.list", {}),
    ("session.getLastId", {}),
    *[
        (method, {"sessionId": session_id, **more})
        for session_id in ("a", "b")
        for method, more in (
            ("session.create", {}),
            ("session.create", {"ifExists": "resume", "streaming": True}),
            ("session.resume", {}),
            ("session.send", {"prompt": "hello"}),
            ("session.send", {"prompt": "hello", "wait": True}),
            ("session.abort", {}),
            ("session.log", {"message": "note"}),
            ("session.name.set", {"name": "n"}),
            ("session.model.switchTo", {"modelId": "m2"}),
            ("session.getMessages", {}),
            ("session.destroy", {}),
            ("session.delete", {}),
        )
    ],
]
steps = st.lists(
    st.tuples(
        st.integers(0, 1),  # which client
        st.integers(1, 4),  # the request's id
        st.sampled_from(SENDABLE) | st.just(("$/cancelRequest", None)),
    ),
    max_size=14,
)


async def play(clients: list[FramesClient], script: list[Any]) -> list[Counter[Any]]:
    """Send it all without waiting; how often each client has used each id."""
    asked: list[Counter[Any]] = [Counter(), Counter()]
    for who, request_id, (method, params) in script:
        if method == "$/cancelRequest":
            note = {"jsonrpc": "2.0", "method": method, "params": {"id": request_id}}
            await clients[who].send(note)
        else:
            await clients[who].ask(method, params, request_id)
            asked[who][request_id] += 1
    return asked


async def all_answered(client: FramesClient, asked: Counter[Any]) -> None:
    def so_far() -> Counter[Any]:
        return Counter(answer["id"] for answer in client.answers())

    await client.until(lambda: so_far() >= asked)
    await client.answer(await client.ask("ping", {}, "last"))
    assert so_far() == asked + Counter({"last": 1})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps)
async def test_any_order_of_requests_gets_one_answer_each(script: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as home:
        async with pair(Path(home)) as (client, room):
            clients = [client, room.connect()]
            asked = await play(clients, script)
            for each, expected in zip(clients, asked, strict=True):
                await all_answered(each, expected)


def test_the_framer_and_the_daemon_agree_on_the_largest_frame() -> None:
    assert limits.MAX_BODY_BYTES == framing.MAX_BODY_BYTES


async def test_a_client_that_floods_does_not_hold_up_another(tmp_path: Path) -> None:
    """Ten thousand requests in one piece are answered a few at a time, in turn with the others."""
    count = 10_000
    async with pair(tmp_path) as (flooder, room):
        other = room.connect()
        await other.request("ping", {"message": "hello"})
        flood = b"".join(ping_frame(number) for number in range(count))
        before_flood = len(flooder.answers())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flooder.send_raw, flood)
            await flooder.answer(0)
            asked = await other.ask("ping", {"message": "hello"}, "in between")
            await other.answer(asked)
            ahead = len(flooder.answers()) - before_flood
            assert ahead < count / 10, f"{ahead} of another client's answers came before it"
        await flooder.answer(count - 1)
        assert [answer["id"] for answer in flooder.answers()] == list(range(count))


@pytest.mark.parametrize("ends", ["says so", "is cut off"])
async def test_a_connection_that_has_ended_holds_nothing_of_what_was_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Before any garbage is collected."""
    monkeypatch.setattr(limits, "SHUTDOWN_GRACE_S", 0.05)
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        for number in range(4):
            said = {"sessionId": "s", "message": f"{number} " * 100_000}
            await client.request("session.log", said)
        other = room.connect()
        await other.request("session.resume", {"sessionId": "s"})
        other.stop_reading()
        for _ in range(4):
            await other.ask("session.getMessages", {"sessionId": "s"})
        connection = room.connection_of[other]
        with anyio.fail_after(PATIENCE_S):
            while not connection.outbox_bytes:
                await anyio.sleep(0.001)
        await other.send_raw(b"Content-Length: 1000\r\n\r\n{" + b" " * 100)
        await client.request("ping")
        if ends == "says so":
            await other.send_eof()
        else:
            connection.abort()
        await room.gone(other)
        assert not connection.outbox_bytes
        assert not connection._outbox
        assert not connection._framer.mid_frame


async def test_a_bug_in_serving_a_client_ends_that_client_alone_and_is_logged_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(stream: anyio.abc.SocketStream) -> None:
        raise KeyError(await stream.receive())

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(accept, listener, broken, tasks)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        for _ in range(2):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"x")
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        tasks.cancel_scope.cancel()
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_a_client_that_goes_while_its_resume_is_under_way_follows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        await client.request("session.detach", {"sessionId": "a"})
        other = room.connect()
        append, answered = room.store.append, anyio.Event()

        def after_its_end(wanted: Append) -> Reply:
            final = Reply()
            room.connection_of[other].abort()

            async def go_on() -> None:
                await room.ended[other].wait()
                await settled(append(wanted))
                final.give(None)
                answered.set()

            room.world.spawn(go_on)
            return final

        monkeypatch.setattr(room.store, "append", after_its_end)
        await other.ask("session.resume", {"sessionId": "a"})
        with anyio.fail_after(limits.SHUTDOWN_GRACE_S):
            await answered.wait()
        assert room.hub.followers("a") == 0
