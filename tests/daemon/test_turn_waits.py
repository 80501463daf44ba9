"""Who waits for the end of a message's turn is answered once, whatever becomes of the message."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol.errors import REQUEST_CANCELLED, SESSION_NOT_FOUND
from tertuliad import limits
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[FramesClient, Room]]:
    async with pair(tmp_path / "home") as (client, room):
        room.model.hold = True
        await client.create("a")
        yield client, room


async def stay(client: FramesClient, prompt: str, key: str | None = None) -> Any:
    """Ask with `sendAndWait`; the request's id."""
    params = {"sessionId": "a", "prompt": prompt, "idempotencyKey": key}
    return await client.ask("session.sendAndWait", params)


async def outcome(client: FramesClient, asked: Any) -> tuple[str | None, bool]:
    """The answer's text, and whether the turn was aborted."""
    result = (await client.answer(asked))["result"]
    response = result.get("response")
    return response and response["data"]["content"], result["aborted"]


async def test_who_sends_again_by_a_key_gets_the_answer_of_the_first(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    first = await stay(client, "hello", "k")
    call = await room.model.next_call()
    while_it_runs = await stay(client, "hello", "k")
    await client.request("ping")
    call.finish("the answer")
    assert await outcome(client, first) == ("the answer", False)
    assert await outcome(client, while_it_runs) == ("the answer", False)
    room.sessions.let_go()
    assert await outcome(client, await stay(client, "hello", "k")) == ("the answer", False)
    assert len(room.model.calls) == 1


async def test_who_sends_again_what_was_taken_out_learns_that_it_has_no_turn(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.say("a", "runs")
    call = await room.model.next_call()
    params = {"sessionId": "a", "prompt": "waits", "idempotencyKey": "k"}
    waits = (await client.request("session.send", params))["messageId"]
    await client.request("session.queue.removeAt", {"sessionId": "a", "id": waits})
    assert await outcome(client, await stay(client, "waits", "k")) == (None, True)
    call.finish("done")


async def test_who_sends_again_by_a_key_learns_how_the_first_failed(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    first = await stay(client, "hello", "k")
    (await room.model.next_call()).fail("server_error", "it broke")
    error = (await client.answer(first))["error"]
    assert error["data"]["errorType"] == "server_error"
    await client.request("session.log", {"sessionId": "a", "message": "mine", "level": "error"})
    assert (await client.answer(await stay(client, "hello", "k")))["error"] == error


async def test_who_sends_again_by_a_key_learns_that_the_first_was_aborted(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    first = await stay(client, "hello", "k")
    await room.model.next_call()
    await client.request("session.abort", {"sessionId": "a"})
    assert await outcome(client, first) == (None, True)
    assert await outcome(client, await stay(client, "hello", "k")) == (None, True)


@pytest.mark.parametrize("method", ["removeAt", "clear", "removeMostRecent"])
async def test_a_message_that_is_taken_out_answers_who_waits_for_it(
    both: tuple[FramesClient, Room], method: str
) -> None:
    client, room = both
    await client.say("a", "it runs")
    call = await room.model.next_call()
    asked = await stay(client, "it waits")
    items = (await client.request("session.queue.pendingItems", {"sessionId": "a"}))["items"]
    params = {"sessionId": "a", **({"id": items[0]["id"]} if method == "removeAt" else {})}
    await client.request(f"session.queue.{method}", params)
    assert await outcome(client, asked) == (None, True)
    call.finish("done")
    await client.next_event("session.idle")


async def test_a_suspended_session_still_answers_who_waits(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.say("a", "it runs")
    await room.model.next_call()
    asked = await stay(client, "it waits")
    await client.request("session.suspend", {"sessionId": "a"})
    room.sessions.let_go()
    await client.request("session.resume", {"sessionId": "a"})
    (await room.model.next_call()).finish("here it is")
    assert await outcome(client, asked) == ("here it is", False)


async def test_a_session_that_is_closed_leaves_what_waits_waiting(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.say("a", "it runs")
    await room.model.next_call()
    await client.say("a", "it waits")
    await client.request("sessions.close", {"sessionId": "a"})
    row = (await client.request("session.getMetadata", {"sessionId": "a"}))["session"]
    assert row["pending"] == 1
    await client.request("session.resume", {"sessionId": "a"})
    (await room.model.next_call()).finish("here it is")
    assert len(room.model.calls) == 2


async def test_deleting_many_forgets_their_keys(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    provider = {"baseUrl": "http://127.0.0.1:1/v1", "apiKey": "a-key"}
    await client.create("b", provider=provider)
    assert "b" in room.world.credentials
    await client.request("sessions.bulkDelete", {"sessionIds": ["b"]})
    assert "b" not in room.world.credentials


async def test_who_waits_for_an_idle_session_waits_while_a_paused_queue_holds_the_message(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    paused = {"sessionId": "a", "paused": True}
    await client.request("session.queue.setDrainPaused", paused)
    asked = await client.ask("session.send", {"sessionId": "a", "prompt": "later", "wait": True})
    items = (await client.request("session.queue.pendingItems", {"sessionId": "a"}))["items"]
    assert [item["displayText"] for item in items] == ["later"]
    assert not [answer for answer in client.answers() if answer["id"] == asked]
    await client.request("session.queue.setDrainPaused", {**paused, "paused": False})
    (await room.model.next_call()).finish("done")
    assert (await client.answer(asked))["result"]["messageId"] == items[0]["id"]


@pytest.mark.parametrize("method", ["session.sendAndWait", "session.send"])
async def test_who_cancels_or_leaves_waits_no_more(
    both: tuple[FramesClient, Room], method: str
) -> None:
    client, room = both
    await client.request("session.queue.setDrainPaused", {"sessionId": "a", "paused": True})
    sent = {"sessionId": "a", "prompt": "later", "idempotencyKey": "k", "wait": True}
    asked = await client.ask(method, sent)
    other = room.connect()
    await other.request("session.resume", {"sessionId": "a"})
    await other.ask(method, sent)
    await other.request("session.queue.pendingItems", {"sessionId": "a"})
    assert room.sessions.waited_for()
    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": asked}}
    await client.send(cancel)
    assert (await client.answer(asked))["error"]["code"] == REQUEST_CANCELLED
    assert room.sessions.waited_for()
    room.connection_of[other].abort()
    await room.gone(other)
    assert not room.sessions.waited_for()
    items = (await client.request("session.queue.pendingItems", {"sessionId": "a"}))["items"]
    assert [item["displayText"] for item in items] == ["later"]


async def test_who_leaves_before_the_message_is_accepted_waits_no_more(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.request("session.queue.setDrainPaused", {"sessionId": "a", "paused": True})
    other = room.connect()
    await other.request("session.resume", {"sessionId": "a"})
    free = threading.Event()
    room.store._writer.submit_bare(lambda _: free.wait(PATIENCE_S))
    await other.ask("session.sendAndWait", {"sessionId": "a", "prompt": "later"})
    await other.request("ping")
    room.connection_of[other].abort()
    await room.gone(other)
    free.set()
    items = (await client.request("session.queue.pendingItems", {"sessionId": "a"}))["items"]
    assert [item["displayText"] for item in items] == ["later"]
    assert not room.sessions.waited_for()


@pytest.mark.parametrize("method", ["session.sendAndWait", "session.send"])
async def test_who_waits_learns_that_the_session_was_deleted(
    both: tuple[FramesClient, Room], method: str
) -> None:
    client, _ = both
    asked = await client.ask(method, {"sessionId": "a", "prompt": "q", "wait": True})
    await client.request("session.name.get", {"sessionId": "a"})
    await client.request("session.delete", {"sessionId": "a"})
    assert (await client.answer(asked))["error"]["code"] == SESSION_NOT_FOUND


async def test_a_client_that_lags_hears_of_the_idle_that_its_answer_names_and_once(
    both: tuple[FramesClient, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, room = both
    monkeypatch.setattr(limits, "OUTBOX_HIGH_BYTES", 1000)
    for prompt in ("one", "two"):
        asked = await stay(client, prompt)
        (await room.model.next_call()).finish("x" * 10_000)
        answer = (await client.answer(asked))["result"]
        idle = await client.next_event("session.idle")
        assert idle["id"] == answer["completionEventId"]
    await client.request("session.name.get", {"sessionId": "a"})
    ids = [event["id"] for event in client.events("a") if event["type"] == "session.idle"]
    assert len(ids) == len({*ids}) == 2


async def test_a_client_that_lags_hears_that_its_session_was_shut_down_in_the_middle_of_a_turn(
    both: tuple[FramesClient, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, room = both
    other = room.connect()
    await client.create("b", streaming=True)
    await other.request("session.resume", {"sessionId": "b", "disableResume": True})
    await client.say("b", "one")
    call = await room.model.next_call()
    await client.next_event("assistant.turn_start", "b")
    monkeypatch.setattr(limits, "OUTBOX_HIGH_BYTES", 20_000)
    monkeypatch.setattr(limits, "OUTBOX_LOW_BYTES", 5_000)
    client.stop_reading()
    for _ in range(100):
        call.say("x" * 1000)
        await call.taken()
    await other.request("session.shutdown", {"sessionId": "b"})
    client.read_on()
    idle = await client.next_event("session.idle", "b")
    assert idle["data"] == {"aborted": True}


async def test_who_waits_for_an_idle_session_is_answered_though_it_is_rewound_at_once(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    params = {"sessionId": "a", "prompt": "hello"}
    first = await client.ask("session.send", params)
    (await room.model.next_call()).finish("there")
    await client.answer(first)
    await client.next_event("session.idle")
    points = await client.request("session.history.listRewindPoints", {"sessionId": "a"})
    waits = await client.ask("session.send", {**params, "wait": True})
    await client.ask("session.abort", {"sessionId": "a"})
    back = {"sessionId": "a", "eventId": points["points"][0]["eventId"], "mode": "conversation"}
    rewound = await client.ask("session.history.rewind", back)
    assert (await client.answer(rewound))["result"]["outcome"] == "success"
    assert "result" in await client.answer(waits)
