"""Sessions share nothing, and what is gone is gone: an id that is used again starts afresh, a list
in pages is one list whatever happens to it meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.frames_client import FramesClient
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

PROVIDER = {"type": "openai", "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "key-of-the-old"}
SETTINGS = {
    "provider": PROVIDER,
    "model": "old-model",
    "streaming": True,
    "workingDirectory": "/old",
    "systemMessage": {"mode": "replace", "content": "You are the old one."},
    "clientName": "old-client",
}


async def lived_in(client: FramesClient, room: Room, session_id: str) -> None:
    """A session in which a lot has happened, with a turn that runs and a message that waits."""
    await client.create(session_id, **SETTINGS)
    await client.turn(session_id, "oldwords were said")
    await client.request("session.name.set", {"sessionId": session_id, "name": "Old name"})
    update = {"sessionId": session_id, "metadata": {"old": True}, "archived": True}
    await client.request("session.metadata.update", update)
    room.model.hold = True
    for key in ("running", "waiting"):
        send = {
            "sessionId": session_id,
            "prompt": f"{key} oldwords",
            "idempotencyKey": key,
            "requestHeaders": {"X-Old": key},
        }
        await client.request("session.send", send)
    await room.model.next_call()
    await room.model.next_call()
    room.model.hold = False


async def check_fresh(client: FramesClient, room: Room, session_id: str) -> None:
    """Nothing of `lived_in` is there in a session that was made with no settings."""
    stored = await client.history(session_id)
    assert [event["type"] for event in stored] == ["session.start"]
    found = await client.request("session.getMetadata", {"sessionId": session_id})
    row = found["session"]
    for name in ("name", "metadata", "clientName", "model", "pending", "archived", "named"):
        assert not row.get(name), name
    assert (await client.request("sessions.search", {"text": "oldwords"}))["hits"] == []
    usage = await client.request("session.usage.getMetrics", {"sessionId": session_id})
    assert (usage["modelMetrics"], usage["totalUserRequests"]) == ({}, 0)
    assert session_id not in room.world.credentials
    assert session_id not in room.world.request_headers
    calls = len(room.model.calls)
    send = {"sessionId": session_id, "prompt": "new", "idempotencyKey": "running", "wait": True}
    await client.request("session.send", send)
    assert len(room.model.calls) == calls + 1, "its key was taken for a known one"
    request = room.model.calls[-1].request
    assert [m.content for m in request.messages if m.role == "user"] == ["new"]
    assert (request.model, request.stream) == ("default-model", False)
    assert all("old one" not in str(message.content) for message in request.messages)
    assert request.headers == {}


DELETIONS: dict[str, dict[str, Any]] = {
    "session.delete": {"sessionId": "s"},
    "sessions.bulkDelete": {"sessionIds": ["s"]},
}


@pytest.mark.parametrize("method", DELETIONS)
async def test_an_id_that_is_used_again_starts_afresh(tmp_path: Path, method: str) -> None:
    async with pair(tmp_path) as (client, room):
        await lived_in(client, room, "s")
        watcher = room.connect()
        await watcher.request("session.resume", {"sessionId": "s", "disableResume": True})
        heard = len(watcher.events("s"))
        await client.request(method, DELETIONS[method])
        await client.create("s")
        await check_fresh(client, room, "s")
        await watcher.request("ping")
        late = {event["type"] for event in watcher.events("s")[heard:]}
        assert late <= {"abort", "session.idle"}, "it followed the old one"
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "s"})
        stored = await client.history("s")
        said = [e["data"]["content"] for e in stored if e["type"] == "user.message"]
        assert said == ["new"]


@pytest.mark.parametrize("method", DELETIONS)
async def test_who_makes_a_session_while_its_id_is_being_deleted_keeps_it(
    tmp_path: Path, method: str
) -> None:
    """Both are asked in one go, so that one commit may hold them."""
    async with pair(tmp_path) as (client, room):
        await lived_in(client, room, "s")
        deleted = await client.ask(method, DELETIONS[method])
        made = await client.ask("session.create", {"sessionId": "s"})
        assert "result" in await client.answer(deleted)
        assert "result" in await client.answer(made)
        await check_fresh(client, room, "s")
        notes = [
            message["params"]["type"]
            for message in client.messages
            if message.get("method") == "session.lifecycle"
        ]
        assert notes.index("session.deleted") < len(notes) - 1 - notes[::-1].index(
            "session.created"
        )


async def test_a_fork_outlives_an_id_that_is_used_again(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        await client.turn("s", "shared")
        await client.request("sessions.fork", {"sessionId": "s", "newSessionId": "child"})
        await client.request("session.delete", {"sessionId": "s"})
        await client.create("s")
        await client.turn("s", "the new one's")
        await client.request("session.resume", {"sessionId": "child"})
        await client.turn("child", "the child's")
        said = [m.content for m in room.model.calls[-1].request.messages if m.role == "user"]
        assert said == ["shared", "the child's"]


async def test_a_list_in_pages_is_one_list_while_sessions_come_and_go(tmp_path: Path) -> None:
    """Who was there before the first page, and is there after the last, is listed once."""
    stays = [f"stays-{number:03}" for number in range(170)]
    goes = [f"goes-{number:03}" for number in range(80)]
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        for name in sorted([*stays, *goes], key=lambda name: name[-3:]):
            await client.create(name)
        seen: list[str] = []
        cursor = None
        pages = 0
        while pages == 0 or cursor is not None:
            page = await client.request("session.list", {"limit": 30, "cursor": cursor})
            seen += [row["sessionId"] for row in page["sessions"]]
            cursor = page.get("cursor")
            pages += 1
            await other.create(f"comes-{pages}")
            gone = [goes.pop() for _ in range(min(9, len(goes)))]
            await other.request("sessions.bulkDelete", {"sessionIds": gone})
        assert pages >= 7
        assert [name for name in seen if name in stays] == stays[::-1]
        assert len(seen) == len({*seen})
        assert not [name for name in seen if name.startswith("comes")]
        whole = (await client.request("session.list"))["sessions"]
        assert len(whole) == len(stays) + len(goes) + pages


async def test_what_one_session_was_given_no_other_one_uses(tmp_path: Path) -> None:
    """Three sessions of one client; one has settings, and its turns run between the others'."""
    async with pair(tmp_path) as (client, room):
        await client.create("before")
        await client.create("given", **SETTINGS)
        await client.create("after")
        given = {"sessionId": "given", "prompt": "x", "requestHeaders": {"X-Old": "1"}}
        await client.request("session.send", {**given, "wait": True})
        for name in ("before", "after"):
            await client.turn(name, "x")
            request = room.model.calls[-1].request
            assert (request.model, request.stream) == ("default-model", False)
            assert request.headers == {}
            assert all("old one" not in str(message.content) for message in request.messages)
            found = await client.request("session.getMetadata", {"sessionId": name})
            assert found["session"]["context"]["cwd"] != "/old"
        kept = room.world.credentials
        assert [each in kept for each in ("before", "given", "after")] == [False, True, False]
        await client.turn("given", "y")
        assert room.model.calls[-1].request.headers == {}, "they were for one message"
