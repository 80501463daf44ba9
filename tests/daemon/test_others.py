"""Who follows a session hears what other daemons on the same home write to it, in order and once;
a daemon that is alone reads nothing for it.

Daemons look when the test says so; their own looks are far apart.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import SessionNotFound, StoreFailed, TurnBusy
from tertuliad import limits
from tertuliad.replies import Reply
from tertuliad.sessions import history
from tertuliad.store.base import Append, HeadMoved, Known, Range
from tests.support.frames_client import FramesClient, Message
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Room, pair

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("looks_far_apart")]

S = "a-session"
TURN_STARTS = ["user.message", "assistant.turn_start"]
TURN_ENDS = ["assistant.message", "assistant.turn_end", "session.idle"]


@asynccontextmanager
async def two(home: Path) -> AsyncIterator[tuple[FramesClient, Room, FramesClient, Room]]:
    """Two daemons on one home, whose clients both follow one session."""
    async with pair(home) as (here, room), pair(home) as (there, other):
        await here.create(S, model="m")
        await there.request("session.resume", {"sessionId": S, "disableResume": True})
        yield here, room, there, other


async def told(client: FramesClient, *expected: str) -> None:
    """Wait until the client's last events are these."""
    await client.until(lambda: client.types(S)[-len(expected) :] == list(expected))


async def idle(client: FramesClient, times: int) -> None:
    """Wait until the client was told so often that the session is idle."""
    await client.until(lambda: client.types(S).count("session.idle") >= times)


def counted(room: Room) -> list[dict[str, int]]:
    """What the store is asked for from here on."""
    asked: list[dict[str, int]] = []
    ahead = room.store.ahead

    def counting(known: dict[str, Known]) -> Any:
        asked.append({name: each.head for name, each in known.items()})
        return ahead(known)

    room.store.ahead = counting  # type: ignore[method-assign]
    return asked


async def test_a_turn_of_another_daemon_is_heard_in_order_and_once(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, other):
        other.model.hold = True
        await there.say(S, "hello")
        call = await other.model.next_call()
        await room.look()
        await told(here, *TURN_STARTS)
        call.finish("hi")
        await there.next_event("session.idle")
        await room.look()
        await told(here, *TURN_ENDS)
        await room.look()
        await here.say(S, "and here")
        await idle(here, 2)
        answers = [e["data"]["content"] for e in here.events(S) if e["type"] == TURN_ENDS[0]]
        assert answers == ["hi", "answer 2 to and here"]
        assert here.types(S).count("session.idle") == 2


async def test_what_was_heard_is_not_told_again_by_the_next_turn_here(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, other):
        daemons = [(here, room), (there, other)]
        for turn in range(4):
            (asks, _), (hears, listener) = daemons
            await asks.say(S, f"turn {turn}")
            await idle(asks, turn + 1)
            await listener.look()
            await idle(hears, turn + 1)
            daemons.reverse()
        for client in (here, there):
            seen = [event for event in client.events(S) if not event.get("ephemeral")]
            log = await client.history(S)
            assert seen == log[-len(seen) :]
            assert (
                client.types(S).count("user.message") == client.types(S).count("session.idle") == 4
            )


async def test_a_long_poll_ends_with_what_another_daemon_wrote(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, _):
        cursor = (await here.request("session.eventLog.tail", {"sessionId": S}))["cursor"]
        wanted = {"sessionId": S, "cursor": cursor, "waitMs": limits.READ_WAIT_MS}
        asked = await here.ask("session.eventLog.read", wanted)
        noted = await there.request("session.log", {"sessionId": S, "message": "there"})
        await room.look()
        page = (await here.answer(asked))["result"]
        assert [event["id"] for event in page["events"]] == [noted["eventId"]]


async def test_who_only_watches_hears_too(tmp_path: Path) -> None:
    """Its daemon has never written anything."""
    async with pair(tmp_path) as (writes, _), pair(tmp_path) as (watches, room):
        await writes.create(S, model="m")
        await watches.request("session.resume", {"sessionId": S, "disableResume": True})
        await writes.turn(S, "one")
        await room.look()
        await told(watches, *TURN_STARTS, *TURN_ENDS)
        await writes.turn(S, "two")
        await room.look()
        await idle(watches, 2)
        turn = [*TURN_STARTS, *TURN_ENDS]
        assert watches.types(S) == turn * 2, "what is behind the place where it began"


