"""Sessions forked, gone back, described, found, carried elsewhere and cleared away: over the wire,
against a whole daemon."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import (
    InvalidParams,
    ModelUnavailable,
    RpcError,
    SessionExists,
    SessionNotFound,
    TurnBusy,
)
from tertuliad import limits
from tertuliad.doctor.examination import examine
from tertuliad.replies import settled
from tertuliad.store.base import Known, Row
from tertuliad.store.indexer import Indexer
from tertuliad.store.schema import FILE_NAME
from tests.support.frames_client import FramesClient
from tests.support.held_deletions import hold_deletions
from tests.support.in_process_model import PATIENCE_S, Call, last_words
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio


async def spoken(client: FramesClient, session_id: str, *prompts: str) -> None:
    """A session in which these messages have had their turns."""
    await client.create(session_id)
    for prompt in prompts:
        await client.turn(session_id, prompt)


async def said(client: FramesClient, session_id: str) -> list[str]:
    """What the users have said, as far as it is stored."""
    return [
        event["data"]["content"]
        for event in await client.history(session_id)
        if event["type"] == "user.message"
    ]


async def message_id(client: FramesClient, session_id: str, number: int) -> str:
    """The id of the event of a user's message, counted from 0."""
    found = [e for e in await client.history(session_id) if e["type"] == "user.message"]
    return str(found[number]["id"])


async def resumed(client: FramesClient, session_id: str) -> str:
    await client.request("session.resume", {"sessionId": session_id, "disableResume": True})
    return session_id


async def listed(client: FramesClient, **params: Any) -> list[str]:
    answer = await client.request("session.list", params)
    return [row["sessionId"] for row in answer["sessions"]]


async def found(client: FramesClient, text: str, **more: Any) -> set[str]:
    """The sessions in which it was said."""
    answer = await client.request("sessions.search", {"text": text, **more})
    return {hit["session"]["sessionId"] for hit in answer["hits"]}


def model_read(room: Room) -> list[str]:
    """The texts of the last model call's history, without what the daemon says itself."""
    return conversation(room.model.calls[-1])


def conversation(call: Call) -> list[str]:
    said = [message for message in call.request.messages if message.role != "system"]
    return [str(message.content) for message in said]


# Forks


async def test_a_fork_goes_on_from_what_was_said(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await spoken(client, "a", "one", "two")
    forked = await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})
    assert forked == {"sessionId": "b"}
    created = await client.wait_for(
        lambda m: m.get("method") == "session.lifecycle" and m["params"]["sessionId"] == "b"
    )
    assert created["params"]["type"] == "session.created"
    await resumed(client, "b")
    assert await said(client, "b") == ["one", "two"]
    await client.turn("b", "three")
    assert model_read(room) == ["one", "answer 1 to one", "two", "answer 2 to two", "three"]
    assert await said(client, "a") == ["one", "two"]
    await client.turn("a", "other")
    assert await said(client, "b") == ["one", "two", "three"]


async def test_a_fork_ends_before_the_event_it_names(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await spoken(client, "a", "one", "two", "three")
    before = await message_id(client, "a", 1)
    forked = await client.request(
        "sessions.fork", {"sessionId": "a", "toEventId": before, "name": "Side way"}
    )
    assert forked["name"] == "Side way"
    child = await resumed(client, forked["sessionId"])
    assert await said(client, child) == ["one"]
    await client.turn(child, "two again")
    assert model_read(room) == ["one", "answer 1 to one", "two again"]
    row = (await client.request("session.getMetadata", {"sessionId": child}))["session"]
    assert (row["name"], row["named"], row["parentSessionId"]) == ("Side way", True, "a")


async def test_a_fork_before_a_snapshot_is_folded_from_the_log(
    both: tuple[FramesClient, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, room = both
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    await spoken(client, "a", "one", "two", "three")
    before = await message_id(client, "a", 1)
    for params in ({}, {"toEventId": before}):
        forked = await client.request("sessions.fork", {"sessionId": "a", **params})
        await resumed(client, forked["sessionId"])
        await client.turn(forked["sessionId"], "next")
    assert model_read(room) == ["one", "answer 1 to one", "next"]
    whole = conversation(room.model.calls[-2])
    assert whole[-3:] == ["three", "answer 3 to three", "next"]
    assert len(whole) == 7


async def test_a_fork_outlives_its_source(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "one")
    await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})
    await client.request("sessions.fork", {"sessionId": "b", "newSessionId": "c"})
    freed = await client.request("sessions.bulkDelete", {"sessionIds": ["a", "nobody", "b"]})
    assert freed == {"freedBytes": {"a": 0, "b": 0}}
    await resumed(client, "c")
    assert await said(client, "c") == ["one"]
    last = await client.request("sessions.bulkDelete", {"sessionIds": ["c"]})
    assert last["freedBytes"]["c"] > 0


async def test_a_fork_of_a_running_turn_is_idle(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a")
    room.model.hold = True
    await client.say("a", "one")
    call = await room.model.next_call()
    await client.say("a", "waits")
    await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})
    room.model.hold = False
    await resumed(client, "b")
    await client.turn("b", "two")
    assert await said(client, "b") == ["one", "two"]
    assert turns_in(await client.history("b")) == ["start", "end", "start", "end"]
    call.finish("late")
    await client.next_event("session.idle", "a")
    assert await said(client, "a") == ["one", "waits"]


def turns_in(events: list[dict[str, Any]]) -> list[str]:
    """How turns begin and end in a log."""
    kinds = [event["type"].partition(".turn_")[2] for event in events]
    return [kind for kind in kinds if kind]


@pytest.mark.parametrize("left_out", ["assistant.message", "assistant.turn_end"])
async def test_a_turn_that_is_cut_by_a_fork_or_a_rewind_ends_there(
    both: tuple[FramesClient, Room], left_out: str
) -> None:
    client, _ = both
    await spoken(client, "a", "one")
    (point,) = [e["id"] for e in await client.history("a") if e["type"] == left_out]
    params = {"sessionId": "a", "toEventId": point, "newSessionId": "b"}
    await client.request("sessions.fork", params)
    await resumed(client, "b")
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": point})
    for session in "ab":
        assert turns_in(await client.history(session)) == ["start", "end"]
        await client.turn(session, "two")
        assert turns_in(await client.history(session)) == ["start", "end"] * 2


