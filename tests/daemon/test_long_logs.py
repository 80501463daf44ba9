"""A session of ten thousand turns comes back by the end of its log, and its model reads all of
it; texts of every kind and of any size come back as they were said."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.replies import Reply, settled
from tertuliad.sessions import state
from tertuliad.store.base import Append, Log, Range, Record
from tertuliad.store.schema import FILE_NAME
from tests.support.frames_client import FramesClient
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

TURNS = 10_000
NEVER = 10**6
"""So many events that there is no snapshot."""
Document = dict[str, Any]


async def exported(client: FramesClient, session_id: str) -> Document:
    document: Document = (await client.request("session.export", {"sessionId": session_id}))[
        "document"
    ]
    return document


def many_turns(document: Document, turns: int) -> Document:
    """The document of one turn, with its turn so often, each as if said after the one before."""
    records = document["events"]
    start = next(n for n, r in enumerate(records) if r["event"]["type"] == "user.message")
    before, turn = records[:start], records[start:]
    seqs = itertools.count(1)
    renamed = [
        {**record["event"], "id": f"{record['event']['id']}-{number}"}
        for number in range(turns)
        for record in turn
    ]
    events = [*(record["event"] for record in before), *renamed]
    shown = [event for event in events if not event["type"].startswith("tertulia.")]
    for earlier, event in itertools.pairwise(shown):
        event["parentId"] = earlier["id"]
    return {**document, "events": [{"seq": next(seqs), "event": event} for event in events]}


class Reads:
    """How many records each load and each read of the store gave."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[int] = []
        self.read: list[int] = []
        load, read = room.store.load, room.store.read

        def counted_load(session_id: str, upto: int | None = None) -> Future[Log | None]:
            return self._noted(load(session_id, upto), self.loaded, lambda log: len(log.records))

        def counted_read(session_id: str, wanted: Range) -> Future[list[Record]]:
            return self._noted(read(session_id, wanted), self.read, len)

        monkeypatch.setattr(room.store, "load", counted_load)
        monkeypatch.setattr(room.store, "read", counted_read)

    @staticmethod
    def _noted(future: Future[Any], counts: list[int], count: Any) -> Future[Any]:
        future.add_done_callback(lambda done: counts.append(count(done.result())))
        return future


async def test_a_session_of_ten_thousand_turns_comes_back_by_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("short")
        await client.turn("short", "hello")
        long = many_turns(await exported(client, "short"), TURNS)
        await client.request("session.import", {"document": long, "sessionId": "long"})
        await client.request("session.resume", {"sessionId": "long"})
    async with pair(tmp_path) as (client, room):
        reads = Reads(room, monkeypatch)
        await client.request("session.resume", {"sessionId": "long"})
        listed = await client.request("session.list", {"limit": 10})
        assert {row["sessionId"] for row in listed["sessions"]} == {"long", "short"}
        page = await client.request("session.eventLog.read", {"sessionId": "long", "max": 10})
        assert len(page["events"]) == 10
        assert len(reads.loaded) == 1
        assert reads.loaded[0] <= limits.SNAPSHOT_EVENTS
        assert max(reads.read) <= 20, "more was read than was asked for"
        room.model.context_window = 10**9
        await client.turn("long", "and one more")
        said = [m for m in room.model.calls[-1].request.messages if m.role == "user"]
        assert len(said) == TURNS + 1
        stored = await client.history("long")
        asked = [e for e in stored if e["type"] == "user.message"]
        assert len(asked) == TURNS + 1


async def test_a_log_that_was_never_short_of_a_snapshot_is_the_same_when_it_is_folded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        for number in range(6):
            await client.turn("s", f"message {number}")
        whole = await exported(client, "s")
        monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", NEVER)
        await client.request("session.import", {"document": whole, "sessionId": "copy"})
    async with pair(tmp_path) as (client, room):
        requests = []
        for session in ("s", "copy"):
            await client.request("session.resume", {"sessionId": session})
            await client.turn(session, "and you?")
            requests.append(room.model.calls[-1].request.messages)
        assert requests[0] == requests[1]
        assert len(requests[0]) > 12


