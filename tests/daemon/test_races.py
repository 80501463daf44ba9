"""Two clients, or a client and a model, act at the same moment: one of them is first, both are
answered, and what comes of it is what comes of one after the other."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tertuliad.replies import Reply
from tertuliad.store.base import Fork
from tests.support.frames_client import FramesClient, Message
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Models, Room, pair

pytestmark = pytest.mark.anyio

TIMES = 20
"""How often the ends of a race are tried, each with other rounds of the event loop between them."""


async def attached(room: Room, session: str = "s") -> FramesClient:
    client = room.connect()
    await client.request("session.resume", {"sessionId": session, "disableResume": True})
    return client


async def at_once(
    first: tuple[FramesClient, str, Message], second: tuple[FramesClient, str, Message], rounds: int
) -> tuple[Message, Message]:
    """Both are asked, the second so many rounds of the event loop later; their whole answers."""
    one, two = first[0], second[0]
    asked = await one.ask(*first[1:])
    for _ in range(rounds):
        await anyio.lowlevel.checkpoint()
    then = await two.ask(*second[1:])
    return await one.answer(asked), await two.answer(then)


def kind(answer: Message) -> str | None:
    """What refused it; None: it was done."""
    return None if "result" in answer else answer["error"]["data"]["kind"]


@pytest.mark.parametrize("rounds", range(0, TIMES, 4))
async def test_first_messages_of_two_clients_each_have_a_turn_in_one_order(
    tmp_path: Path, rounds: int
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        other = await attached(room)
        for answer in await at_once(
            (client, "session.send", {"sessionId": "s", "prompt": "one", "wait": True}),
            (other, "session.send", {"sessionId": "s", "prompt": "two", "wait": True}),
            rounds,
        ):
            assert kind(answer) is None
        ping = [await each.request("ping") for each in (client, other)]
        assert len(ping) == 2
        log = await client.history("s")
        said = [e["data"]["content"] for e in log if e["type"].endswith(".message")]
        assert sorted(said[::2]) == ["one", "two"]
        assert said[1::2] == [f"answer {n} to {said[n * 2 - 2]}" for n in (1, 2)]
        for each in (client, other):
            turns = [t for t in each.types("s") if t.startswith("assistant.turn_")]
            assert turns == ["assistant.turn_start", "assistant.turn_end"] * 2


@pytest.mark.parametrize("rounds", range(0, TIMES, 4))
async def test_of_two_clients_that_create_one_id_one_is_refused(
    tmp_path: Path, rounds: int
) -> None:
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        answers = await at_once(
            (client, "session.create", {"sessionId": "s"}),
            (other, "session.create", {"sessionId": "s"}),
            rounds,
        )
        assert sorted(map(str, map(kind, answers))) == ["None", "session_exists"]
        winner = (client, other)[[kind(answer) for answer in answers].index(None)]
        await winner.turn("s", "hello")
        loser = other if winner is client else client
        await loser.request("ping")
        assert loser.types("s") == [], "who was refused does not follow"


@pytest.mark.parametrize("rounds", range(0, TIMES, 2))
@pytest.mark.parametrize("hot", [True, False], ids=["in memory", "not in memory"])
async def test_a_session_that_is_resumed_and_deleted_is_gone_for_both(
    tmp_path: Path, rounds: int, hot: bool
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        await client.turn("s", "hello")
        other = room.connect()
        if not hot:
            room.sessions.let_go()
        resumed, deleted = await at_once(
            (other, "session.resume", {"sessionId": "s"}),
            (client, "session.delete", {"sessionId": "s"}),
            rounds,
        )
        assert kind(resumed) in (None, "session_not_found")
        assert deleted["result"]["success"] is True
        assert (await client.request("session.list"))["sessions"] == []
        asked = await other.ask("session.send", {"sessionId": "s", "prompt": "to nobody"})
        assert kind(await other.answer(asked)) == "session_not_found"
        await client.create("s")
        again = await client.turn("s", "anew")
        assert again["data"]["content"] == "answer 1 to anew"
        await other.request("ping")
        assert "anew" not in str(other.events("s")), "it follows another session than it resumed"


@pytest.mark.parametrize("rounds", range(0, TIMES, 2))
async def test_a_session_that_is_forked_and_rewound_has_a_child_of_one_of_both_logs(
    tmp_path: Path, rounds: int
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        for words in ("one", "two"):
            await client.turn("s", words)
        other = await attached(room)
        before = await client.history("s")
        at = [event["id"] for event in before if event["type"] == "user.message"][1]
        for answer in await at_once(
            (other, "sessions.fork", {"sessionId": "s", "newSessionId": "child"}),
            (client, "session.history.truncate", {"sessionId": "s", "eventId": at}),
            rounds,
        ):
            assert kind(answer) is None
        await client.request("session.resume", {"sessionId": "child", "disableResume": True})
        after = await client.history("s")
        child = await client.history("child")
        assert after == before[: len(after)]
        assert child in (before, after)
        told = (await client.turn("child", "on"))["data"]["content"]
        assert told == ("answer 3 to on" if child == before else "answer 2 to on")


@pytest.mark.parametrize("at", [None, 1, 2], ids=["at the end", "at what goes", "behind it"])
async def test_a_fork_whose_place_is_left_out_before_it_is_stored_is_of_the_log_as_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int | None
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        for words in ("one", "two", "three"):
            await client.turn("s", words)
        messages = [e["id"] for e in client.events("s") if e["type"] == "user.message"]
        decided, go_on = anyio.Event(), anyio.Event()
        store_fork = room.store.fork

        def held(fork: Fork) -> Reply:
            reply = Reply()

            async def store() -> None:
                decided.set()
                await go_on.wait()
                store_fork(fork).add_done_callback(reply.follow)

            room._spawn(store)
            return reply

        monkeypatch.setattr(room.store, "fork", held)
        place = {} if at is None else {"toEventId": messages[at]}
        params = {"sessionId": "s", "newSessionId": "child", **place}
        asked = await client.ask("sessions.fork", params)
        with anyio.fail_after(PATIENCE_S):
            await decided.wait()
        params = {"sessionId": "s", "eventId": messages[1]}
        await client.request("session.history.truncate", params)
        go_on.set()
        answer = await client.answer(asked)
        if at == 1:  # what is before it is there still
            assert kind(answer) is None
        elif at == 2:
            assert kind(answer) == "invalid_params"
            assert f"event {messages[2]} not found" in answer["error"]["message"]
            assert [row["sessionId"] for row in await listed(client)] == ["s"]
            return
        document = (await client.request("session.export", {"sessionId": "child"}))["document"]
        await client.request("session.import", {"document": document, "sessionId": "copy"})
        said = [
            record["event"]["data"]["content"]
            for record in document["events"]
            if record["event"]["type"] == "user.message"
        ]
        assert said == ["one"]


async def listed(client: FramesClient) -> list[Message]:
    return list((await client.request("session.list"))["sessions"])


async def test_an_abort_that_meets_the_end_of_its_turn_leaves_one_idle_a_thousand_times(
    tmp_path: Path,
) -> None:
    order = random.Random(7)
    firsts = {"abort": 0, "assistant.message": 0}
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        room.model.hold = True
        for _ in range(1000):
            seen = len(client.messages)
            await client.say("s", "hello")
            call = await room.model.next_call()
            stop_first, rounds = order.random() < 0.5, order.randrange(12)
            if not stop_first:
                call.finish("done")
            else:
                stop = await client.ask("session.abort", {"sessionId": "s"})
            for _ in range(rounds):
                await anyio.lowlevel.checkpoint()
            if stop_first:
                call.finish("done")
            else:
                stop = await client.ask("session.abort", {"sessionId": "s"})
            assert "result" in await client.answer(stop)
            await client.next_event("session.idle", "s")
            await client.request("ping")
            new = [
                m["params"]["event"]
                for m in client.messages[seen:]
                if "event" in str(m.get("method"))
            ]
            told = [event["type"] for event in new]
            assert told.count("session.idle") == told.count("assistant.turn_end") == 1, told
            ends = [t for t in told if t in firsts]
            assert len(ends) == 1, told
            firsts[ends[0]] += 1
            client.forget()
    assert min(firsts.values()) > 100, firsts


async def test_an_abort_is_answered_while_the_model_is_still_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = anyio.Event()

    async def never(*_: object) -> None:
        looked.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(Models, "resolve", never)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        await client.say("s", "hello")
        with anyio.fail_after(PATIENCE_S):
            await looked.wait()
        assert (await client.request("session.abort", {"sessionId": "s"}))["success"] is True
        await client.next_event("session.idle", "s")
        assert client.types("s").count("session.idle") == 1


async def test_an_abort_is_answered_while_the_daemon_drains(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        room.model.hold = True
        await client.say("s", "hello")
        call = await room.model.next_call()
        await client.say("s", "this one waits for the next process")
        room.draining = True
        stop = await client.ask("session.abort", {"sessionId": "s"})
        answer = await client.answer(stop)
        assert "result" in answer, answer
        with anyio.fail_after(PATIENCE_S):
            await call.ended.wait()
        await client.next_event("session.idle", "s")
        assert client.types("s").count("session.idle") == 1
        assert len(room.model.calls) == 1, "a turn began while the daemon stops"
