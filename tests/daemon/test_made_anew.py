"""An id may be another session's by now: whoever is attached to the first one reads nothing of the
next, changes nothing in it, is told nothing of it, and costs it nothing."""

from __future__ import annotations

import os.path
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import SessionNotFound, StoreFailed
from tertuliad.replies import Reply, settled
from tertuliad.store.base import Known, News, Row
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S, Call
from tests.support.pair import Room, pair

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("looks_far_apart")]

S = "a-session"
AT = {"sessionId": S}


@asynccontextmanager
async def two(home: Path) -> AsyncIterator[tuple[FramesClient, Room, FramesClient]]:
    """Two daemons on one home; the first one's client follows a session of some turns."""
    async with pair(home) as (here, room), pair(home) as (there, _):
        await here.create(S, model="m", streaming=True)
        for number in range(3):
            await here.turn(S, f"old {number}")
            await room.model.next_call()
        yield here, room, there


async def made_anew(there: FramesClient) -> None:
    """By the other daemon, which this one has not heard of yet."""
    await there.request("session.delete", AT)
    await there.create(S, model="m")


async def running(here: FramesClient, room: Room) -> Call:
    """A turn of the first session runs here."""
    room.model.hold = True
    await here.say(S, "old and long")
    call = await room.model.next_call()
    call.say("old words")
    await here.next_event("assistant.message_start", S)
    return call


def told_of(client: FramesClient, kind: str) -> int:
    """How often the client was told this of the session."""
    notes = [note for note in client.messages if note.get("method") == "session.lifecycle"]
    return sum(note["params"] == {"type": kind, **AT} for note in notes)


async def log_of(client: FramesClient) -> list[str]:
    return [event["type"] for event in await client.history(S)]


READS: dict[str, dict[str, Any]] = {
    "session.getMessages": {},
    "session.eventLog.read": {},
    "session.eventLog.tail": {},
    "session.history.listRewindPoints": {},
    "session.metadata.snapshot": {},
    "session.name.get": {},
    "session.queue.pendingItems": {},
}
CHANGES: dict[str, dict[str, Any]] = {
    "session.abort": {},
    "session.log": {"message": "to the first"},
    "session.metadata.setWorkingDirectory": {"workingDirectory": "/"},
    "session.model.switchTo": {"modelId": "other"},
    "session.name.set": {"name": "of the first"},
    "session.options.update": {
        "provider": {"type": "openai", "baseUrl": "http://localhost:1/v1", "apiKey": "sk-first"}
    },
    "session.queue.clear": {},
    "session.queue.insertAt": {"position": 0, "message": {"prompt": "to the first"}},
    "session.queue.setDrainPaused": {"paused": True},
    "session.send": {"prompt": "to the first"},
    "session.shutdown": {},
    "session.suspend": {},
}


@pytest.mark.parametrize(("method", "params"), {**READS, **CHANGES}.items())
async def test_what_is_asked_of_the_first_session_is_not_done_in_the_next(
    tmp_path: Path, method: str, params: dict[str, Any]
) -> None:
    async with two(tmp_path) as (here, room, there):
        await made_anew(there)
        with pytest.raises(SessionNotFound):
            await here.request(method, {**AT, **params})
        assert await log_of(there) == ["session.start"]
        assert S not in room.world.credentials


async def test_where_a_folder_is_slow_the_next_session_is_not_moved_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, may_go, isdir = threading.Event(), threading.Event(), os.path.isdir

    def slow(folder: str) -> bool:
        looked.set()
        assert may_go.wait(PATIENCE_S)
        return isdir(folder)

    async with pair(tmp_path) as (client, room):
        await client.create(S)
        other = room.connect()
        monkeypatch.setattr(os.path, "isdir", slow)
        moved = {**AT, "workingDirectory": str(tmp_path)}
        asked = await client.ask("session.metadata.setWorkingDirectory", moved)
        assert await anyio.to_thread.run_sync(looked.wait, PATIENCE_S)
        await made_anew(other)
        may_go.set()
        assert (await client.answer(asked))["error"]["data"]["kind"] == "session_not_found"
        assert await log_of(other) == ["session.start"]