async def imported(client: FramesClient, turns: int) -> None:
    """A session `long` of a log that has so many turns."""
    await client.create("short")
    await client.turn("short", "hello")
    document = many_turns(await exported(client, "short"), turns)
    await client.request("session.import", {"document": document, "sessionId": "long"})


async def test_what_is_imported_brings_the_snapshot_that_its_first_resume_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await imported(client, 100)
        reads = Reads(room, monkeypatch)
        await client.request("session.resume", {"sessionId": "long"})
        assert reads.loaded == [0]
        reads.loaded.clear()
        await client.turn("long", "and one more")
        said = [m for m in room.model.calls[-1].request.messages if m.role == "user"]
        assert len(said) == 101


async def users(client: FramesClient, session_id: str) -> list[tuple[int, str]]:
    """The seqs and ids of the user's messages, by which a place in the log is named."""
    records = (await exported(client, session_id))["events"]
    said = [record for record in records if record["event"]["type"] == "user.message"]
    return [(record["seq"], record["event"]["id"]) for record in said]


async def in_order(client: FramesClient, session_id: str, begun: int) -> None:
    """Wait until a session that shows so many turns of its log goes on behind them."""
    await client.turn(session_id, "and one more")
    stored = await client.history(session_id)
    events = stored
    assert len([e for e in events if e["type"] == "user.message"]) == begun + 1
    assert [e["parentId"] for e in events[1:]] == [e["id"] for e in events[:-1]]


@pytest.mark.parametrize("place", [3, 50, None], ids=["early", "middle", "end"])
async def test_a_fork_of_a_long_log_reads_what_is_before_its_place_and_comes_back_by_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int | None
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 8)
    async with pair(tmp_path) as (client, room):
        await imported(client, 100)
        params, turns, before = {"sessionId": "long", "newSessionId": "fork"}, 100, 0
        if place is not None:
            seq, params["toEventId"] = (await users(client, "long"))[place]
            turns, before = place, seq - 1
        reads = Reads(room, monkeypatch)
        await client.request("sessions.fork", params)
        assert reads.loaded == [before]
        assert sum(reads.read) <= 8
        for _ in range(8):  # the source goes on, and its snapshot with it
            await client.request("session.resume", {"sessionId": "long"})
            await client.turn("long", "elsewhere")
    async with pair(tmp_path) as (client, room):
        reads = Reads(room, monkeypatch)
        await client.request("session.resume", {"sessionId": "fork"})
        assert reads.loaded[0] <= 8
        await in_order(client, "fork", turns)


async def test_what_is_folded_behind_a_rewind_is_folded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 8)
    async with pair(tmp_path) as (client, room):
        await imported(client, 100)
        seq, place = (await users(client, "long"))[50]
        await client.request("session.resume", {"sessionId": "long"})
        params = {"sessionId": "long", "eventId": place}
        await client.request("session.history.truncate", params)
        reads = Reads(room, monkeypatch)
        for _ in range(3):
            await client.request("session.resume", {"sessionId": "long", "disableResume": True})
            room.sessions.let_go()
        assert reads.loaded[0] >= seq
        assert reads.loaded[1:] == [0, 0]
        await in_order(client, "long", 50)


