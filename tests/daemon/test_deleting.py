"""A session is deleted while its turn begins or runs, also where that fails; and what else ends a
turn leaves nothing behind that says it runs."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.layout import DATABASE_FILE
from tertuliad import limits
from tests.support.held_deletions import hold_deletions
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair

pytestmark = pytest.mark.anyio


async def test_a_session_that_is_deleted_as_its_turn_begins_tells_the_turns_end(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.ask("session.send", {"sessionId": "a", "prompt": "x"}, "send")
        await client.ask("session.delete", {"sessionId": "a"}, "delete")
        assert "result" in await client.answer("send")
        assert (await client.answer("delete"))["result"] == {"success": True}
        told = [each["type"] for each in client.events("a")]
        assert told[-2:] == ["assistant.turn_start", "session.idle"]
        assert told.count("session.idle") == 1
        assert not room.world.running


async def test_a_session_whose_history_is_not_loaded_does_not_run_once_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        for number in range(4):
            await client.turn("a", f"message {number}")
        room.sessions.let_go()
        await client.ask("session.send", {"sessionId": "a", "prompt": "x"}, "send")
        await client.ask("session.delete", {"sessionId": "a"}, "delete")
        await client.answer("delete")
        assert client.events("a")[-1]["type"] == "session.idle"
        assert not room.world.running


async def test_a_turn_that_a_failed_deletion_has_ended_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_BUSY_TIMEOUT_S", 0.2)
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.ask("session.sendAndWait", {"sessionId": "a", "prompt": "x"}, "waits")
        call = await room.model.next_call()
        await client.next_event("assistant.turn_start")
        with sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            await client.ask("session.delete", {"sessionId": "a"}, "delete")
            assert (await client.answer("delete"))["error"]["data"]["kind"] == "store_failed"
            other.execute("ROLLBACK")
        other.close()
        await call.ended.wait()
        assert "deleting it failed" in (await client.answer("waits"))["error"]["message"]
        assert (await client.next_event("session.error"))["data"]["errorType"] == "turn_lost"
        await client.next_event("session.idle")
        assert not room.world.running
        room.model.hold = False
        await client.turn("a", "and now?")
        told = [each["type"] for each in client.events("a")]
        assert told.count("session.idle") == told.count("assistant.turn_start") == 2


async def test_a_turn_that_follows_an_aborted_one_is_known_to_run(tmp_path: Path) -> None:
    """Its process says that it lives as long as it runs, and SIGTERM leaves it its grace."""
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = True
        await client.say("a", "one")
        await room.model.next_call()
        await client.say("a", "two")
        await client.request("session.abort", {"sessionId": "a"})
        second = await room.model.next_call()
        assert room.world.running == {"a"}
        second.finish("fine")
        await client.next_event("session.idle")
        assert not room.world.running


@pytest.mark.parametrize("method", ["session.suspend", "session.shutdown", "sessions.close"])
@pytest.mark.parametrize("runs", [True, False])
async def test_a_session_that_rests_leaves_memory(tmp_path: Path, method: str, runs: bool) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        room.model.hold = runs
        if runs:
            await client.say("a", "hello")
            await room.model.next_call()
        else:
            await client.turn("a", "hello")
        await client.request(method, {"sessionId": "a"})
        await client.request("ping")  # it goes once that is answered
        assert room.sessions.in_memory == 0


async def test_who_waits_for_a_session_to_be_idle_is_told_after_a_rewind(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        await client.turn("a", "hello")
        start = next(e for e in client.events("a") if e["type"] == "user.message")
        rewound = await client.ask(
            "session.history.truncate", {"sessionId": "a", "eventId": start["id"]}
        )
        waiting = room.sessions.when_idle("a")
        await client.answer(rewound)
        with anyio.fail_after(5):
            await waiting.settled()


async def test_a_session_that_is_made_while_one_of_its_id_is_deleted_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await client.create("a")
        await client.say("a", "of the first")
        held = hold_deletions(room, monkeypatch)
        await client.ask("session.delete", {"sessionId": "a"}, "delete")
        await client.request("ping")
        new = {"sessionId": "a", "ifExists": "resume"}
        await other.ask("session.create", new, "create")
        await other.request("ping")
        held.may_go.set()
        assert (await client.answer("delete"))["result"] == {"success": True}
        assert "result" in await other.answer("create")
        await other.say("a", "of the second")
        await other.next_event("session.idle", "a")
        log = await other.request("session.getMessages", {"sessionId": "a"})
        said = [each["data"].get("content") for each in log["events"]]
        assert "of the second" in said
        assert "of the first" not in said


async def test_of_two_who_delete_a_session_the_second_deletes_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await client.create("a")
        held = hold_deletions(room, monkeypatch)
        await client.ask("session.delete", {"sessionId": "a"}, "first")
        await other.ask("session.delete", {"sessionId": "a"}, "second")
        await other.ask("session.create", {"sessionId": "a"}, "create")
        await other.request("ping")
        held.may_go.set()
        assert (await client.answer("first"))["result"] == {"success": True}
        assert not (await other.answer("second"))["result"]["success"]
        assert "result" in await other.answer("create")
        listed = await other.request("session.list")
        assert [row["sessionId"] for row in listed["sessions"]] == ["a"]


async def test_who_follows_a_deleted_session_learns_it_though_its_outbox_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_HIGH_BYTES", 20_000)
    monkeypatch.setattr(limits, "OUTBOX_LOW_BYTES", 5_000)
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        room.model.hold = True
        await client.create("busy", streaming=True)
        await client.create("a")
        await client.say("busy", "x")
        call = await room.model.next_call()
        client.stop_reading()
        for _ in range(50):
            call.say("x" * 2000)
            await call.taken()
        await other.request("session.delete", {"sessionId": "a"})
        client.read_on()
        await client.next(
            lambda message: message.get("params", {}).get("type") == "session.deleted"
        )
        call.finish("x")
        await client.next_event("session.idle", "busy")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("session.resume", {}),
        ("session.metadata.update", {"metadata": {"kept": True}}),
        ("session.delete", {}),
    ],
)
async def test_what_is_asked_of_a_session_while_a_deletion_leaves_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, more: dict[str, Any]
) -> None:
    """A prune finds at the last moment that the session has come into use elsewhere."""
    async with pair(tmp_path) as (client, room), pair(tmp_path) as (there, _):
        await client.create("a")
        await client.request("session.detach", {"sessionId": "a"})
        held = hold_deletions(room, monkeypatch)
        pruning = await client.ask("sessions.pruneOld", {"olderThanDays": 0})
        with anyio.fail_after(PATIENCE_S):
            while not held.asked:
                await client.request("ping")
        for used, params in (("resume", {}), ("name.set", {"name": "kept"}), ("detach", {})):
            await there.request(f"session.{used}", {"sessionId": "a", **params})
        other = room.connect()
        asked = await other.ask(method, {"sessionId": "a", **more})
        await other.request("ping")
        held.may_go.set()
        answer = (await other.answer(asked))["result"]
        assert (await client.answer(pruning))["result"]["deleted"] == []
        left = (await other.request("session.list"))["sessions"]
        if method == "session.delete":
            assert answer == {"success": True}
            assert left == []
        else:
            assert [row["sessionId"] for row in left] == ["a"]
