"""A session is deleted while its turn begins or runs, also where that fails; and what else ends a
turn leaves nothing behind that says it runs."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import StoreFailed
from tertulia_protocol.layout import DATABASE_FILE
from tertuliad import limits
from tertuliad.replies import Reply, settled
from tertuliad.store.base import Append
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
        log = await other.history("a")
        said = [each["data"].get("content") for each in log]
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


async def test_a_session_that_is_being_changed_stays_and_the_change_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune comes between a change and its answer."""
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        await client.request("session.detach", {"sessionId": "a"})
        row = await settled(room.store.row("a"))
        append, stored, looked = room.store.append, anyio.Event(), anyio.Event()

        def told_late(wanted: Append) -> Reply:
            final, done = Reply(), append(wanted)

            async def tell() -> None:
                await settled(done)
                stored.set()
                await looked.wait()
                final.give(None)

            room.world.spawn(tell)
            return final

        monkeypatch.setattr(room.store, "append", told_late)
        change = {"sessionId": "a", "metadata": {"kept": True}}
        await client.ask("session.metadata.update", change, "change")
        with anyio.fail_after(PATIENCE_S):
            await stored.wait()
            assert await room.sessions.delete("a", known=row).settled() is None
        looked.set()
        assert "result" in await client.answer("change")
        monkeypatch.undo()
        await client.request("session.resume", {"sessionId": "a"})
        await client.turn("a", "it goes on")


async def test_what_is_sent_to_a_session_as_it_is_deleted_is_not_said_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        await client.create("a")
        held = hold_deletions(room, monkeypatch)
        await other.ask("session.delete", {"sessionId": "a"}, "delete")
        await other.request("ping")
        await other.ask("session.create", {"sessionId": "a"}, "create")
        await other.request("ping")
        await client.ask("session.send", {"sessionId": "a", "prompt": "for the first"}, "send")
        await client.request("ping")
        held.may_go.set()
        assert (await client.answer("send"))["error"]["data"]["kind"] == "session_not_found"
        assert "result" in await other.answer("create")
        log = await other.history("a")
        assert [each["type"] for each in log] == ["session.start"]


async def test_what_waits_in_a_session_as_it_is_deleted_is_not_said_to_the_next_one(
    tmp_path: Path,
) -> None:
    """A change of it is under way, a message behind that, and its deletion between the two."""
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        for number in range(20):
            asked = [
                ("session.metadata.update", {"sessionId": "a", "metadata": {"n": str(number)}}),
                ("session.send", {"sessionId": "a", "prompt": "for the first"}),
                ("session.delete", {"sessionId": "a"}),
                ("session.create", {"sessionId": "a"}),
            ]
            ids = [await client.ask(method, params) for method, params in asked]
            answers = [await client.answer(each) for each in ids]
            assert "result" in answers[-1]
            log = await client.history("a")
            assert [each["type"] for each in log] == ["session.start"]
        assert not room.world.running


async def test_who_resumes_a_session_whose_deletion_fails_is_told_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        await client.turn("a", "one")
        await client.request("session.detach", {"sessionId": "a"})
        other = room.connect()
        failed = Reply()
        monkeypatch.setattr(room.store, "delete", lambda *_: failed)
        provider = {"type": "openai", "baseUrl": "http://127.0.0.1:1/v1", "apiKey": "its key"}
        resume = {"sessionId": "a", "provider": provider, "model": "m"}
        await other.ask("session.resume", resume, "resume")
        await client.ask("session.delete", {"sessionId": "a"}, "delete")
        assert "result" in await other.answer("resume")
        await client.request("ping")
        failed.fail(StoreFailed("The disk is full."))
        assert "error" in await client.answer("delete")
        await other.turn("a", "two")
        told = [each["type"] for each in other.events("a")]
        assert told.count("session.start") == 0
        assert told.count("user.message") == 1
        given = room.models.given[-1]
        assert given is not None
        assert given.provider is not None
        assert given.provider.api_key == "its key"


async def test_a_session_that_is_deleted_before_it_is_resumed_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ifExists` finds one that is there, and goes."""
    async with pair(tmp_path) as (client, room), pair(tmp_path) as (there, _):
        await client.create("a")
        room.sessions.let_go()
        load = room.store.load

        def too_late(session_id: str, upto: int | None = None) -> Future[Any]:
            monkeypatch.setattr(room.store, "load", load)
            final = Reply()

            async def after_them() -> None:
                await there.request("session.delete", {"sessionId": "a"})
                load(session_id).add_done_callback(final.follow)

            room.world.spawn(after_them)
            return final

        other = room.connect()
        create = room.store.create

        def created(wanted: Append) -> Future[Any]:
            monkeypatch.setattr(room.store, "create", create)
            monkeypatch.setattr(room.store, "load", too_late)
            return create(wanted)

        monkeypatch.setattr(room.store, "create", created)
        made = await other.request("session.create", {"sessionId": "a", "ifExists": "resume"})
        assert made["sessionId"] == "a"
        assert not made.get("resumed")