async def test_a_session_whose_snapshot_cannot_be_stored_comes_back_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is folded as far as it was, and the next time again."""
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", NEVER)
    async with pair(tmp_path) as (client, room):
        await imported(client, 10)
        monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 8)
        append = room.store.append
        refused = []

        def full(given: Append) -> Future[None]:
            refused.append(given)
            return Reply.failed(StoreFailed("The disk is full."))

        monkeypatch.setattr(room.store, "append", full)
        reads = Reads(room, monkeypatch)
        for _ in range(2):
            await client.request("session.resume", {"sessionId": "long", "disableResume": True})
            room.sessions.let_go()
        assert [given.records for given in refused] == [(), ()]
        assert min(reads.loaded) > 40
        monkeypatch.setattr(room.store, "append", append)
        await client.request("session.resume", {"sessionId": "long"})
        await in_order(client, "long", 10)


async def test_a_session_that_grew_comes_back_by_the_snapshot_that_was_stored_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 8)
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        reads = Reads(room, monkeypatch)
        for number in range(12):
            await client.turn("s", f"message {number}")
            room.sessions.let_go()
            await client.request("session.resume", {"sessionId": "s", "disableResume": True})
        assert len(reads.loaded) >= 12
        assert max(reads.loaded) < 8
        await in_order(client, "s", 12)


async def test_to_list_sessions_reads_no_event(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        for session in ("a", "b"):
            await client.create(session)
            await client.turn(session, "hello")
        reader = room.store._reader
        statements: list[str] = []
        await settled(reader.submit(lambda db: db.set_trace_callback(statements.append)))
        for params in ({}, {"limit": 1}, {"order": "title"}, {"filter": {"archived": "any"}}):
            listed = await client.request("session.list", params)
            assert listed["sessions"]
        await client.request("sessions.findByPrefix", {"prefix": "a"})
        await settled(reader.submit(lambda db: db.set_trace_callback(None)))
        assert any("FROM sessions" in statement for statement in statements)
        assert not [statement for statement in statements if "events" in statement]


class Folds:
    """How many stored events were decoded to be folded: by the event loop's thread, by others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here, self.elsewhere = 0, 0
        self._mine = threading.get_ident()
        self._decoded = state.decoded
        monkeypatch.setattr(state, "decoded", self._counted)

    def _counted(self, record: Record) -> Any:
        if threading.get_ident() == self._mine:
            self.here += 1
        else:
            self.elsewhere += 1
        return self._decoded(record)

    def take(self) -> tuple[int, int]:
        """What was counted since the last time."""
        counts = self.here, self.elsewhere
        self.here = self.elsewhere = 0
        return counts


async def test_a_long_log_without_a_snapshot_is_folded_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", NEVER)
    monkeypatch.setattr(limits, "LIGHT_EVENTS", 40)
    async with pair(tmp_path) as (client, _):
        await imported(client, 100)
        messages = [
            record["event"]["id"]
            for record in (await exported(client, "long"))["events"]
            if record["event"]["type"] == "user.message"
        ]
        resume = {"sessionId": "long", "disableResume": True}
        fork = {"sessionId": "long", "newSessionId": "child"}
        rewind = {"sessionId": "long", "eventId": messages[60]}
        folds = Folds(monkeypatch)
        for method, params in (
            ("session.resume", resume),
            ("sessions.fork", fork),
            ("sessions.fork", {**fork, "toEventId": messages[50], "newSessionId": "other"}),
            ("session.history.truncate", rewind),
            ("session.log", {"sessionId": "long", "message": "of what is left"}),
        ):
            await client.request(method, params)
            here, elsewhere = folds.take()
            assert here <= 40, f"{method} folds on the event loop's thread"
            assert method == "session.history.truncate" or elsewhere > 100
        await client.request("sessions.fork", {"sessionId": "short"})
        here, elsewhere = folds.take()
        assert (0 < here <= 40, elsewhere) == (True, 0), "a short log has nothing to wait for"


async def test_a_long_history_is_folded_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIGHT_EVENTS", 40)
    async with pair(tmp_path) as (client, room):
        await imported(client, 100)
        await client.request("session.resume", {"sessionId": "long"})
        folds = Folds(monkeypatch)
        await client.turn("long", "and one more")
        here, elsewhere = folds.take()
        assert here <= 40
        assert elsewhere > 200
        said = [m for m in room.model.calls[-1].request.messages if m.role == "user"]
        assert len(said) == 101


@pytest.mark.parametrize("light", [0, NEVER], ids=["long", "short"])
async def test_a_log_that_cannot_be_folded_is_told_so_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light: int
) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        await client.turn("s", "hello")
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        wrong = b'{"id":"e","data":{"content":5}}'
        db.execute("UPDATE events SET body = ? WHERE type = 'user.message'", (wrong,))
    monkeypatch.setattr(limits, "LIGHT_EVENTS", light)
    async with pair(tmp_path) as (client, _):
        for method in ("session.resume", "sessions.fork", "session.resume"):
            with pytest.raises(StoreFailed, match="tertulia doctor"):
                await client.request(method, {"sessionId": "s"})
        await client.create("other")
        await client.turn("other", "hello")


