"""What is accepted is accepted once, on the sender's conditions, and gets its turn: now, or in the
next process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol import errors
from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import last_words
from tests.support.model_thread import ModelThread
from tests.support.pair import pair
from tests.support.wire import Wire, said

S = "a-session"


async def send(client: FramesClient, prompt: str, **more: Any) -> str:
    """The id that was answered."""
    params = {"sessionId": S, "prompt": prompt, **more}
    return str((await client.request("session.send", params))["messageId"])


async def prompts(client: FramesClient) -> list[str]:
    """What users have said, of messages whose turn has come."""
    stored = await client.history(S)
    return [e["data"]["content"] for e in stored if e["type"] == "user.message"]


async def end(client: FramesClient) -> int:
    tail = await client.request("session.eventLog.tail", {"sessionId": S})
    return int(tail["seq"])


# Once


@pytest.mark.anyio
async def test_a_message_with_a_known_key_is_not_accepted_again(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create(S)
        first = await send(client, "one", idempotencyKey="k1")
        call = await room.model.next_call()
        second = await send(client, "two", idempotencyKey="k2")
        before = await end(client)
        assert await send(client, "one", idempotencyKey="k1") == first
        assert await send(client, "two", idempotencyKey="k2") == second
        assert await end(client) == before, "nothing is written"
        call.finish("done")
        (await room.model.next_call()).finish("done")
        await client.next_event("session.idle", S)
        assert await send(client, "two", idempotencyKey="k2") == second
        assert await prompts(client) == ["one", "two"]


@pytest.mark.anyio
async def test_a_key_is_known_after_a_crash_and_only_in_its_session(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create(S)
        first = await send(client, "one", idempotencyKey="k1")
        second = await send(client, "two", idempotencyKey="k2")
    async with pair(tmp_path) as (client, _):
        await client.request("session.resume", {"sessionId": S})
        await client.next_event("session.idle", S)
        assert await send(client, "one", idempotencyKey="k1") == first
        assert await send(client, "two", idempotencyKey="k2") == second
        assert await prompts(client) == ["one", "two"]
        await client.create("another")
        params = {"sessionId": "another", "prompt": "x", "idempotencyKey": "k1"}
        assert (await client.request("session.send", params))["messageId"] != first


@pytest.mark.anyio
async def test_a_known_key_keeps_no_headers_and_waits_as_the_first_did(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        given = {"idempotencyKey": "k", "wait": True}
        first = await send(client, "one", **given)
        assert await send(client, "one", requestHeaders={"x-secret": "s"}, **given) == first
        room.model.hold = True
        await send(client, "runs")
        with pytest.raises(errors.TurnBusy):
            await send(client, "two", ifIdle=True, requestHeaders={"x-secret": "s"})
        assert S not in room.world.request_headers


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["", "k" * 201, 5])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, key: object) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create(S)
        with pytest.raises(errors.InvalidParams) as refused:
            await send(client, "x", idempotencyKey=key)
        assert refused.value.data is not None
        assert refused.value.data["path"] == "$.idempotencyKey"


# On conditions


@pytest.mark.anyio
async def test_a_message_for_an_idle_session_is_refused_while_a_turn_runs(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create(S)
        await send(client, "one", ifIdle=True)
        call = await room.model.next_call()
        with pytest.raises(errors.TurnBusy):
            await send(client, "two", ifIdle=True)
        call.finish("done")
        await client.next_event("session.idle", S)
        room.model.hold = False
        await send(client, "three", ifIdle=True, wait=True)
        assert await prompts(client) == ["one", "three"]


@pytest.mark.anyio
async def test_a_message_is_refused_where_the_log_has_moved(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        seen = await end(client)
        await room.connect().request("ping")
        await client.request("session.log", {"sessionId": S, "message": "somebody writes"})
        with pytest.raises(errors.SeqMoved) as refused:
            await send(client, "as of before", expectedSeq=seen)
        assert refused.value.data is not None
        now = refused.value.data["seq"]
        assert now == await end(client)
        await send(client, "as of now", expectedSeq=now, wait=True)
        assert await prompts(client) == ["as of now"]


@pytest.mark.anyio
async def test_of_two_who_send_as_of_the_same_place_one_is_accepted(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        other = room.connect()
        await other.request("session.resume", {"sessionId": S, "disableResume": True})
        seen = await end(client)
        params = {"sessionId": S, "prompt": "x", "expectedSeq": seen}
        asked = [(one, await one.ask("session.send", params)) for one in (client, other)]
        answers = [await one.answer(request) for one, request in asked]
        assert sorted("error" in answer for answer in answers) == [False, True]


@pytest.mark.anyio
async def test_a_known_key_is_answered_whatever_the_conditions_are(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create(S)
        seen = await end(client)
        conditions = {"idempotencyKey": "k", "ifIdle": True, "expectedSeq": seen}
        first = await send(client, "x", **conditions)
        assert await send(client, "x", **conditions) == first


# In the next process


PROVIDER = {"type": "openai", "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "a-key"}


@pytest.mark.anyio
async def test_what_waits_for_a_key_waits_for_the_resume_that_brings_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create(S, provider=PROVIDER)
        await send(client, "cut")
        await room.model.next_call()
        await send(client, "waits")
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": S})
        items = (await client.request("session.queue.pendingItems", {"sessionId": S}))["items"]
        assert [item["displayText"] for item in items] == ["waits"]
        (row,) = (await client.request("session.list"))["sessions"]
        assert row["pending"] == 1
        await send(client, "another")
        await send(client, "first", mode="immediate")
        inserted = {"prompt": "inserted", "mode": "immediate"}
        await client.request(
            "session.queue.insertAt", {"sessionId": S, "position": 0, "message": inserted}
        )
        (row,) = (await client.request("session.list"))["sessions"]
        assert row["pending"] == 4, "what is sent without the key waits with the others"
        assert room.model.calls == []

        await client.request("session.resume", {"sessionId": S, "provider": PROVIDER})
        for words in ("first", "inserted", "waits", "another"):
            assert last_words((await room.model.next_call()).request) == words
        await client.next_event("session.idle", S)
        (row,) = (await client.request("session.list"))["sessions"]
        assert "pending" not in row


def environment(model: ModelThread) -> dict[str, str]:
    """What names the model for the whole daemon: no client has to bring a key."""
    return {
        "COPILOT_PROVIDER_BASE_URL": model.base_url,
        "COPILOT_PROVIDER_API_KEY": "key-of-the-daemon",
        "COPILOT_MODEL": "fake",
    }


def pending(wire: Wire) -> dict[str, int]:
    rows = wire.call("session.list")["sessions"]
    return {row["sessionId"]: row.get("pending", 0) for row in rows}


def left_behind(daemon: DaemonProcess, *given: dict[str, Any]) -> str:
    """A session whose first message's turn hangs, with two more behind it."""
    session = daemon.wire.create(*given)
    for prompt in ("[[fake-hang]]", "[[say:one]]", "[[say:two]]"):
        daemon.wire.call("session.send", sessionId=session, prompt=prompt)
    return session


