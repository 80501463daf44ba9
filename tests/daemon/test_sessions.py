"""Sessions in a whole daemon: turns run side by side, end whatever fails, outlive the process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol import errors
from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.providers.base import Delta, Done, ModelRequest
from tertuliad.sessions.decide import turns
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Room, pair
from tests.support.wire import types

pytestmark = pytest.mark.anyio


async def resume(client: FramesClient, session_id: str, **more: Any) -> Any:
    return await client.request("session.resume", {"sessionId": session_id, **more})


def unbroken(events: list[dict[str, Any]]) -> bool:
    """Whether each event names the one before it."""
    ids = [None, *(event["id"] for event in events)]
    return [event["parentId"] for event in events] == ids[:-1]


# Side by side


async def test_turns_of_many_sessions_run_at_the_same_time(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        names = [f"s{number}" for number in range(20)]
        for name in names:
            await client.create(name)
            await client.say(name, f"to {name}")
        calls = [await room.model.next_call() for _ in names]
        for call in reversed(calls):
            call.finish("done")
        ended = "session.idle"
        await client.until(lambda: all(client.types(n)[-1] == ended for n in names))


async def test_each_session_has_its_own_history(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        for name in ("a", "b"):
            await client.create(name)
        for number, name in enumerate(("a", "b", "a"), 1):
            await client.turn(name, f"message {number}")
        last = await client.turn("b", "again")
        assert last["data"]["content"] == "answer 2 to again"
        assert unbroken(await client.history("a"))


async def test_everybody_who_follows_sees_the_same_order(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a", streaming=True)
        others = [room.connect() for _ in range(3)]
        for other in others:
            await resume(other, "a", disableResume=True)
        start = len(client.events("a"))
        await client.turn("a", "hello")
        expected = client.events("a")[start:]
        for other in others:
            await other.next_event("session.idle")
            assert other.events("a") == expected


async def test_messages_that_wait_are_answered_in_order(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        for number in range(3):
            await client.say("a", f"message {number}")
        for number in range(3):
            call = await room.model.next_call()
            assert call.request.messages[-1].content == f"message {number}"
            call.finish(f"answer {number}")
        await client.next_event("session.idle")
        assert client.types("a").count("session.idle") == 1
        assert unbroken(await client.history("a"))


async def test_a_request_that_waits_is_answered_when_the_session_is_idle(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.ask("session.send", {"sessionId": "a", "prompt": "x", "wait": True}, "w")
        (await room.model.next_call()).finish("done")
        assert (await client.answer("w"))["result"]["messageId"]
        kinds = [
            m.get("params", {}).get("event", {}).get("type", m.get("id")) for m in client.messages
        ]
        assert kinds.index("assistant.message") < kinds.index("w")


# What fails


async def test_a_turn_that_fails_is_told_and_the_next_one_works(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "hello")
        call = await room.model.next_call()
        call.say("half")
        call.fail("interrupted", "the stream was cut")
        error = await client.next_event("session.error")
        assert error["data"]["errorType"] == "interrupted"
        await client.next_event("session.idle")
        room.model.hold = False
        assert (await client.turn("a", "again"))["data"]["content"] == "answer 2 to again"


async def test_a_model_that_nobody_has_fails_the_turn_not_the_daemon(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        with pytest.raises(errors.ModelUnavailable):
            await client.create("a", model="nobody-has-it")
        await client.create("a")
        await client.turn("a", "hello")


async def test_a_message_that_is_too_long_can_be_taken_back_as_its_failure_says(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        await client.turn("a", "hello")
        room.model.context_window = 100
        for prompt in ("long " * 1000, "again"):
            await client.say("a", prompt)
            error = await client.next_event("session.error")
            assert error["data"]["errorType"] == "context_window"
            for way in ("`tertulia rewind`", "session.history.rewind"):
                assert way in error["data"]["message"]
            await client.next_event("session.idle")
        _, long, _ = (e for e in await client.history("a") if e["type"] == "user.message")
        back = {"sessionId": "a", "eventId": long["id"], "mode": "conversation"}
        done = await client.request("session.history.rewind", back)
        assert done["outcome"] == "success"
        assert (await client.turn("a", "again"))["data"]["content"] == "answer 2 to again"


class OddProvider:
    """Breaks the interface's promises."""

    name = "odd"

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Done]:
        yield Delta("half an answer")
        if str(request.messages[-1].content) == "raise":
            raise KeyError("sk-secret")