async def test_nobody_is_told_that_a_session_is_idle_where_no_turn_has_ended(
    tmp_path: Path,
) -> None:
    """It would be taken for the end of the turn that is being asked for."""
    async with two(tmp_path) as (here, room, there, _):
        await there.request("session.name.set", {"sessionId": S, "name": "called there"})
        await there.request("session.log", {"sessionId": S, "message": "noted there"})
        await room.look()
        await here.next_event("session.info")
        await here.turn(S, "hello")
        assert here.types(S).count("session.idle") == 1


async def test_what_is_asked_is_answered_as_others_have_left_it_heard_or_not(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        asked = {"sessionId": S}
        room.model.hold = True
        await here.request("session.queue.setDrainPaused", {**asked, "paused": True})
        await there.request("session.queue.pendingItems", asked)
        await here.say(S, "it waits")
        assert (await there.request("session.queue.pendingItems", asked))["items"]
        await there.request("session.queue.clear", asked)
        assert not (await here.request("session.queue.pendingItems", asked))["items"]
        await here.request("session.name.set", {**asked, "name": "herons"})
        assert (await there.request("session.name.get", asked))["name"] == "herons"
        await here.request("session.delete", asked)
        with pytest.raises(SessionNotFound):
            await there.request("session.metadata.get", asked)


async def test_a_session_whose_turn_runs_elsewhere_is_read_and_watched_and_not_changed(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (here, room), pair(tmp_path) as (there, other):
        await here.create(S, model="m")
        room.model.hold = True
        await here.say(S, "hello")
        call = await room.model.next_call()
        asked = {"sessionId": S}
        await there.request("session.resume", {**asked, "disableResume": True})
        assert (await there.request("session.name.get", asked))["name"] is None
        assert await there.request("session.metadata.isProcessing", asked) == {"processing": True}
        for method, more in {
            "session.abort": {},
            "session.send": {"prompt": "from there"},
            "session.name.set": {"name": "herons"},
        }.items():
            with pytest.raises(TurnBusy, match="another daemon") as refused:
                await there.request(method, {**asked, **more})
            assert refused.value.retry_ms is not None
        call.finish("done")
        await here.next_event("session.idle", S)
        await other.look()
        await told(there, *TURN_ENDS)


async def test_what_nobody_follows_is_read_as_others_have_left_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, _), pair(tmp_path) as (there, _):
        await here.create(S)

        async def seen() -> tuple[Any, int]:
            asked = {"sessionId": S}
            used = await there.request("session.usage.getMetrics", asked)
            return await there.request("session.metadata.get", asked), used["totalUserRequests"]

        assert await seen() == ({"metadata": {}, "archived": False}, 0)
        change = {"sessionId": S, "metadata": {"k": 1}, "archived": True}
        await here.request("session.metadata.update", change)
        await here.turn(S, "hello")
        assert await seen() == ({"metadata": {"k": 1}, "archived": True}, 1)
        await here.request("session.delete", {"sessionId": S})
        with pytest.raises(SessionNotFound):
            await seen()


async def test_who_is_overtaken_again_and_again_is_told_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        tries = []

        def overtaken(append: Append) -> Reply:
            tries.append(append.expected_head)
            return Reply.failed(HeadMoved(S))

        monkeypatch.setattr(room.engine.store, "append", overtaken)
        change = {"sessionId": S, "name": "herons"}
        with pytest.raises(StoreFailed, match="Another daemon") as refused:
            await client.request("session.name.set", change)
        assert refused.value.retry_ms is not None
        assert len(tries) == limits.COMMIT_TRIES + 1
        monkeypatch.undo()
        await client.request("session.name.set", change)


@pytest.mark.parametrize("times", [1, 2, 5, 10_000])
async def test_a_rewind_that_is_overtaken_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(limits, "COMMIT_TRIES", 10)
    async with two(tmp_path) as (here, room, there, _):
        await here.turn(S, "one")
        await here.turn(S, "two")
        events = await here.history(S)
        second = [e["id"] for e in events if e["type"] == "user.message"][1]
        left = [times]
        read = room.engine.store.row

        def overtaken(session_id: str) -> Any:
            """Somebody writes there before the log is read here."""
            if not left[0]:
                return read(session_id)
            left[0] -= 1
            found = Reply()

            async def run() -> None:
                await there.request("session.log", {"sessionId": S, "message": "in between"})
                read(session_id).add_done_callback(found.follow)

            room.world.spawn(run)
            return found

        monkeypatch.setattr(room.engine.store, "row", overtaken)
        wanted = {"sessionId": S, "eventId": second}
        if times > limits.COMMIT_TRIES:
            with pytest.raises(StoreFailed, match="Another daemon") as refused:
                await here.request("session.history.truncate", wanted)
            assert refused.value.retry_ms is not None
            return
        answer = await here.request("session.history.truncate", wanted)
        assert answer["eventsRemoved"] > times
        assert left == [0]
        events = await here.history(S)
        assert [e["data"]["content"] for e in events if e["type"] == "user.message"] == ["one"]


async def test_an_id_that_another_daemon_has_given_free_can_be_used(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, _), pair(tmp_path) as (there, _):
        await here.create(S)
        await there.request("session.metadata.get", {"sessionId": S})
        await here.request("session.delete", {"sessionId": S})
        assert "resumed" not in await there.create(S, ifExists="resume")
        assert (await there.turn(S, "hello"))["data"]["content"] == "answer 1 to hello"


async def test_what_others_changed_is_known_and_told_in_the_list(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await here.request("session.name.get", {"sessionId": S})
        await there.request("session.name.set", {"sessionId": S, "name": "called there"})
        await room.look()
        await here.wait_for(
            lambda message: (
                message.get("method") == "session.lifecycle"
                and message["params"]["metadata"].get("summary") == "called there"
            )
        )
        answer = await here.request("session.name.get", {"sessionId": S})
        assert answer["name"] == "called there"


async def test_a_turn_whose_daemon_is_gone_ends_for_who_watches(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, room):
        await here.create(S, model="m")
        async with pair(tmp_path) as (there, other):
            await there.request("session.resume", {"sessionId": S, "disableResume": True})
            other.model.hold = True
            await there.say(S, "hello")
            await other.model.next_call()
            await room.look()
            await told(here, *TURN_STARTS)
            await there.create("something-else")
            await room.look()
        await room.look()
        ends = ["assistant.turn_end", "session.error", "assistant.idle", "session.idle"]
        await told(here, *TURN_STARTS, *ends)
        assert (await here.turn(S, "again"))["data"]["content"] == "answer 2 to again"


async def test_a_daemon_that_is_alone_reads_nothing_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAL_CHANGES", 2)  # checkpoints are made all the time
    async with pair(tmp_path) as (client, room):
        await client.create(S, model="m")
        await room.look()  # the first one, which knows of nothing
        asked = counted(room)
        for number in range(8):
            await client.turn(S, f"turn {number}")
            await client.create(f"b{number}")
            await client.history(S)
            await room.look()
        await client.request("sessions.search", {"text": "turn"})
        await client.request("session.delete", {"sessionId": "b0"})
        await room.look()
        assert asked == []
        async with pair(tmp_path) as (other, _):
            await room.look()
            assert asked == [], "another daemon that writes nothing"
            await other.create("of-the-other")
            await room.look()
            assert len(asked) == 1
            await room.look()
            assert len(asked) == 1


async def test_sessions_are_asked_for_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OTHERS_AT_ONCE", 2)
    async with two(tmp_path) as (here, room, there, _):
        for number in range(4):
            await here.create(f"b{number}")
        asked = counted(room)
        await there.turn(S, "hello")
        await room.look()
        await told(here, *TURN_STARTS, *TURN_ENDS)
        assert [len(heads) for heads in asked] == [2, 2, 1]


async def test_what_is_under_way_here_is_not_taken_for_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed, and not published yet, when the rows are read."""
    async with two(tmp_path) as (here, room, there, _):
        await room.look()
        append, committed, answer = room.store.append, anyio.Event(), Reply()
        outcomes: list[Any] = []

        def held(wanted: Append) -> Any:
            done = append(wanted)
            done.add_done_callback(outcomes.append)
            done.add_done_callback(lambda _: committed.set())
            return answer

        monkeypatch.setattr(room.store, "append", held)
        asked = await here.ask("session.log", {"sessionId": S, "message": "mine"})
        with anyio.fail_after(PATIENCE_S):
            await committed.wait()
        await there.create("something-else")
        await room.look()
        answer.follow(outcomes.pop())
        noted = (await here.answer(asked))["result"]["eventId"]
        await room.look()
        await here.request("session.name.get", {"sessionId": S})
        assert [event["id"] for event in here.events(S)].count(noted) == 1


async def test_only_what_is_durable_is_heard(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await room.look()
        await there.turn(S, "hello")
        synced: list[Callable[[], None]] = []
        real = room.store._writer._synced

        def held(outcomes: list[Any]) -> Any:
            reply = Reply()
            synced.append(lambda: real(outcomes).add_done_callback(reply.follow))
            reached.set()
            return reply

        reached = anyio.Event()
        room.store._writer._synced = held  # type: ignore[method-assign]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(room.look)
            with anyio.fail_after(PATIENCE_S):
                await reached.wait()
            await here.request("session.list", {})
            assert here.types(S)[-1] not in TURN_ENDS
            synced.pop()()
        await told(here, *TURN_STARTS, *TURN_ENDS)


async def test_somebody_looks_only_while_somebody_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OTHERS_LOOK_S", 0)
    async with pair(tmp_path) as (client, room):
        others, watches = room.engine.others, list[anyio.Event]()
        spawn = others._spawn

        def watched(work: Callable[[], Awaitable[None]]) -> None:
            ended = anyio.Event()
            watches.append(ended)

            async def whole() -> None:
                await work()
                ended.set()

            spawn(whole)

        monkeypatch.setattr(others, "_spawn", watched)
        await client.request("session.list", {})
        assert watches == []
        for turn in (1, 2):
            for session in ("a", "b"):
                create = {"sessionId": session, "ifExists": "resume"}
                await client.request("session.create", create)
            assert len(watches) == turn
            for session in ("a", "b"):
                assert not watches[-1].is_set()
                await client.request("session.detach", {"sessionId": session})
            with anyio.fail_after(PATIENCE_S):
                await watches[-1].wait()


async def test_a_store_that_fails_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await room.look()
        real = room.store.ahead
        left = 3

        def failing(known: dict[str, Known]) -> Any:
            nonlocal left
            left -= 1
            reply = Reply()
            reply.fail(StoreFailed("the disk is away"))
            return reply if left else real(known)

        room.store.ahead = failing  # type: ignore[method-assign]
        await there.turn(S, "hello")
        for _ in range(3):
            await room.engine.others._look_again()
        await told(here, *TURN_STARTS, *TURN_ENDS)
        assert caplog.text.count("what other daemons write cannot be seen") == 1


async def lifecycle(client: FramesClient, kind: str) -> Message:
    """Wait until the client was told this of the session."""
    return await client.wait_for(
        lambda message: (
            message.get("method") == "session.lifecycle"
            and (message["params"]["type"], message["params"]["sessionId"]) == (kind, S)
        )
    )


async def test_a_turn_whose_session_another_daemon_deletes_is_over_for_who_watches_and_who_waits(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        room.model.hold = True
        waits = [
            await here.ask("session.sendAndWait", {"sessionId": S, "prompt": "one"}),
            await here.ask("session.sendAndWait", {"sessionId": S, "prompt": "two"}),
            await here.ask("session.send", {"sessionId": S, "prompt": "three", "wait": True}),
        ]
        call = await room.model.next_call()
        await here.until(lambda: here.types(S)[-1:] == ["pending_messages.modified"])
        await there.request("session.delete", {"sessionId": S})
        await room.look()
        for asked in waits[:2]:
            assert (await here.answer(asked))["error"]["data"]["kind"] == "session_not_found"
        await here.answer(waits[2])
        await told(here, "session.idle")
        await lifecycle(here, "session.deleted")
        with anyio.fail_after(PATIENCE_S):
            await call.ended.wait()


async def test_a_turn_that_ends_after_its_session_was_deleted_elsewhere_is_over_at_once(
    tmp_path: Path,
) -> None:
    """It is found out by the turn's end, before anybody looks."""
    async with two(tmp_path) as (here, room, there, _):
        room.model.hold = True
        waits = [
            await here.ask("session.sendAndWait", {"sessionId": S, "prompt": "one"}),
            await here.ask("session.sendAndWait", {"sessionId": S, "prompt": "two"}),
        ]
        call = await room.model.next_call()
        await here.until(lambda: here.types(S)[-1:] == ["pending_messages.modified"])
        await there.request("session.delete", {"sessionId": S})
        call.finish("too late")
        for asked in waits:
            assert (await here.answer(asked))["error"]["data"]["kind"] == "session_not_found"
        await told(here, "session.idle")
        await room.look()
        await lifecycle(here, "session.deleted")
        assert here.types(S).count("session.idle") == 1


async def test_a_turn_elsewhere_whose_session_is_deleted_there_is_over_for_who_watches(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, other):
        other.model.hold = True
        await there.say(S, "hello")
        await other.model.next_call()
        await room.look()
        await told(here, *TURN_STARTS)
        cursor = (await here.request("session.eventLog.tail", {"sessionId": S}))["cursor"]
        wanted = {"sessionId": S, "cursor": cursor, "waitMs": limits.READ_WAIT_MS}
        asked = await here.ask("session.eventLog.read", wanted)
        await here.request("session.eventLog.read", wanted | {"waitMs": 0})  # then that one waits
        await there.request("session.delete", {"sessionId": S})
        await room.look()
        await told(here, *TURN_STARTS, "session.idle")
        await lifecycle(here, "session.deleted")
        assert (await here.answer(asked))["error"]["data"]["kind"] == "session_not_found"
        with pytest.raises(SessionNotFound):
            await here.request("session.getMessages", {"sessionId": S})


async def spoken_in_and_deleted(here: FramesClient, there: FramesClient) -> None:
    """Three turns, and the other daemon deletes the session."""
    for number in range(3):
        await here.turn(S, f"old {number}")
    await there.request("session.delete", {"sessionId": S})


async def test_who_followed_what_another_daemon_deleted_does_not_follow_the_next_of_its_id(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await spoken_in_and_deleted(here, there)
        await there.create(S, model="m")
        await room.look()
        await lifecycle(here, "session.deleted")
        await there.turn(S, "new")
        await room.look()
        await here.request("session.list", {})
        said = [e["data"]["content"] for e in here.events(S) if e["type"] == "user.message"]
        assert said == ["old 0", "old 1", "old 2"]


async def make(client: FramesClient, how: str) -> None:
    """Make a session of the id anew; the request is another client's, who attaches to it."""
    if how == "created":
        await client.create(S, model="m")
        return
    await client.create("x", model="m")
    if how == "forked":
        await client.request("sessions.fork", {"sessionId": "x", "newSessionId": S})
    else:
        document = (await client.request("session.export", {"sessionId": "x"}))["document"]
        await client.request("session.import", {"document": document, "sessionId": S})


@pytest.mark.parametrize("how", ["created", "forked", "imported"])
async def test_who_followed_what_was_deleted_elsewhere_does_not_follow_what_was_made_here_anew(
    tmp_path: Path, how: str
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await spoken_in_and_deleted(here, there)
        maker = room.connect()
        await make(maker, how)
        await lifecycle(here, "session.deleted")
        with pytest.raises(SessionNotFound):
            await here.request("session.log", {"sessionId": S, "message": "to whom?"})


async def test_the_keys_of_a_session_are_not_for_the_next_of_its_id(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, room), pair(tmp_path) as (there, _):
        provider = {"baseUrl": "http://localhost:1/v1", "apiKey": "sk-first"}
        await here.create(S, model="m", provider=provider)
        await here.request("session.detach", {"sessionId": S})
        await there.request("session.delete", {"sessionId": S})
        await there.create(S, model="m")
        second = room.connect()
        await second.request("session.resume", {"sessionId": S})
        await second.turn(S, "hello")
        await second.request("sessions.fork", {"sessionId": S, "newSessionId": "child"})
        await second.request("session.resume", {"sessionId": "child"})
        await second.turn("child", "hello")
        assert room.models.given == [None, None]


async def test_who_makes_a_session_anew_before_its_end_was_heard_of_keeps_it(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await spoken_in_and_deleted(here, there)
        await here.create(S, model="m")
        await room.look()
        await here.turn(S, "new")
        said = [e["data"]["content"] for e in await here.history(S) if e["type"] == "user.message"]
        assert said == ["new"]
        await room.look()
        assert (await here.request("session.name.get", {"sessionId": S}))["name"] is None


async def test_a_turn_that_outlives_its_session_writes_nothing_to_the_next_of_its_id(
    tmp_path: Path,
) -> None:
    """Though that one's log has come just as far."""
    async with two(tmp_path) as (here, room, there, _):
        room.model.hold = True
        await here.say(S, "old")
        late = await room.model.next_call()
        at = {"sessionId": S}
        head = (await here.request("session.eventLog.tail", at))["seq"]
        await there.request("session.delete", at)
        await there.create(S, model="m")
        while (await there.request("session.eventLog.tail", at))["seq"] < head:
            await there.request("session.log", {**at, "message": "new"})
        assert (await there.request("session.eventLog.tail", at))["seq"] == head
        before = (await there.request("session.getMessages", at))["events"]
        late.finish("to the old")
        await told(here, "session.idle")
        assert (await there.request("session.getMessages", at))["events"] == before


async def test_who_asks_here_by_key_for_a_message_that_another_daemon_has_has_its_answer(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, other):
        other.model.hold = True
        first, second = ({"sessionId": S, "prompt": p, "idempotencyKey": p} for p in ("a", "b"))
        for message in (first, second):
            await there.request("session.send", message)
        call = await other.model.next_call()
        asked = [await here.ask("session.sendAndWait", message) for message in (first, second)]
        await room.look()
        await here.request("session.getMessages", {"sessionId": S})
        assert not [answer for answer in here.answers() if answer["id"] in asked]
        call.finish("to a")
        last = await other.model.next_call()
        await room.look()
        ended = (await here.answer(asked[0]))["result"]
        assert ended["response"]["data"]["content"] == "to a"
        last.finish("to b")
        await idle(there, 1)
        await room.look()
        ended = (await here.answer(asked[1]))["result"]
        assert ended["response"]["data"]["content"] == "to b"
        again = await here.request("session.sendAndWait", first)
        assert again["response"]["data"]["content"] == "to a"


async def waits_in_a_paused_queue(client: FramesClient) -> tuple[Any, Any]:
    """Who waits for a message's turn there, and who for quiet."""
    await client.request("session.queue.setDrainPaused", {"sessionId": S, "paused": True})
    asked = await client.ask("session.sendAndWait", {"sessionId": S, "prompt": "waits"})
    idle = {"sessionId": S, "prompt": "waits too", "wait": True}
    asked_too = await client.ask("session.send", idle)
    queued = await client.request("session.queue.pendingItems", {"sessionId": S})
    assert len(queued["items"]) == 2
    return asked, asked_too


async def test_who_waits_here_for_what_is_taken_out_elsewhere_is_answered(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, _):
        asked, asked_too = await waits_in_a_paused_queue(here)
        await there.request("session.queue.clear", {"sessionId": S})
        await room.look()
        assert (await here.answer(asked))["result"]["aborted"] is True
        assert "messageId" in (await here.answer(asked_too))["result"]


async def test_who_waits_here_for_what_is_answered_elsewhere_has_the_answer(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, _):
        asked, asked_too = await waits_in_a_paused_queue(here)
        await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
        await idle(there, 1)
        await room.look()
        response = (await here.answer(asked))["result"]["response"]
        assert response["data"]["content"] == "answer 1 to waits"
        assert "messageId" in (await here.answer(asked_too))["result"]


async def test_who_waits_here_for_what_cannot_be_read_is_told_so_and_may_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        message = {"sessionId": S, "prompt": "x", "idempotencyKey": "k"}
        await here.request("session.queue.setDrainPaused", {"sessionId": S, "paused": True})
        asked = await here.ask("session.sendAndWait", message)
        await here.request("ping")
        await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
        await idle(there, 1)
        read = room.store.read

        def fails(session_id: str, wanted: Range) -> Any:
            refusal = StoreFailed("The disk is away.")
            return read(session_id, wanted) if wanted.types is None else Reply.failed(refusal)

        with monkeypatch.context() as patch:
            patch.setattr(room.store, "read", fails)
            await room.look()
            assert (await here.answer(asked))["error"]["data"]["kind"] == "store_failed"
        again = await here.request("session.sendAndWait", message)
        assert again["response"]["data"]["content"] == "answer 1 to x"


async def test_a_session_that_somebody_waits_for_is_told_as_others_have_left_it(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        asked, _ = await waits_in_a_paused_queue(here)
        await there.request("session.name.set", {"sessionId": S, "name": "theirs"})
        await there.request("session.queue.removeMostRecent", {"sessionId": S})
        await room.look()
        assert (await here.request("session.name.get", {"sessionId": S}))["name"] == "theirs"
        left = await here.request("session.queue.pendingItems", {"sessionId": S})
        assert [item["displayText"] for item in left["items"]] == ["waits"]
        assert not [answer for answer in here.answers() if answer["id"] == asked]


@pytest.mark.parametrize("light_events", [limits.LIGHT_EVENTS, 0], ids=["short log", "long log"])
async def test_who_waits_here_while_the_turn_runs_elsewhere_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light_events: int
) -> None:
    monkeypatch.setattr(limits, "LIGHT_EVENTS", light_events)
    async with two(tmp_path) as (here, room, there, other):
        asked, asked_too = await waits_in_a_paused_queue(here)
        other.model.hold = True
        await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
        first = await other.model.next_call()
        for _ in range(3):
            await room.look()
        await here.request("session.getMessages", {"sessionId": S})
        assert not [answer for answer in here.answers() if answer["id"] in (asked, asked_too)]
        first.finish("to the first")
        second = await other.model.next_call()
        await room.look()
        assert (await here.answer(asked))["result"]["response"]["data"]["content"] == "to the first"
        assert not [answer for answer in here.answers() if answer["id"] == asked_too]
        second.finish("to the second")
        await idle(there, 1)
        await room.look()
        assert "messageId" in (await here.answer(asked_too))["result"]


async def test_who_asks_here_by_the_key_of_a_message_that_runs_elsewhere_waits_for_its_end(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, other):
        other.model.hold = True
        sent = {"sessionId": S, "prompt": "once", "idempotencyKey": "k"}
        accepted = await there.request("session.send", sent)
        call = await other.model.next_call()
        asked = await here.ask("session.send", {**sent, "wait": True})
        await room.look()
        await here.request("session.getMessages", {"sessionId": S})
        assert not [answer for answer in here.answers() if answer["id"] == asked]
        call.finish("done")
        await idle(there, 1)
        await room.look()
        assert (await here.answer(asked))["result"] == accepted


async def test_who_waits_here_and_edits_the_queue_has_the_answer_that_was_given_elsewhere(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (here, room, there, _):
        asked, _ = await waits_in_a_paused_queue(here)
        await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
        await idle(there, 1)
        free = threading.Event()
        room.store._reader.submit(lambda _: free.wait(PATIENCE_S))
        await here.request("session.queue.setDrainPaused", {"sessionId": S, "paused": True})
        assert not [answer for answer in here.answers() if answer["id"] == asked]
        free.set()
        response = (await here.answer(asked))["result"]["response"]
        assert response["data"]["content"] == "answer 1 to waits"


async def test_who_waits_here_learns_that_the_turn_was_lost_elsewhere(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, room):
        await here.create(S, model="m")
        asked, asked_too = await waits_in_a_paused_queue(here)
        async with pair(tmp_path) as (there, other):
            await there.request("session.resume", {"sessionId": S, "disableResume": True})
            other.model.hold = True
            await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
            await other.model.next_call()
            await room.look()
            await told(here, *TURN_STARTS)
            await there.create("something-else")
            await room.look()
        await room.look()
        error = (await here.answer(asked))["error"]
        assert error["data"]["kind"] == "turn_failed"
        assert "messageId" in (await here.answer(asked_too))["result"]


@pytest.mark.parametrize("end", ["answered", "deleted"])
async def test_who_waits_and_follows_no_more_is_answered(tmp_path: Path, end: str) -> None:
    async with two(tmp_path) as (here, room, there, _):
        asked, asked_too = await waits_in_a_paused_queue(here)
        await here.request("session.detach", {"sessionId": S})
        if end == "answered":
            await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
            await idle(there, 1)
        else:
            await there.request("session.delete", {"sessionId": S})
        await room.look()
        for answer in (await here.answer(asked), await here.answer(asked_too)):
            assert ("result" in answer) == (end == "answered"), answer


async def test_however_many_wait_the_log_is_read_once_for_them(tmp_path: Path) -> None:
    async with two(tmp_path) as (here, room, there, _):
        await here.request("session.queue.setDrainPaused", {"sessionId": S, "paused": True})
        sent = {"sessionId": S, "prompt": "q", "idempotencyKey": "k"}
        asked = [await here.ask("session.sendAndWait", sent) for _ in range(20)]
        await here.request("session.queue.pendingItems", {"sessionId": S})
        await there.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
        await idle(there, 1)
        read, reads = room.store.read, []
        room.store.read = lambda *args: reads.append(args) or read(*args)  # type: ignore[method-assign,func-returns-value]
        free = threading.Event()
        room.store._reader.submit(lambda _: free.wait(PATIENCE_S))
        room.sessions.outdated(S)
        for _ in range(3):
            room.sessions.outdated(S)
        free.set()
        for each in asked:
            response = (await here.answer(each))["result"]["response"]
            assert response["data"]["content"] == "answer 1 to q"
        assert len(reads) == 1


async def test_however_many_are_answered_while_a_turn_runs_elsewhere_the_session_lives(
    tmp_path: Path,
) -> None:
    """They are answered one after the other as the log is taken in, and each of them waits on."""
    async with two(tmp_path) as (here, room, there, other):
        other.model.hold = True
        await here.request("session.name.get", {"sessionId": S})
        free = threading.Event()
        room.store._writer.submit_bare(lambda _: free.wait(PATIENCE_S))
        named = await here.ask("session.name.set", {"sessionId": S, "name": "late"})
        await here.request("ping")
        sent = {"sessionId": S, "prompt": "once", "idempotencyKey": "k"}
        accepted = await there.request("session.send", sent)
        call = await other.model.next_call()
        asked = [await here.ask("session.send", {**sent, "wait": True}) for _ in range(200)]
        await here.request("ping")
        free.set()
        assert (await here.answer(named))["error"]["data"]["kind"] == "turn_busy"
        call.finish("done")
        await idle(there, 1)
        await room.look()
        for each in asked:
            assert (await here.answer(each))["result"] == accepted
        assert await here.request("session.name.get", {"sessionId": S}) == {"name": None}


async def test_while_nobody_can_tell_what_others_wrote_what_is_asked_is_read_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a thread has the connection that could."""
    async with pair(tmp_path) as (client, room), pair(tmp_path) as (there, _):
        for each in ("a", "b"):
            await client.create(each)
            await client.request("session.detach", {"sessionId": each})
        for each in ("a", "b"):  # the first look at the store's number is done
            await client.request("session.resume", {"sessionId": each})
            await client.request("session.detach", {"sessionId": each})
        with monkeypatch.context() as patch:
            patch.setattr(room.store, "commits_elsewhere", lambda: None)
            for method, params in (("resume", {}), ("name.set", {"name": "theirs"})):
                await there.request(f"session.{method}", {"sessionId": "a", **params})
            await client.request("session.resume", {"sessionId": "a"})
            assert room.sessions.in_memory == 2
            named = await client.request("session.name.get", {"sessionId": "a"})
            assert named["name"] == "theirs"
        await client.request("session.resume", {"sessionId": "b"})
        assert room.sessions.in_memory == 1, "now it can be told"


async def test_what_is_said_in_the_next_session_of_an_id_is_not_told_to_the_models_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another daemon deletes it, and makes another one, while a turn's history is read."""
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    async with pair(tmp_path) as (here, room), pair(tmp_path) as (there, _):
        await here.create("a")
        for number in range(4):
            await here.turn("a", f"message {number}")
        room.sessions.let_go()
        asked, idles = len(room.model.calls), here.types("a").count("session.idle")
        read = room.store.read

        def late(session_id: str, wanted: Range) -> Future[Any]:
            if wanted.types != history.TYPES:
                return read(session_id, wanted)
            final = Reply()

            async def after_them() -> None:
                await there.request("session.delete", {"sessionId": "a"})
                await there.create("a")
                await there.turn("a", "a secret")
                read(session_id, wanted).add_done_callback(final.follow)

            room.world.spawn(after_them)
            return final

        monkeypatch.setattr(room.store, "read", late)
        await here.say("a", "another")
        await here.until(lambda: here.types("a").count("session.idle") > idles)
        assert not room.world.running
        assert len(room.model.calls) == asked


async def test_what_is_sent_to_a_session_that_others_have_made_anew_is_refused(
    tmp_path: Path,
) -> None:
    """Its sender has not heard of it yet; once it has resumed the new one, it may send."""
    async with pair(tmp_path) as (here, _), pair(tmp_path) as (there, _):
        await here.create("a")
        await here.turn("a", "of the first")
        await there.request("session.delete", {"sessionId": "a"})
        await there.create("a")
        with pytest.raises(SessionNotFound):
            await here.say("a", "for the first")
        log = await there.history("a")
        assert [event["type"] for event in log] == ["session.start"]
        await here.request("session.resume", {"sessionId": "a"})
        await here.turn("a", "for the second")
