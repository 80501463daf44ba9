"""A commit that the store refuses while a turn runs: the turn goes on, and ends for who waits."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path

import anyio
import pytest

from tertulia_protocol.errors import SessionNotFound, StoreFailed
from tertuliad import limits
from tertuliad.replies import Reply
from tertuliad.store.base import Append
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import Call
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

Running = tuple[FramesClient, Room, Call]


async def refused(client: FramesClient, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose commit fails."""

    def fails(_: Append) -> Reply:
        return Reply.failed(StoreFailed("The session store is held.", retry_ms=1))

    with monkeypatch.context() as patch:
        patch.setattr(room.store, "append", fails)
        with pytest.raises(StoreFailed):
            await client.request("session.name.set", {"sessionId": "a", "name": "x"})


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A session whose turn runs, and whose state was forgotten with a refused commit."""
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create("a")
        await client.say("a", "think")
        call = await room.model.next_call()
        await call.taken()
        await refused(client, room, monkeypatch)
        yield client, room, call


async def test_the_session_stays_in_memory_and_the_turn_is_answered(running: Running) -> None:
    client, room, call = running
    room.sessions.let_go()
    assert room.sessions.works("a")
    asked = await client.request("session.metadata.isProcessing", {"sessionId": "a"})
    assert asked["processing"]
    call.finish("the answer")
    await client.next_event("session.idle", "a")
    assert "the answer" in [event["data"].get("content") for event in client.events("a")]


async def test_who_waits_for_the_idle_session_is_answered_though_the_next_commit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create("a")
        message = {"sessionId": "a", "prompt": "think", "wait": True}
        waits = await client.ask("session.send", message)
        await (await room.model.next_call()).taken()
        append, given = room.store.append, list[Append]()

        def only_the_abort(each: Append) -> Future[None]:
            given.append(each)
            full = StoreFailed("The session store is full.")
            return append(each) if len(given) == 1 else Reply.failed(full)

        monkeypatch.setattr(room.store, "append", only_the_abort)
        await client.ask("session.abort", {"sessionId": "a"})
        named = await client.ask("session.name.set", {"sessionId": "a", "name": "x"})
        assert "error" in await client.answer(named)
        assert len(given) == 2
        assert "result" in await client.answer(waits)


async def test_another_daemons_commit_does_not_end_it(running: Running, tmp_path: Path) -> None:
    client, _, call = running
    async with pair(tmp_path) as (there, _):
        await there.create("unrelated")
        await client.create("here")
    await client.request("session.metadata.isProcessing", {"sessionId": "a"})
    call.finish("the answer")
    await client.next_event("session.idle", "a")
    assert "the answer" in [event["data"].get("content") for event in client.events("a")]


async def test_a_stop_waits_for_it(running: Running) -> None:
    client, room, call = running
    ended = room.engine.turns_ended()
    assert not ended.done()
    call.finish("the answer")
    await ended.settled()
    await client.next_event("session.idle", "a")


async def test_a_stop_interrupts_it(running: Running) -> None:
    client, room, _ = running
    await room.engine.interrupt().settled()
    await client.next_event("session.idle", "a")


async def test_a_deletion_ends_it(running: Running) -> None:
    client, _, _ = running
    await client.request("session.delete", {"sessionId": "a"})
    await client.next_event("session.idle", "a")


def silent(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take the daemon for gone."""
    monkeypatch.setattr(limits, "LEASE_BEAT_S", 1e6)
    mark = room.engine.owners._file(room.engine.owners.me)
    os.utime(mark, (time.time() - limits.LEASE_S * 2,) * 2)


async def test_a_turn_that_another_daemon_has_ended_meanwhile_is_over(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, room, call = running
    silent(room, monkeypatch)
    async with pair(tmp_path) as (there, _):
        await there.request("session.resume", {"sessionId": "a"})
        asked = await client.request("session.metadata.isProcessing", {"sessionId": "a"})
    assert not asked["processing"]
    await client.next_event("session.error", "a")
    await client.next_event("session.idle", "a")
    with anyio.fail_after(limits.SHUTDOWN_GRACE_S):
        await call.ended.wait()


async def test_a_turn_whose_session_another_daemon_has_deleted_meanwhile_is_over(
    running: Running, tmp_path: Path
) -> None:
    client, room, call = running
    async with pair(tmp_path) as (there, _):
        await there.request("session.delete", {"sessionId": "a"})
    with pytest.raises(SessionNotFound):
        await client.request("session.metadata.isProcessing", {"sessionId": "a"})
    await client.next_event("session.idle", "a")
    with anyio.fail_after(limits.SHUTDOWN_GRACE_S):
        await call.ended.wait()
    assert not room.world.running


async def test_a_turn_is_not_taken_for_that_of_the_next_session_of_its_id(
    running: Running, tmp_path: Path
) -> None:
    client, _, call = running
    async with pair(tmp_path) as (there, other):
        other.model.hold = True
        await there.request("session.delete", {"sessionId": "a"})
        await there.create("a")
        await there.say("a", "another question")
        theirs = await other.model.next_call()
        with pytest.raises(SessionNotFound):
            await client.request("session.metadata.isProcessing", {"sessionId": "a"})
        with anyio.fail_after(limits.SHUTDOWN_GRACE_S):
            await call.ended.wait()
        theirs.finish("the new answer")
        await there.next_event("session.idle", "a")
        log = await there.history("a")
    said = [event["data"].get("content") for event in log]
    assert said.count("the new answer") == 1


async def test_an_owner_that_wakes_while_its_turn_is_ended_elsewhere_costs_no_other_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken for gone, and writes between the other daemon's look and its commit."""
    monkeypatch.setattr(limits, "OTHERS_LOOK_S", 1e6)
    async with pair(tmp_path) as (there, owner), pair(tmp_path) as (client, room):
        owner.model.hold = True
        await there.create("a")
        await there.say("a", "one")
        await owner.model.next_call()
        await there.say("a", "two")  # waits
        silent(owner, monkeypatch)
        append = room.store.append

        def overtaken(wanted: Append) -> Reply:
            monkeypatch.setattr(room.store, "append", append)
            final = Reply()

            async def late() -> None:
                line = {"sessionId": "a", "message": "I am back"}
                await there.request("session.log", line)
                append(wanted).add_done_callback(final.follow)

            room.world.spawn(late)
            return final

        monkeypatch.setattr(room.store, "append", overtaken)
        await client.request("session.resume", {"sessionId": "a", "disableResume": True})
        with anyio.fail_after(limits.SHUTDOWN_GRACE_S):
            await client.next_event("assistant.message", "a")
        await client.next_event("session.idle", "a")
        log = await client.history("a")
        kinds = [event["type"] for event in log]
        assert kinds.count("session.error") == kinds.count("assistant.message") == 1