@pytest.mark.parametrize(("prompt", "kind"), [("raise", "server_error"), ("end", "bad_response")])
async def test_a_provider_that_breaks_its_promise_fails_the_turn(
    tmp_path: Path, prompt: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    async with pair(tmp_path) as (client, room):
        await client.create("a", streaming=True)
        room.model.stream = OddProvider().stream  # type: ignore[method-assign]
        await client.say("a", prompt)
        error = await client.next_event("session.error")
        assert error["data"]["errorType"] == kind
        await client.next_event("session.idle")
        assert "sk-secret" not in str(client.messages)


async def test_a_model_that_falls_silent_ends_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN_IDLE_TIMEOUT_S", 0.05)
    async with pair(tmp_path) as (client, room):
        await client.create("a", streaming=True)
        room.model.hold = True
        await client.say("a", "hello")
        call = await room.model.next_call()
        error = await client.next_event("session.error")
        assert error["data"]["errorType"] == "timeout"
        await client.next_event("session.idle")
        assert call.ended.is_set()


async def test_an_abort_closes_the_call_and_the_queue_goes_on(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "one")
        await client.say("a", "two")
        first = await room.model.next_call()
        assert (await client.request("session.abort", {"sessionId": "a"}))["success"] is True
        with anyio.fail_after(PATIENCE_S):
            await first.ended.wait()
        (await room.model.next_call()).finish("to two")
        assert (await client.next_event("assistant.message"))["data"]["content"] == "to two"
        await client.next_event("session.idle")
        log = types(await client.history("a"))
        assert log.count("assistant.turn_start") == log.count("assistant.turn_end") == 2


class FullDisk:
    """Stands before a room's store: while `full`, appends are refused."""

    def __init__(self, room: Room) -> None:
        self.full = False
        self._append = room.store.append
        room.store.append = self.append  # type: ignore[method-assign]

    def append(self, append: Any) -> Future[None]:
        if not self.full:
            return self._append(append)
        refused: Future[None] = Future()
        refused.set_exception(StoreFailed("The disk is full."))
        return refused


async def test_a_history_that_cannot_be_read_fails_the_turn_with_the_stores_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        await client.turn("a", "hello")
    async with pair(tmp_path) as (client, room):
        await resume(client, "a")
        read = room.store.read
        refused: Future[Any] = Future()
        refused.set_exception(StoreFailed("The file is damaged; `tertulia doctor` looks into it."))
        room.store.read = lambda *_: refused  # type: ignore[method-assign]
        await client.say("a", "and now?")
        told = (await client.next_event("session.error"))["data"]
        assert told["errorType"] == "server_error"
        assert told["message"] == "The file is damaged; `tertulia doctor` looks into it."
        assert "unexpected" not in caplog.text
        await client.next_event("session.idle")
        room.store.read = read  # type: ignore[method-assign]
        assert (await client.turn("a", "again"))["data"]["content"] == "answer 3 to again"


async def test_a_full_disk_ends_the_turn_for_who_watches_and_who_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    async with pair(tmp_path) as (client, room):
        disk = FullDisk(room)
        await client.create("a")
        room.model.hold = True
        await client.ask("session.send", {"sessionId": "a", "prompt": "x", "wait": True}, "w")
        call = await room.model.next_call()
        disk.full = True
        call.finish("an answer that cannot be kept")
        assert "disk" in (await client.next_event("session.error"))["data"]["message"]
        await client.next_event("session.idle")
        await client.answer("w")
        with pytest.raises(StoreFailed):
            await client.say("a", "refused")
        disk.full, room.model.hold = False, False
        await client.request("session.name.get", {"sessionId": "a"})
        told = (await client.next_event("session.error"))["data"]
        assert (told["errorType"], told["message"]) == ("turn_lost", turns.UNSTORED)
        await client.next_event("session.idle")
        assert (await client.turn("a", "again"))["data"]["content"] == "answer 2 to again"
        log = await client.history("a")
        assert types(log).count("assistant.turn_start") == types(log).count("assistant.turn_end")
        assert unbroken(log)


async def test_one_refused_commit_at_the_end_interrupts_the_turn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    async with pair(tmp_path) as (client, room):
        disk = FullDisk(room)
        await client.create("a")
        room.model.hold = True
        await client.ask("session.sendAndWait", {"sessionId": "a", "prompt": "x"}, "w")
        call = await room.model.next_call()
        really = disk.append

        def once(append: Any) -> Future[None]:
            disk.full = True
            refused = really(append)
            disk.full = False
            room.store.append = really  # type: ignore[method-assign]
            return refused

        room.store.append = once  # type: ignore[method-assign]
        call.finish("lost")
        error = await client.next_event("session.error")
        assert error["data"]["errorType"] == "turn_lost"
        refusal = (await client.answer("w"))["error"]
        assert refusal["message"] == "The turn's end could not be stored: The disk is full."
        await client.next_event("session.idle")
        assert types(await client.history("a"))[-2:] == ["assistant.turn_end", "session.error"]


# Names


async def test_an_id_that_is_taken_names_the_way_out(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        with pytest.raises(errors.SessionExists, match=r"session\.resume"):
            await client.create("a")
    async with pair(tmp_path) as (client, _):
        with pytest.raises(errors.SessionExists, match=r"session\.resume"):
            await client.create("a")
        assert (await client.create("a", ifExists="resume"))["resumed"] is True
        await client.turn("a", "hello")


async def test_an_id_that_was_only_asked_for_is_free(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.ask("session.resume", {"sessionId": "a"}, "r")
        await client.ask("session.create", {"sessionId": "a"}, "c")
        assert (await client.answer("r"))["error"]["data"]["kind"] == "session_not_found"
        assert (await client.answer("c"))["result"]["sessionId"] == "a"
        await client.turn("a", "hello")


async def test_of_two_that_create_one_id_at_once_one_is_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.ask("session.create", {"sessionId": "a"}, "1")
        await client.ask("session.create", {"sessionId": "a"}, "2")
        assert "result" in await client.answer("1")
        assert (await client.answer("2"))["error"]["data"]["kind"] == "session_exists"


async def test_who_is_not_attached_cannot_talk(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        stranger = room.connect()
        for method, more in (("session.send", {"prompt": "x"}), ("session.getMessages", {})):
            with pytest.raises(errors.SessionNotFound, match="Session not found"):
                await stranger.request(method, {"sessionId": "a", **more})
        await client.request("session.destroy", {"sessionId": "a"})
        with pytest.raises(errors.SessionNotFound):
            await client.say("a", "x")


async def test_a_session_deleted_in_its_turn_is_gone_at_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "x")
        call = await room.model.next_call()
        assert (await client.request("session.delete", {"sessionId": "a"}))["success"] is True
        with anyio.fail_after(PATIENCE_S):
            await call.ended.wait()
        await client.next_event("session.idle")
        assert (await client.request("session.list"))["sessions"] == []
        with pytest.raises(errors.SessionNotFound):
            await resume(client, "a")
        room.model.hold = False
        await client.create("a")
        assert (await client.turn("a", "new"))["data"]["content"] == "answer 1 to new"


# Across processes


async def test_a_session_goes_on_in_the_next_process(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create(
            "a", model="m", systemMessage={"mode": "replace", "content": "Be kind."}
        )
        await client.turn("a", "one")
        before = await client.history("a")
    async with pair(tmp_path) as (client, room):
        await resume(client, "a")
        assert (await client.turn("a", "two"))["data"]["content"] == "answer 2 to two"
        request = room.model.calls[0].request
        assert request.model == "m"
        assert [entry.content for entry in request.messages] == [
            "Be kind.",
            "one",
            "answer 1 to one",
            "two",
        ]
        log = await client.history("a")
        assert log[: len(before)] == before
        assert unbroken(log)


async def test_a_turn_that_was_cut_by_a_crash_says_so(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "acknowledged")
        await room.model.next_call()
    async with pair(tmp_path) as (client, _):
        await resume(client, "a")
        log = await client.history("a")
        assert types(log) == [
            "session.start",
            "user.message",
            "assistant.turn_start",
            "assistant.turn_end",
            "session.error",
            "session.resume",
        ]
        assert log[4]["data"]["errorType"] == "turn_lost"
        await client.turn("a", "again")
        assert unbroken(await client.history("a"))


async def test_a_message_that_waited_at_a_crash_has_its_turn(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "cut")
        waiting = await client.say("a", "waits")
        await room.model.next_call()
    async with pair(tmp_path) as (client, _):
        await resume(client, "a")
        answer = await client.next_event("assistant.message")
        assert answer["data"]["originatingMessageId"] == waiting["messageId"]
        assert answer["data"]["content"] == "answer 2 to waits"
        await client.next_event("session.idle")


async def test_every_session_is_served_after_a_crash(tmp_path: Path) -> None:
    names = {f"s{number}" for number in range(5)}
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        for name in names:
            await client.create(name)
            await client.say(name, f"to {name}")
    async with pair(tmp_path) as (client, _):
        listed = (await client.request("session.list"))["sessions"]
        assert {each["sessionId"] for each in listed} == names
        for name in names:
            await resume(client, name)
            assert (await client.turn(name, "again"))["data"]["content"] == "answer 2 to again"


async def test_a_turn_that_runs_in_another_daemon_is_left_alone(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room), pair(tmp_path) as (other, _):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "hello")
        call = await room.model.next_call()
        with pytest.raises(errors.TurnBusy, match="another daemon"):
            await resume(other, "a")
        call.finish("done")
        await client.next_event("session.idle")
        await resume(other, "a")
        assert (await other.turn("a", "from here"))["data"]["content"] == "answer 2 to from here"
        room.model.hold = False
        await client.say("a", "and here")
        answers = [await client.next_event("assistant.message") for _ in range(2)]
        assert [answer["data"]["content"] for answer in answers] == [
            "answer 2 to from here",  # written by the other daemon, and read from the log
            "answer 3 to and here",
        ]
        assert unbroken(await client.history("a"))


async def test_two_daemons_write_one_log(tmp_path: Path) -> None:
    async with pair(tmp_path) as (one, _), pair(tmp_path) as (two, _):
        await one.create("a")
        await resume(two, "a")
        asked = []
        for number in range(30):
            client = (one, two)[number % 2]
            note = {"sessionId": "a", "message": str(number)}
            asked.append((client, await client.ask("session.log", note)))
        answered = [(await client.answer(request_id))["result"] for client, request_id in asked]
        log = await one.history("a")
        notes = [event["id"] for event in log if event["type"] == "session.info"]
        assert sorted(notes) == sorted(answer["eventId"] for answer in answered)
        assert unbroken(log)


# Secrets


async def test_a_key_is_nowhere_but_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with pair(tmp_path) as (client, room):
        provider = {"baseUrl": "http://localhost:1/v1", "apiKey": "sk-verysecret"}
        await client.create("a", model="m", provider=provider)
        await client.request(
            "session.send",
            {"sessionId": "a", "prompt": "x", "requestHeaders": {"X-Key": "hd-verysecret"}},
        )
        await client.next_event("session.idle")
        await client.history("a")
        assert room.model.calls[0].request.headers == {"X-Key": "hd-verysecret"}
        assert "a" not in room.world.request_headers
        assert "verysecret" not in str(client.messages)
        kept = room.world.credentials.of("a", room.sessions.just_told("a").created_ms)
        assert kept is not None
        assert "verysecret" not in repr(kept.given)
        on_disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"localhost:1" in on_disk
        assert b"verysecret" not in on_disk
    assert "verysecret" not in caplog.text


async def test_a_key_is_used_for_its_session_alone(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        provider = {"baseUrl": "http://localhost:1/v1", "apiKey": "sk-one"}
        await client.create("a", model="m", provider=provider)
        await client.create("b", model="m")
        assert [each in room.world.credentials for each in ("a", "b")] == [True, False]
        await client.request("session.delete", {"sessionId": "a"})
        assert "a" not in room.world.credentials


async def test_who_attaches_in_the_middle_of_an_answer_gets_the_whole_and_then_pieces_again(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a", streaming=True)
        room.model.hold = True
        await client.say("a", "first")
        call = await room.model.next_call()
        call.say("one ")
        await client.next_event("assistant.message_delta")
        late = room.connect()
        await late.request("session.resume", {"sessionId": "a"})
        call.finish("and the rest")
        await late.next_event("session.idle")
        await client.say("a", "second")
        call = await room.model.next_call()
        call.finish("all of it")
        await late.until(lambda: late.types("a").count("session.idle") == 2)
        pieces = [e["data"]["deltaContent"] for e in late.events("a") if "delta" in e["type"]]
        whole = [e["data"]["content"] for e in late.events("a") if e["type"] == "assistant.message"]
        assert (pieces, whole) == (["all of it"], ["one and the rest", "all of it"])