async def test_a_fork_before_the_end_that_a_rewind_has_written_ends_that_turn(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await spoken(client, "a", "one")
    (point,) = [e["id"] for e in await client.history("a") if e["type"] == "assistant.message"]
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": point})
    end = (await client.history("a"))[-1]
    assert end["type"] == "assistant.turn_end"
    params = {"sessionId": "a", "toEventId": end["id"], "newSessionId": "b"}
    await client.request("sessions.fork", params)
    await resumed(client, "b")
    assert turns_in(await client.history("b")) == ["start", "end"]
    await client.turn("b", "two")
    assert turns_in(await client.history("b")) == ["start", "end"] * 2


@pytest.mark.parametrize("method", ["sessions.fork", "session.history.truncate"])
async def test_before_the_event_that_tells_of_a_rewind_is_what_the_rewind_has_kept(
    both: tuple[FramesClient, Room], method: str
) -> None:
    client, _ = both
    await spoken(client, "a", "one", "two")
    point = await message_id(client, "a", 1)
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": point})
    document = (await client.request("session.export", {"sessionId": "a"}))["document"]
    (fact,) = [
        record["event"]["id"]
        for record in document["events"]
        if record["event"]["type"] == "tertulia.rewound"
    ]
    if method == "sessions.fork":
        params = {"sessionId": "a", "toEventId": fact, "newSessionId": "b"}
    else:
        params = {"sessionId": "a", "eventId": fact}
    await client.request(method, params)
    session = params.get("newSessionId", "a")
    document = (await client.request("session.export", {"sessionId": session}))["document"]
    await client.request("session.import", {"document": document, "sessionId": "copy"})
    await resumed(client, "copy")
    assert await said(client, "copy") == ["one"]


async def test_what_cannot_be_forked_is_told(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "one")
    first = (await client.history("a"))[0]["id"]
    for params, error, words in (
        ({"sessionId": "a", "toEventId": "nope"}, InvalidParams, "event nope not found"),
        ({"sessionId": "a", "toEventId": first}, InvalidParams, "first event"),
        ({"sessionId": "nobody"}, SessionNotFound, "not found"),
        ({"sessionId": "a", "newSessionId": "a"}, SessionExists, "exists"),
        ({"sessionId": "a", "newSessionId": "../x"}, InvalidParams, "newSessionId"),
        ({"sessionId": "a", "newSessionId": ""}, InvalidParams, "newSessionId"),
    ):
        with pytest.raises(error, match=words):
            await client.request("sessions.fork", params)
    assert await listed(client) == ["a"]


# Going back


async def test_what_was_rewound_is_gone_and_the_rest_stays(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await spoken(client, "a", "one", "two", "three")
    event_id = await message_id(client, "a", 1)
    before = await client.history("a")
    gone = [e["id"] for e in before].index(event_id)
    answer = await client.request(
        "session.history.truncate", {"sessionId": "a", "eventId": event_id}
    )
    assert answer == {"eventsRemoved": len(before) - gone}
    told = await client.next_event("session.snapshot_rewind", "a")
    assert told["data"] == {"upToEventId": event_id, **answer}
    assert told["ephemeral"] is True
    assert await client.history("a") == before[:gone]
    assert await found(client, "three") == set()
    await client.turn("a", "four")
    assert model_read(room) == ["one", "answer 1 to one", "four"]
    after = await client.history("a")
    assert after[:gone] == before[:gone]
    assert after[gone]["parentId"] == before[gone - 1]["id"]
    assert await found(client, "four") == {"a"}


async def test_a_log_that_was_rewound_when_a_snapshot_was_due_goes_on_where_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await spoken(client, "a", "one", "two", "three")
        event_id = await message_id(client, "a", 1)
        monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 1)
        await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
        room.sessions.let_go()
        await client.turn("a", "four")
        events = await client.history("a")
        assert [e["parentId"] for e in events] == [None, *(e["id"] for e in events[:-1])]
        assert model_read(room) == ["one", "answer 1 to one", "four"]
    assert examine(tmp_path).faults == []


async def test_a_message_that_is_sent_behind_a_rewind_is_kept(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await spoken(client, "a", "one", "two")
    event_id = await message_id(client, "a", 1)
    cut = {"sessionId": "a", "eventId": event_id}
    asked = await client.ask("session.history.truncate", cut)
    await client.ask("session.send", {"sessionId": "a", "prompt": "two, in other words"})
    assert "error" not in await client.answer(asked)
    await client.next_event("session.snapshot_rewind", "a")
    await client.next_event("session.idle", "a")
    assert await said(client, "a") == ["one", "two, in other words"]
    assert model_read(room) == ["one", "answer 1 to one", "two, in other words"]


async def test_a_seq_is_never_used_again(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await spoken(client, "a", "one", "two")
    row = await settled(room.store.row("a"))
    assert row is not None
    event_id = await message_id(client, "a", 1)
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
    await client.turn("a", "three")
    log = await settled(room.store.whole("a"))
    assert log is not None
    seqs = [record.seq for record in log.records]
    assert seqs == sorted(set(seqs))
    assert not {seq for seq in seqs if row.head >= seq > row.head - 2}
    assert log.row.head == seqs[-1] > row.head


async def test_a_rewind_takes_nothing_but_the_conversation_back(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await spoken(client, "a", "one", "two")
    event_id = await message_id(client, "a", 1)
    await client.request("session.name.set", {"sessionId": "a", "name": "Mine"})
    await client.request("session.model.switchTo", {"sessionId": "a", "modelId": "other"})
    update = {"sessionId": "a", "metadata": {"k": [1]}, "archived": True}
    await client.request("session.metadata.update", update)
    used = await client.request("session.usage.getMetrics", {"sessionId": "a"})
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
    room.sessions.let_go()
    assert (await client.request("session.name.get", {"sessionId": "a"}))["name"] == "Mine"
    model = await client.request("session.model.getCurrent", {"sessionId": "a"})
    assert model["modelId"] == "other"
    described = await client.request("session.metadata.get", {"sessionId": "a"})
    assert described == {"metadata": {"k": [1]}, "archived": True}
    again = await client.request("session.usage.getMetrics", {"sessionId": "a"})
    assert again["modelMetrics"] == used["modelMetrics"]


async def test_the_title_is_that_of_the_first_message_that_stays(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await spoken(client, "a", "one", "two")
    event_id = await message_id(client, "a", 0)
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
    row = (await client.request("session.getMetadata", {"sessionId": "a"}))["session"]
    assert "name" not in row
    await client.turn("a", "anew")
    row = (await client.request("session.getMetadata", {"sessionId": "a"}))["session"]
    assert row["name"] == "anew"
    assert model_read(room) == ["anew"]


async def test_nothing_is_rewound_while_a_turn_runs(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await spoken(client, "a", "one")
    event_id = await message_id(client, "a", 0)
    room.model.hold = True
    await client.say("a", "two")
    call = await room.model.next_call()
    call = await room.model.next_call()
    params = {"sessionId": "a", "eventId": event_id}
    with pytest.raises(TurnBusy):
        await client.request("session.history.truncate", params)
    asked = {**params, "mode": "conversation"}
    answer = await client.request("session.history.rewind", asked)
    assert answer["outcome"] == "session-busy"
    points = await client.request("session.history.listRewindPoints", {"sessionId": "a"})
    assert points["unavailableReason"] == "session-busy"
    call.finish("done")
    await client.next_event("session.idle", "a")
    assert await said(client, "a") == ["one", "two"]


async def test_a_rewind_says_its_outcome(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "one", "two")
    points = await client.request("session.history.listRewindPoints", {"sessionId": "a"})
    assert [point["userMessage"] for point in points["points"]] == ["one", "two"]
    assert "unavailableReason" not in points
    params = {"sessionId": "a", "eventId": points["points"][1]["eventId"]}
    files = await client.request(
        "session.history.rewind", {**params, "mode": "conversation-and-files"}
    )
    assert files["outcome"] == "file-change-tracking-disabled"
    assert await said(client, "a") == ["one", "two"]
    answer = await client.request("session.history.rewind", {**params, "mode": "conversation"})
    assert answer["outcome"] == "success"
    assert answer["eventsRemoved"] > 0
    assert (answer["restoredFiles"], answer["skippedFiles"]) == ([], [])
    assert await said(client, "a") == ["one"]
    with pytest.raises(InvalidParams, match="not found"):
        await client.request("session.history.truncate", params)


async def test_a_preview_of_going_back_has_no_files(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "one", "two")
    params = {"sessionId": "a", "eventId": await message_id(client, "a", 1)}
    assert await client.request("session.history.previewRewind", params) == {
        "available": False,
        "reason": "file-change-tracking-disabled",
        "fileCount": 0,
        "files": [],
    }
    assert await said(client, "a") == ["one", "two"]
    with pytest.raises(InvalidParams, match="not found"):
        await client.request("session.history.previewRewind", {**params, "eventId": "unknown"})


async def test_a_fork_can_go_back_behind_its_beginning(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await spoken(client, "a", "one", "two")
    await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})
    await resumed(client, "b")
    await client.turn("b", "three")
    event_id = await message_id(client, "b", 1)
    await client.request("session.history.truncate", {"sessionId": "b", "eventId": event_id})
    await client.turn("b", "four")
    assert await said(client, "b") == ["one", "four"]
    assert await said(client, "a") == ["one", "two"]
    assert model_read(room) == ["one", "answer 1 to one", "four"]
    row = (await client.request("session.getMetadata", {"sessionId": "b"}))["session"]
    assert row["parentSessionId"] == "a"


# Described


async def test_a_made_title_gives_way_to_a_chosen_one(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "one")

    async def made(summary: str) -> bool:
        params = {"sessionId": "a", "summary": summary}
        return bool((await client.request("session.name.setAuto", params))["applied"])

    async def name() -> Any:
        return (await client.request("session.name.get", {"sessionId": "a"}))["name"]

    assert await made("First  summary")
    assert await name() == "First summary"
    assert await made("second")
    await client.request("session.name.set", {"sessionId": "a", "name": "Mine"})
    assert not await made("third")
    assert await name() == "Mine"
    for unseen in ("  ", "\u200b"):
        with pytest.raises(InvalidParams, match="summary"):
            await made(unseen)


@pytest.mark.parametrize("name", ["", "  ", "\u200b", "\u2060 \ufeff"])
async def test_a_name_that_nobody_would_see_is_refused(
    both: tuple[FramesClient, Room], name: str
) -> None:
    client, _ = both
    await client.create("a")
    with pytest.raises(InvalidParams, match="name"):
        await client.request("session.name.set", {"sessionId": "a", "name": name})


async def test_metadata_is_the_callers_own(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a")
    change = {"sessionId": "a", "metadata": {"tag": "x", "n": 1, "deep": {"l": [None]}}}
    answer = await client.request("session.metadata.update", change)
    assert answer == {"metadata": change["metadata"], "archived": False}
    update = {"sessionId": "a", "metadata": {"n": None, "tag": "y"}}
    await client.request("session.metadata.update", update)
    room.sessions.let_go()
    kept = await client.request("session.metadata.get", {"sessionId": "a"})
    assert kept["metadata"] == {"tag": "y", "deep": {"l": [None]}}
    big = {"sessionId": "a", "metadata": {"big": "x" * limits.METADATA_BYTES}}
    with pytest.raises(InvalidParams, match=r"\$\.metadata"):
        await client.request("session.metadata.update", big)
    assert await client.request("session.metadata.get", {"sessionId": "a"}) == kept


async def test_what_a_session_does_is_told(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a", workingDirectory="/w", model="m")
    ask = {"sessionId": "a"}
    snapshot = await client.request("session.metadata.snapshot", ask)
    assert snapshot["workingDirectory"] == "/w"
    assert snapshot["selectedModel"] == "m"
    assert snapshot["alreadyInUse"] is False
    assert (snapshot["workspacePath"], snapshot["sessionLimits"]) == (None, None)
    room.model.hold = True
    await client.say("a", "one")
    call = await room.model.next_call()
    assert await client.request("session.metadata.isProcessing", ask) == {"processing": True}
    busy = {"abortable": True, "hasActiveWork": True}
    assert await client.request("session.metadata.activity", ask) == busy
    call.finish("done")
    await client.next_event("session.idle", "a")
    assert await client.request("session.metadata.isProcessing", ask) == {"processing": False}
    idle = {"abortable": False, "hasActiveWork": False}
    assert await client.request("session.metadata.activity", ask) == idle


async def test_usage_adds_up_and_survives(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a", model="m")
    await client.turn("a", "one")
    await client.turn("a", "two")
    room.sessions.let_go()
    used = await client.request("session.usage.getMetrics", {"sessionId": "a"})
    assert used["totalUserRequests"] == 2
    metric = used["modelMetrics"]["m"]
    assert metric["requests"] == {"count": 2, "cost": 0.0}
    assert (metric["usage"]["inputTokens"], metric["usage"]["outputTokens"]) == (14, 6)
    assert (used["lastCallInputTokens"], used["lastCallOutputTokens"]) == (7, 3)


async def test_what_waits_in_an_imported_session_has_no_turn_before_it_is_resumed(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.create("a", model="m")
    room.model.hold = True
    await client.say("a", "one")
    await room.model.next_call()
    await client.say("a", "two")
    document = await exported(client, "a")
    await client.request("session.import", {"document": document, "sessionId": "b"})
    asked = len(room.models.given)
    await client.request("session.metadata.get", {"sessionId": "b"})
    await client.request("session.resume", {"sessionId": "b", "continuePendingWork": False})
    assert len(room.models.given) == asked
    waiting = await client.request("session.queue.pendingItems", {"sessionId": "b"})
    assert [item["displayText"] for item in waiting["items"]] == ["two"]
    await client.request("session.resume", {"sessionId": "b"})
    call = await room.model.next_call()
    assert last_words(call.request) == "two"
    call.finish("fine")
    await client.next_event("session.idle", "b")


async def test_a_call_is_counted_once_in_all_sessions(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a", model="m")
    await client.turn("a", "one")
    await client.turn("a", "two")
    document = await exported(client, "a")
    await client.request("session.import", {"document": document, "sessionId": "b"})
    await client.request("session.import", {"document": document, "ifExists": "rename"})
    await resumed(client, "b")
    await client.turn("b", "three")

    async def counted() -> tuple[int, int, int]:
        room.sessions.let_go()
        turns = calls = tokens = 0
        for session in await listed(client):
            used = await client.request("session.usage.getMetrics", {"sessionId": session})
            turns += used["totalUserRequests"]
            calls += sum(each["requests"]["count"] for each in used["modelMetrics"].values())
            tokens += sum(each["usage"]["inputTokens"] for each in used["modelMetrics"].values())
        return turns, calls, tokens

    assert await counted() == (3, 3, 21)
    await client.request("session.delete", {"sessionId": "a"})
    assert await counted() == (1, 1, 7)
    await client.request("session.import", {"document": document})  # under its own id: as it was
    assert await counted() == (3, 3, 21)


async def test_a_fork_counts_its_own_turns_and_calls(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a", model="m")
    await client.turn("a", "one")
    event_id = await message_id(client, "a", 0)
    await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})

    async def counted() -> tuple[int, int, int]:
        room.sessions.let_go()
        used = await client.request("session.usage.getMetrics", {"sessionId": "b"})
        calls = sum(each["requests"]["count"] for each in used["modelMetrics"].values())
        return used["totalUserRequests"], calls, used["lastCallInputTokens"]

    assert await counted() == (0, 0, 0)
    await resumed(client, "b")
    await client.turn("b", "two")
    assert await counted() == (1, 1, 7)
    await client.request("session.history.truncate", {"sessionId": "b", "eventId": event_id})
    assert await counted() == (1, 1, 7)


# Found


async def test_the_list_is_filtered_and_paged(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    for name in ("b1", "a1", "a2", "b2"):
        await client.create(name)
        update = {"sessionId": name, "metadata": {"group": name[0], "on": True}}
        await client.request("session.metadata.update", update)
    await client.request("session.name.set", {"sessionId": "a2", "name": "Zed"})
    await client.request("session.metadata.update", {"sessionId": "b1", "archived": True})
    assert set(await listed(client)) == {"a1", "a2", "b2"}
    assert await listed(client, filter={"archived": True}) == ["b1"]
    assert len(await listed(client, filter={"archived": "any"})) == 4
    assert await listed(client, filter={"named": True}) == ["a2"]
    assert set(await listed(client, filter={"prefix": "a"})) == {"a1", "a2"}
    assert await listed(client, filter={"metadata": {"group": "b", "on": True}}) == ["b2"]
    assert await listed(client, filter={"metadata": {"on": False}}) == []
    assert await listed(client, filter={"metadata": {"on": 1}}) == []
    for order in ("created", "modified", "title"):
        whole = await listed(client, order=order)
        paged: list[str] = []
        cursor = None
        while True:
            page = await client.request(
                "session.list", {"order": order, "limit": 2, "cursor": cursor}
            )
            paged += [row["sessionId"] for row in page["sessions"]]
            cursor = page.get("cursor")
            if cursor is None:
                break
        assert paged == whole
    assert (await listed(client, order="title"))[-1] == "a2"


@pytest.mark.parametrize("cursor", ["", "x", "[1,2]", '["title","x",1]', "9" * 30, "[" * 400])
async def test_a_cursor_that_nobody_gave_is_refused(
    both: tuple[FramesClient, Room], cursor: str
) -> None:
    client, _ = both
    with pytest.raises(InvalidParams, match="cursor"):
        await client.request("session.list", {"limit": 1, "cursor": cursor})
    with pytest.raises(InvalidParams, match="cursor"):
        await client.request("sessions.search", {"text": "x", "cursor": cursor})


async def test_what_was_said_is_found(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "the Größe of things", "unrelated")
    await spoken(client, "b", "nothing")
    for text in ("größe", "GRÖßE", "große thi", "things the"):
        assert await found(client, text) == {"a"}
    assert await found(client, "größe nothing") == set()
    answer = await client.request("sessions.search", {"text": "größe"})
    hit = next(h for h in answer["hits"] if h["type"] == "user.message")
    assert hit["eventId"] == await message_id(client, "a", 0)
    text, places = hit["snippet"]["text"], hit["snippet"]["highlights"]
    assert [text[start:end] for start, end in places] == ["Größe"]


@pytest.mark.parametrize("text", ["", "  ", '"', "!!!", "a AND", "NEAR(", "*", "\0", "x:y -z", "^"])
async def test_any_text_can_be_searched(both: tuple[FramesClient, Room], text: str) -> None:
    client, _ = both
    await spoken(client, "a", "hello")
    assert await found(client, text) == set()
    assert await found(client, "hello") == {"a"}


async def test_hits_come_in_pages(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    room.model.hold = True
    for number in range(5):
        await client.create(f"s{number}")
        await client.say(f"s{number}", "word")
        (await room.model.next_call()).finish("answer")
        await client.next_event("session.idle", f"s{number}")
    seen: list[str] = []
    cursor = None
    while True:
        params = {"text": "word", "limit": 2, "cursor": cursor}
        page = await client.request("sessions.search", params)
        seen += [hit["session"]["sessionId"] for hit in page["hits"]]
        if (cursor := page.get("cursor")) is None:
            break
        assert len(page["hits"]) == 2
    assert sorted(seen) == [f"s{number}" for number in range(5)]


async def test_what_forks_share_is_found_in_each(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await spoken(client, "a", "shared", "later")
    before = await message_id(client, "a", 1)
    fork = {"sessionId": "a", "newSessionId": "b", "toEventId": before}
    await client.request("sessions.fork", fork)
    assert await found(client, "shared") == {"a", "b"}
    assert await found(client, "later") == {"a"}
    await client.request("session.delete", {"sessionId": "a"})
    assert await found(client, "shared") == {"b"}
    assert await found(client, "later") == set()


class Tasks:
    """Those of an indexer: how many have begun, and when the first has ended."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._ended = anyio.Event()
        self.begun = 0

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await work()
            self._ended.set()

        self.begun += 1
        self._room.world.spawn(run)

    async def ended(self) -> None:
        with anyio.fail_after(20):
            await self._ended.wait()


async def test_the_index_is_written_behind_the_turns(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, room = both
    tasks = Tasks(room)
    indexer = Indexer(room.store, tasks.spawn, pause_s=0)
    await spoken(client, "a", "hello")
    indexer.changed()
    indexer.changed()
    await tasks.ended()
    assert tasks.begun == 1
    db = sqlite3.connect(tmp_path / "home" / FILE_NAME)
    assert db.execute("SELECT count(*) FROM segments WHERE indexed < head").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM said WHERE said MATCH 'hello'").fetchone() == (2,)
    db.close()
    indexer.changed()
    assert tasks.begun == 2


async def test_the_index_waits_for_quiet_but_not_for_ever(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, room = both
    await spoken(client, "a", "hello")
    waiting = Indexer(room.store, lambda _: None, pause_s=100, late_s=250)
    waiting.changed()
    begun = waiting.due_s
    waiting.changed()
    assert begun < waiting.due_s < begun + 50, "it is put off by what is stored meanwhile"
    tasks = Tasks(room)
    Indexer(room.store, tasks.spawn, pause_s=1e6, late_s=0).changed()
    await tasks.ended()
    db = sqlite3.connect(tmp_path / "home" / FILE_NAME)
    assert db.execute("SELECT count(*) FROM said WHERE said MATCH 'hello'").fetchone() == (2,)
    db.close()


async def test_a_store_that_ends_first_is_no_failure_of_the_index(
    both: tuple[FramesClient, Room], caplog: pytest.LogCaptureFixture
) -> None:
    client, room = both
    tasks = Tasks(room)
    await spoken(client, "a", "hello")
    room.store.close()
    Indexer(room.store, tasks.spawn, pause_s=0).changed()
    await tasks.ended()
    assert "Traceback" not in caplog.text


async def test_an_id_is_found_by_its_beginning(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    for name in ("alpha", "alpine", "beta", "bet"):
        await client.create(name)

    async def whose(prefix: str) -> Any:
        answer = await client.request("sessions.findByPrefix", {"prefix": prefix})
        return answer.get("sessionId")

    assert [await whose(p) for p in ("alpi", "al", "bet", "beta", "x", "", "%", "AL")] == [
        "alpine",
        None,
        "bet",
        "beta",
        None,
        None,
        None,
        None,
    ]


async def test_the_last_session_of_a_folder(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("a", workingDirectory="/x")
    await client.create("b", workingDirectory="/x")
    await client.create("c", workingDirectory="/y")
    await client.turn("a", "one")
    await client.request("session.metadata.update", {"sessionId": "a", "archived": True})
    last = "sessions.getLastForContext"
    assert await client.request(last, {"context": {"cwd": "/x"}}) == {"sessionId": "b"}
    assert await client.request(last, {"context": {"cwd": "/z"}}) == {}
    assert await client.request(last) == {"sessionId": "c"}


# Cleared away


async def test_sizes_grow_and_stay_with_a_rewound_session(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await spoken(client, "a", "one", "two")
    size = (await client.request("sessions.getSizes"))["sizes"]["a"]
    event_id = await message_id(client, "a", 1)
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
    assert (await client.request("sessions.getSizes"))["sizes"]["a"] > size
    freed = await client.request("sessions.bulkDelete", {"sessionIds": ["a"]})
    assert freed["freedBytes"]["a"] > size


async def test_what_sessions_share_counts_for_the_oldest(both: tuple[FramesClient, Room]) -> None:
    client, _ = both

    async def sizes() -> dict[str, int]:
        found: dict[str, int] = (await client.request("sessions.getSizes"))["sizes"]
        return found

    await spoken(client, "a", "x" * 10_000, "two")
    alone = (await sizes())["a"]
    await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})
    before = await sizes()
    assert before["a"] == alone
    assert 0 < before["b"] < 10_000
    event_id = await message_id(client, "a", 1)
    await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
    after = await sizes()
    assert after["a"] > alone
    assert after["b"] == before["b"]
    await client.request("session.delete", {"sessionId": "a"})
    assert (await sizes())["b"] == alone + before["b"]


async def test_what_is_in_use_is_not_pruned(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    for name in ("old", "named", "spared", "runs", "waits", "followed"):
        await client.create(name)
        if name != "followed":
            await client.request("session.detach", {"sessionId": name})
    await resumed(client, "named")
    await client.request("session.name.set", {"sessionId": "named", "name": "Mine"})
    await resumed(client, "runs")
    room.model.hold = True
    await client.say("runs", "one")
    call = await room.model.next_call()
    for name in ("named", "runs"):
        await client.request("session.detach", {"sessionId": name})
    params = {"olderThanDays": -0.0, "excludeSessionIds": ["spared"]}
    with anyio.fail_after(20):  # the clock has to go on by a millisecond
        while True:
            plan = await client.request("sessions.pruneOld", {**params, "dryRun": True})
            if len(plan["candidates"]) == 6:
                break
    assert (plan["deleted"], plan["freedBytes"], plan["dryRun"]) == ([], 0, True)
    assert plan["reasons"] == {
        "named": "named",
        "spared": "excluded",
        "runs": "running",
        "followed": "attached",
    }
    assert set(plan["skipped"]) == set(plan["reasons"])
    done = await client.request("sessions.pruneOld", params)
    assert set(done["deleted"]) == {"old", "waits"}
    assert done["freedBytes"] > 0
    assert set(await listed(client)) == {"named", "spared", "runs", "followed"}
    call.finish("done")
    young = await client.request("sessions.pruneOld", {"olderThanDays": 1})
    assert (young["candidates"], young["recent"]) == ([], 4)
    with pytest.raises(InvalidParams, match="olderThanDays"):
        await client.request("sessions.pruneOld", {"olderThanDays": -1})


async def test_deleting_many_tells_everybody(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("a")
    await client.create("b")
    answer = await client.request("sessions.bulkDelete", {"sessionIds": ["a", "a", "../x", "b"]})
    assert set(answer["freedBytes"]) == {"a", "b"}
    for name in ("a", "b"):
        await client.wait_for(
            lambda m, name=name: (
                m.get("method") == "session.lifecycle"  # type: ignore[misc]
                and m["params"] == {"type": "session.deleted", "sessionId": name}
            )
        )
    assert await listed(client) == []


async def test_a_closed_session_stays_stored(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a")
    room.model.hold = True
    await client.say("a", "one")
    call = await room.model.next_call()
    assert await client.request("sessions.close", {"sessionId": "a"}) == {}
    with anyio.fail_after(20):
        await call.ended.wait()
    with pytest.raises(SessionNotFound):
        await client.history("a")
    await resumed(client, "a")
    assert await said(client, "a") == ["one"]
    assert await client.request("sessions.save", {"sessionId": "a"}) == {}
    with pytest.raises(SessionNotFound):
        await client.request("sessions.save", {"sessionId": "nobody"})


async def test_closing_leaves_a_session_to_the_others(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    await client.create("a")
    other = room.connect()
    await resumed(other, "a")
    room.model.hold = True
    await client.say("a", "one")
    call = await room.model.next_call()
    await client.request("sessions.close", {"sessionId": "a"})
    call.finish("done")
    await other.next_event("assistant.message", "a")


async def test_in_use_means_in_another_daemon(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, room = both
    await client.create("mine")
    room.model.hold = True
    await client.say("mine", "one")
    await room.model.next_call()
    params = {"sessionIds": ["mine", "nobody"]}
    assert await client.request("sessions.checkInUse", params) == {"inUse": []}
    async with pair(tmp_path / "home") as (elsewhere, _):
        assert await elsewhere.request("sessions.checkInUse", params) == {"inUse": ["mine"]}


# Documents


async def exported(client: FramesClient, session_id: str) -> dict[str, Any]:
    answer = await client.request("session.export", {"sessionId": session_id})
    return dict(answer["document"])


async def test_a_session_carried_elsewhere_is_the_same(tmp_path: Path) -> None:
    async with pair(tmp_path / "one") as (client, _):
        await spoken(client, "a", "one", "two", "three")
        await client.request("session.name.set", {"sessionId": "a", "name": "Mine"})
        event_id = await message_id(client, "a", 2)
        await client.request("session.history.truncate", {"sessionId": "a", "eventId": event_id})
        update = {"sessionId": "a", "metadata": {"k": 1}}
        await client.request("session.metadata.update", update)
        document = await exported(client, "a")
        events = await client.history("a")
    async with pair(tmp_path / "two") as (client, room):
        answer = await client.request("session.import", {"document": document})
        assert answer == {"sessionId": "a"}
        await resumed(client, "a")
        assert await client.history("a") == events
        assert await exported(client, "a") == document
        row = (await client.request("session.getMetadata", {"sessionId": "a"}))["session"]
        assert (row["name"], row["metadata"]) == ("Mine", {"k": 1})
        assert row["startTime"] == document["startTime"]
        assert await found(client, "two") == {"a"}
        await client.turn("a", "four")
        assert last_words(room.model.calls[-1].request) == "four"
        assert "three" not in model_read(room)


async def test_a_turn_that_ran_when_it_was_written_down_is_interrupted(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.create("a")
    room.model.hold = True
    await client.say("a", "one")
    await room.model.next_call()
    document = await exported(client, "a")
    await client.request("session.import", {"document": document, "sessionId": "b"})
    room.model.hold = False
    await resumed(client, "b")
    await client.turn("b", "two")
    kinds = [event["type"] for event in await client.history("b")]
    assert kinds.count("assistant.turn_start") == kinds.count("assistant.turn_end") == 2
    assert "session.error" in kinds


async def test_an_id_that_is_taken_is_refused_or_renamed(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await spoken(client, "a", "one")
    document = await exported(client, "a")
    with pytest.raises(SessionExists):
        await client.request("session.import", {"document": document})
    one = await client.request("session.import", {"document": document, "ifExists": "rename"})
    two = await client.request("session.import", {"document": document, "sessionId": "b"})
    assert two == {"sessionId": "b"}
    assert len({"a", "b", one["sessionId"]}) == 3
    await resumed(client, one["sessionId"])
    assert await said(client, one["sessionId"]) == ["one"]


async def test_no_secret_comes_in_or_goes_out(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, _ = both
    provider = {"type": "openai", "baseUrl": "http://127.0.0.1:1/v1", "apiKey": "s3cret-key"}
    await client.create("a", model="m", provider=provider)
    document = await exported(client, "a")
    assert "s3cret" not in json.dumps(document)
    settings = next(e["event"] for e in document["events"] if "config" in e["event"]["data"])
    config = settings["data"]["config"]
    for name, member in (("b", {"provider": provider}), ("c", {"theirs": provider})):
        settings["data"]["config"] = config | member
        await client.request("session.import", {"document": document, "sessionId": name})
        assert "s3cret" not in json.dumps(await exported(client, name))
    for path in (tmp_path / "home").iterdir():
        if path.is_file():
            assert b"s3cret" not in path.read_bytes(), path


LONG = "y" * (limits.NAME_CHARS + 1)


def fact(document: dict[str, Any], kind: str, **data: Any) -> dict[str, Any]:
    """The third event, with another type and data."""
    return {**document["events"][2]["event"], "type": kind, "data": data}


CARRIED: dict[str, Any] = {"config": {}, "turns": 1, "pending": [], "keys": {}, "usage": {}}


BROKEN: dict[str, tuple[Any, str]] = {
    "another format": (lambda d: d.update(format="x"), "$.document.format"),
    "a later version": (lambda d: d.update(version=2), "$.document.version"),
    "no events": (lambda d: d.update(events=[]), "$.document.events"),
    "no time": (lambda d: d.update(startTime="soon"), "$.document.startTime"),
    "a bad id": (lambda d: d.update(sessionId="../x"), "$.document.sessionId"),
    "a late beginning": (lambda d: d["events"].pop(0), "$.document.events[0].seq"),
    "no beginning": (
        lambda d: d["events"][0]["event"].update(type="session.info", data={"x": 1}),
        "$.document.events[0].event.data.infoType",
    ),
    "a seq twice": (lambda d: d["events"][2].update(seq=2), "$.document.events[2].seq"),
    "a gap": (lambda d: d["events"][2].update(seq=9), "$.document.events[2].seq"),
    "a gap that a rewind does not explain": (
        lambda d: d["events"][2].update(
            seq=9, event=fact(d, "tertulia.rewound", kept=1, removed=7, carried=CARRIED)
        ),
        "$.document.events[2].seq",
    ),
    "a last seq": (
        lambda d: d["events"][2].update(
            seq=2**31 - 1, event=fact(d, "tertulia.rewound", kept=2, removed=7, carried=CARRIED)
        ),
        "$.document.events[2].seq",
    ),
    "a time that no calendar has": (
        lambda d: d.update(startTime="9999-12-31T23:59:59-12:00"),
        "$.document.startTime",
    ),
    "a count without end": (
        lambda d: d["events"][2].update(
            event=fact(d, "tertulia.used", model="m", durationMs=1e308)
        ),
        "$.document.events[2].event.data",
    ),
    "a count below nothing": (
        lambda d: d["events"][2].update(
            event=fact(
                d,
                "tertulia.rewound",
                kept=1,
                removed=7,
                carried=CARRIED | {"usage": {"m": {"outputTokens": -1}}},
            )
        ),
        "$.document.events[2].event.data.carried.usage.m",
    ),
    "turns below nothing": (
        lambda d: d["events"][2].update(
            event=fact(d, "tertulia.rewound", kept=1, removed=7, carried=CARRIED | {"turns": -5})
        ),
        "$.document.events[2].event.data.carried",
    ),
    "large metadata": (
        lambda d: d["events"][2].update(
            event=fact(
                d, "tertulia.described", metadata={"x": "y" * limits.METADATA_BYTES}, archived=False
            )
        ),
        "$.document.events",
    ),
    "a long title": (
        lambda d: d["events"][2].update(event=fact(d, "tertulia.named", name=LONG, auto=True)),
        "$.document.events",
    ),
    "a source without an id": (
        lambda d: d["events"][2].update(event=fact(d, "tertulia.forked", source=LONG, upto=2)),
        "$.document.events",
    ),
    "a name that nobody would see": (
        lambda d: d["events"][2].update(event=fact(d, "tertulia.named", name="\u200b")),
        "$.document.events",
    ),
    "a huge seq": (lambda d: d["events"][2].update(seq=2**40), "$.document.events[2].seq"),
    "no id": (lambda d: d["events"][1]["event"].pop("id"), "$.document.events[1].event.id"),
    "an id twice": (
        lambda d: d["events"][1]["event"].update(id=d["events"][0]["event"]["id"]),
        "$.document.events[1].event.id",
    ),
    "data of another shape": (
        lambda d: d["events"][3]["event"].update(data=[]),
        "$.document.events[3].event.data",
    ),
    "a live event": (
        lambda d: d["events"][2]["event"].update(ephemeral=True),
        "$.document.events[2].event",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_document_is_refused_where_it_is_broken(
    both: tuple[FramesClient, Room], name: str
) -> None:
    client, _ = both
    await spoken(client, "a", "one")
    document = await exported(client, "a")
    await client.request("session.delete", {"sessionId": "a"})
    break_, path = BROKEN[name]
    break_(document)
    with pytest.raises(RpcError) as refused:
        await client.request("session.import", {"document": document})
    assert isinstance(refused.value, InvalidParams)
    assert refused.value.data is not None
    assert refused.value.data["path"] == path
    assert await listed(client) == []


async def test_who_speaks_waits_for_few_of_many_that_are_deleted(
    both: tuple[FramesClient, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, room = both
    monkeypatch.setattr(limits, "DELETED_AT_ONCE", 2)
    many = [f"s{number}" for number in range(40)]
    for each in many:
        await client.create(each)
    other = room.connect()
    await other.create("of-another")
    asked = await client.ask("sessions.bulkDelete", {"sessionIds": many})
    spoke = await other.ask("session.log", {"sessionId": "of-another", "message": "meanwhile"})
    await other.answer(spoke)
    left = (await other.request("session.list"))["sessions"]
    assert len(left) > len(many) / 2
    assert set((await client.answer(asked))["result"]["freedBytes"]) == set(many)


async def test_what_is_attached_to_while_others_are_pruned_stays(
    both: tuple[FramesClient, Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, room = both
    monkeypatch.setattr(limits, "DELETED_AT_ONCE", 2)
    many = [f"s{number}" for number in range(20)]
    for each in many:
        await client.create(each)
        await client.request("session.detach", {"sessionId": each})
    other = room.connect()
    listed = [row["sessionId"] for row in (await client.request("session.list"))["sessions"]]
    real = room.store.delete
    deleted: list[str] = []

    def first(session_ids: list[str], known: Row | None) -> Any:
        if not deleted:
            room.engine.hub.attach(next(iter(room.connections)), listed[-1], Known(0))
        deleted.extend(session_ids)
        return real(session_ids, known)

    monkeypatch.setattr(room.store, "delete", first)
    answer = await other.request("sessions.pruneOld", {"olderThanDays": 0})
    assert answer["reasons"] == {listed[-1]: "attached"}
    assert answer["skipped"] == [listed[-1]]
    assert sorted(answer["deleted"]) == sorted(deleted) == sorted(set(many) - {listed[-1]})


@pytest.mark.parametrize("where", ["here", "in another daemon"])
async def test_what_comes_into_use_while_others_are_pruned_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Here before its turn comes, and in another daemon at the last moment."""
    monkeypatch.setattr(limits, "DELETED_AT_ONCE", 1)
    async with pair(tmp_path) as (client, room), pair(tmp_path) as (there, _):
        for each in ("a", "b"):
            await client.create(each)
            await client.request("session.detach", {"sessionId": each})
        held = hold_deletions(room, monkeypatch)
        pruning = await client.ask("sessions.pruneOld", {"olderThanDays": 0})
        with anyio.fail_after(PATIENCE_S):
            while not held.asked:
                await client.request("ping")
        used, user = ({"a", "b"} - {*held.asked}).pop(), room.connect()
        if where != "here":
            used, user = held.asked[0], there
        await user.request("session.resume", {"sessionId": used})
        await user.request("session.name.set", {"sessionId": used, "name": "kept"})
        await user.request("session.detach", {"sessionId": used})
        held.may_go.set()
        pruned = (await client.answer(pruning))["result"]
        assert pruned["deleted"] == pruned["candidates"] == [({"a", "b"} - {used}).pop()]
        assert pruned["recent"] == 1
        await client.request("session.resume", {"sessionId": used})
        assert await client.turn(used, "still there")


@pytest.mark.parametrize("method", ["sessions.fork", "session.import"])
async def test_who_attaches_to_what_is_just_being_made_stays_attached(
    both: tuple[FramesClient, Room], method: str
) -> None:
    client, room = both
    await spoken(client, "a", "one")
    document = await exported(client, "a")
    other = room.connect()
    for number in range(20):
        made = f"made-{number}"
        of = {"document": document, "sessionId": made}
        if method == "sessions.fork":
            of = {"sessionId": "a", "newSessionId": made}
        asked = await client.ask(method, of)
        attached = False
        with anyio.fail_after(PATIENCE_S):
            while not attached:
                params = {"sessionId": made, "disableResume": True}
                answer = await other.answer(await other.ask("session.resume", params))
                attached = "result" in answer
        assert "result" in await client.answer(asked)
        assert (await other.request("session.name.get", {"sessionId": made}))["name"] is None


async def test_a_name_that_is_given_with_the_settings_replaces_one_that_was_set(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    for method, more in (
        ("session.resume", {}),
        ("session.create", {"ifExists": "resume"}),
        ("session.resume", {"disableResume": True}),
    ):
        await client.request("session.create", {"sessionId": "a", "name": "first"})
        await client.request("session.name.set", {"sessionId": "a", "name": "second"})
        await client.request(method, {"sessionId": "a", "name": "third", **more})
        named = await client.request("session.name.get", {"sessionId": "a"})
        assert named == {"name": "third"}
        await client.request("session.delete", {"sessionId": "a"})


async def test_a_name_that_came_with_the_settings_stays_with_the_source_of_a_fork(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await client.create("a", name="chosen")
    await client.turn("a", "hello")
    await client.request("sessions.fork", {"sessionId": "a", "newSessionId": "b"})
    rows = (await client.request("session.list"))["sessions"]
    assert {row["sessionId"]: row.get("named", False) for row in rows} == {"a": True, "b": False}


@pytest.mark.parametrize("words", ["", "  \n "])
async def test_a_message_without_words_gives_no_title_and_the_next_one_does(
    both: tuple[FramesClient, Room], words: str
) -> None:
    client, _ = both
    await client.create("a")
    image = {"type": "blob", "mimeType": "image/png", "data": "aGk="}
    await client.ask("session.send", {"sessionId": "a", "prompt": words, "attachments": [image]}, 1)
    await client.answer(1)
    await client.next_event("session.idle", "a")
    assert "session.title_changed" not in [event["type"] for event in client.events("a")]
    await client.turn("a", "hello there")
    (row,) = (await client.request("session.list"))["sessions"]
    assert row["summary"] == "hello there"


async def test_options_take_no_model_that_nothing_answers_for(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await client.create("a", model="m")
    with pytest.raises(ModelUnavailable):
        params = {"sessionId": "a", "model": "nobody-has-it"}
        await client.request("session.options.update", params)
    with pytest.raises(InvalidParams, match="modelId"):
        await client.request("session.model.switchTo", {"sessionId": "a", "modelId": ""})
    current = await client.request("session.model.getCurrent", {"sessionId": "a"})
    assert current["modelId"] == "m"


async def test_what_is_known_of_a_model_comes_with_the_switch_to_it(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await client.create("a", model="m")
    limits_of_it = {"limits": {"max_context_window_tokens": 777}}
    switch = {"sessionId": "a", "modelId": "n", "modelCapabilities": limits_of_it}
    await client.request("session.model.switchTo", switch)
    await client.turn("a", "hello")
    (info,) = [e for e in client.events("a") if e["type"] == "session.usage_info"]
    assert info["data"]["tokenLimit"] == 777
    current = await client.request("session.model.getCurrent", {"sessionId": "a"})
    assert current["modelId"] == "n"