# Texts

BREAKS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei\r\nj\rk\nl"
TEXTS = {
    "every line break of Unicode": BREAKS,
    "NUL and other control characters": "".join(map(chr, range(0x20))) + "\x7f\x80\x9f",
    "letters beyond the first plane": "😀𝒳\U0010ffff\U000e0001",
    "text in both directions, joined and combined": "שלום \u202eabc\u202c e\u0301\u200d\ufeff",
    "what looks like the protocol": 'Content-Length: 3\r\n\r\n{"jsonrpc":"2.0"}\\u0000\\',
    "noncharacters": "\ufffe\uffff\ufdd0",
    "nothing but a space": " ",
}


def texts_of(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        if event["type"] in ("user.message", "assistant.message"):
            yield event["data"]["content"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_text_comes_back_as_it_was_said_and_answered(tmp_path: Path, text: str) -> None:
    answer = f"answer 1 to {text}"
    async with pair(tmp_path) as (client, room):
        await client.create("s", streaming=True)
        message = await client.turn("s", text)
        assert message["data"]["content"] == answer
        deltas = [
            e["data"]["deltaContent"]
            for e in client.events("s")
            if e["type"] == "assistant.message_delta"
        ]
        assert "".join(deltas) == answer
        document = await exported(client, "s")
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "s"})
        await client.request("session.import", {"document": document, "sessionId": "copy"})
        await client.request("session.resume", {"sessionId": "copy"})
        for session in ("s", "copy"):
            stored = await client.history(session)
            assert list(texts_of(stored)) == [text, answer]
        await client.turn("s", "again")
        said = [message.content for message in room.model.calls[-1].request.messages]
        assert said[-3:] == [text, answer, "again"]


async def test_half_a_surrogate_pair_is_replaced_once_and_for_all(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        await client.turn("s", "cut \ud83d off")
        mended = "cut \ufffd off"
        assert room.model.calls[-1].request.messages[-1].content == mended
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "s"})
        stored = await client.history("s")
        assert list(texts_of(stored)) == [mended, f"answer 1 to {mended}"]


async def test_a_log_of_tens_of_megabytes_comes_back_whole(tmp_path: Path) -> None:
    """What is said in one message is bounded; what a model answers and a log holds is not."""
    said = "x" * (limits.PROMPT_BYTES - 2) + "\u2028é"
    answer = "ü\u2028" * 5_000_000
    async with pair(tmp_path) as (client, room):
        room.model.context_window = 10**9
        await client.create("s")
        room.model.hold = True
        await client.say("s", said)
        (await room.model.next_call()).finish(answer)
        message = await client.next_event("assistant.message", "s")
        assert message["data"]["content"] == answer
        await client.next_event("session.idle", "s")
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "s"})
        stored = await client.history("s")
        assert list(texts_of(stored)) == [said, answer]
        room.model.context_window = 10**9
        await client.turn("s", "and then?")
        contents = [message.content for message in room.model.calls[-1].request.messages]
        assert contents[-3:] == [said, answer, "and then?"]


@pytest.mark.parametrize("where", ["metadata", "tools"])
async def test_a_number_beyond_64_bits_is_kept_however_long_the_log_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    large = {"most": 10**23}
    async with pair(tmp_path) as (client, _):
        tools = [{"name": "count", "parameters": large}] if where == "tools" else None
        await client.create("a", **({"tools": tools} if tools else {}))
        if where == "metadata":
            await client.request("session.metadata.update", {"sessionId": "a", "metadata": large})
        for number in range(4):
            await client.turn("a", f"message {number}")
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "a"})
        await client.turn("a", "once more")
        if where == "tools":
            assert room.model.calls[-1].request.tools[0].parameters == large
        else:
            kept = await client.request("session.metadata.get", {"sessionId": "a"})
            assert kept["metadata"] == large