@pytest.mark.parametrize("again", [False, True])
async def test_the_next_session_is_not_taken_for_the_first_that_is_gone(
    tmp_path: Path, again: bool
) -> None:
    """Though its log is shorter: who takes it up here keeps it, with the turn that runs."""
    async with two(tmp_path) as (here, room, there):
        await made_anew(there)
        user = here if again else room.connect()
        await user.request("session.resume", AT)
        assert told_of(here, "session.deleted") == 1
        room.model.hold = True
        await user.say(S, "new")
        call = await room.model.next_call()
        await room.look()
        call.finish("the answer")
        await user.next_event("session.idle", S)
        assert "the answer" in [e["data"].get("content") for e in user.events(S)]
        assert told_of(here, "session.deleted") == 1


async def test_a_session_that_is_made_while_its_id_is_looked_for_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        ahead = room.store.ahead

        def between(known: dict[str, Known]) -> Reply:
            found = Reply()

            async def run() -> None:
                await client.request("session.delete", AT)
                news = await settled(ahead(known))
                assert news == News(gone=[S])
                await client.create(S)
                found.give(news)

            room.world.spawn(run)
            return found

        monkeypatch.setattr(room.store, "ahead", between)
        await room.look()
        monkeypatch.undo()
        await client.turn(S, "still there?")
        assert told_of(client, "session.deleted") == 1


@pytest.mark.parametrize("how", ["forked", "imported"])
async def test_a_turn_of_the_first_session_is_not_heard_in_the_next(
    tmp_path: Path, how: str
) -> None:
    async with two(tmp_path) as (here, room, there):
        maker = room.connect()
        await maker.create("x", model="m")
        call = await running(here, room)
        await there.request("session.delete", AT)
        if how == "forked":
            await maker.request("sessions.fork", {"sessionId": "x", "newSessionId": S})
        else:
            document = (await maker.request("session.export", {"sessionId": "x"}))["document"]
            await maker.request("session.import", {**AT, "document": document})
        assert here.types(S)[-1] == "session.idle"
        with anyio.fail_after(PATIENCE_S):
            await call.ended.wait()
        await maker.request("session.resume", {**AT, "disableResume": True})
        room.model.hold = False
        await maker.turn(S, "new")
        assert "old words" not in str(maker.events(S))
        assert here.types(S)[-1] == "session.idle"


@pytest.mark.parametrize("how", ["created", "resumed", "resumed silently"])
async def test_the_next_session_is_made_and_taken_up_while_a_turn_of_the_first_runs(
    tmp_path: Path, how: str
) -> None:
    async with two(tmp_path) as (here, room, there):
        user = room.connect()
        call = await running(here, room)
        await there.request("session.delete", AT)
        if how == "created":
            await user.create(S)
        else:
            await there.create(S, model="m")
            silent = how == "resumed silently"
            await user.request("session.resume", {**AT, "disableResume": silent})
        with anyio.fail_after(PATIENCE_S):
            await call.ended.wait()
        room.model.hold = False
        await user.turn(S, "new")
        said = [e["data"]["content"] for e in user.events(S) if e["type"] == "user.message"]
        assert said == ["new"]
        assert here.types(S)[-1] == "session.idle"
        with pytest.raises(SessionNotFound):
            await here.request("session.getMessages", AT)


async def test_a_deletion_that_was_done_and_refused_is_heard_of_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk fails to sync it."""
    async with pair(tmp_path) as (client, room):
        provider = {"type": "openai", "baseUrl": "http://localhost:1/v1", "apiKey": "sk"}
        await client.create(S, model="m", provider=provider)
        delete = room.store.delete

        def unsynced(session_ids: list[str], known: Row | None = None) -> Reply:
            refused = Reply()

            def done(_: object) -> None:
                refused.fail(StoreFailed("the disk is broken"))

            delete(session_ids, known).add_done_callback(done)
            return refused

        with monkeypatch.context() as patch:
            patch.setattr(room.store, "delete", unsynced)
            with pytest.raises(StoreFailed):
                await client.request("session.delete", AT)
        answer = await client.request("session.delete", AT)
        assert not answer["success"]
        assert told_of(client, "session.deleted") == 1
        assert S not in room.world.credentials
        with pytest.raises(SessionNotFound):
            await client.request("session.getMessages", AT)