def answers(wire: Wire, session: str, count: int) -> list[str]:
    """The first answers of the model, once so many are stored."""
    found: list[str] = []
    given = {"sessionId": session, "types": ["assistant.message"], "waitMs": 30_000}
    while len(found) < count:
        page = wire.call("session.eventLog.read", **given)
        assert page["events"], "no more answers came"
        found += said(page["events"])
        given["cursor"] = page["cursor"]
    return found


def test_what_was_left_waiting_runs_after_a_kill_though_nobody_resumes_it(tmp_path: Path) -> None:
    with ModelThread() as model:
        home, env = tmp_path / "home", environment(model)
        with stdio_daemon(home, env=env) as daemon:
            open_to_all = left_behind(daemon)
            keyed = left_behind(daemon, model.provider("key-of-a-client"))
            paused = left_behind(daemon)
            daemon.wire.call("session.queue.setDrainPaused", sessionId=paused, paused=True)
            model.until_active(3)
            daemon.kill()

        with stdio_daemon(home, env=env) as again:
            model.until(lambda: len(model.chats) == 5)  # three before, two now
            again.wire.call("session.resume", sessionId=open_to_all)
            assert answers(again.wire, open_to_all, 2) == ["one", "two"]
            assert pending(again.wire) == {open_to_all: 0, keyed: 2, paused: 2}
            assert len(model.chats) == 5

            again.wire.call("session.resume", sessionId=paused)
            assert pending(again.wire)[paused] == 2
            again.wire.call("session.queue.setDrainPaused", sessionId=paused, paused=False)
            again.wire.event(paused, "session.idle")
            assert said(again.wire.history(paused)) == ["one", "two"]

            provider = model.provider("key-of-a-client")
            again.wire.call("session.resume", sessionId=keyed, provider=provider)
            again.wire.event(keyed, "session.idle")
            assert said(again.wire.history(keyed)) == ["one", "two"]
            assert pending(again.wire) == {open_to_all: 0, keyed: 0, paused: 0}


def test_a_second_daemon_leaves_alone_what_the_first_works_on(tmp_path: Path) -> None:
    with ModelThread() as model:
        home, env = tmp_path / "home", environment(model)
        with stdio_daemon(home, env=env) as first:
            session = left_behind(first)
            model.until_active(1)
            with stdio_daemon(home, env=env) as second:
                assert pending(second.wire) == {session: 2}
                other = second.wire.create()
                second.wire.turn(other, "[[say:mine]]")
                assert pending(second.wire)[session] == 2
            first.wire.call("session.abort", sessionId=session)
            first.wire.event(session, "session.idle")
            assert said(first.wire.history(session)) == ["one", "two"]
