"""A session's log read by pages: one total order, without gap or repeat, whatever happens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tertulia_protocol import errors
from tertuliad import limits
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, rewinding
from tertuliad.sessions.state import SessionState
from tests.support.frames_client import FramesClient, Message
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

S = "a-session"
LONG_MS = 30_000


async def read(client: FramesClient, **params: Any) -> Any:
    return await client.request("session.eventLog.read", {"sessionId": S, **params})


async def tail(client: FramesClient) -> Any:
    return await client.request("session.eventLog.tail", {"sessionId": S})


async def note(client: FramesClient, text: str) -> str:
    """Store an event of the client's own; its id."""
    answer = await client.request("session.log", {"sessionId": S, "message": text})
    return str(answer["eventId"])


def ids(events: list[Message]) -> list[str]:
    return [event["id"] for event in events]


async def rewind(room: Room, kept: int) -> None:
    """Leave out what is behind the event with seq `kept`."""

    def command(state: SessionState) -> Decision:
        cut = rewinding.Cut(state.seq, kept, removed=0, first_words=None, cut_turn=None)
        return rewinding.rewind(state, "an-event", cut, None)

    await room.sessions.post(S, command).settled()


@asynccontextmanager
async def opened(home: Path) -> AsyncIterator[tuple[FramesClient, Room]]:
    async with pair(home) as (client, room):
        await client.create(S)
        yield client, room


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_pages_of_any_size_are_the_whole_log_in_its_order(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as (client, _):
        for prompt in ("one", "two", "three"):
            await client.turn(S, prompt)
        wanted = await client.history(S)
        found: list[Message] = []
        page: Any = {"hasMore": True}
        while page["hasMore"]:
            given = {"cursor": page["cursor"]} if found else {}
            page = await read(client, max=size, **given)
            assert page["cursorStatus"] == "ok"
            assert len(page["events"]) == min(size, len(wanted) - len(found))
            found += page["events"]
        assert found == wanted
        assert not any(event["type"].startswith(facts.INTERNAL_PREFIX) for event in found)
        again = await read(client, cursor=page["cursor"])
        assert again["events"] == []
        assert again["hasMore"] is False


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("most", [1, 500, 5000])
async def test_pages_of_few_bytes_are_the_whole_log_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, direction: str
) -> None:
    monkeypatch.setattr(limits, "READ_BYTES", most)
    async with opened(tmp_path) as (client, _):
        for prompt in ("one", "two"):
            await client.turn(S, prompt)
        wanted = await client.history(S)
        pages = [await read(client, direction=direction)]
        while pages[-1]["hasMore"]:
            pages.append(await read(client, cursor=pages[-1]["cursor"]))
        for page in pages:
            *before, last = page["events"] if direction == "forward" else page["events"][::-1]
            assert sum(len(json.dumps(event, separators=(",", ":"))) for event in before) <= most
            assert last
        ordered = pages if direction == "forward" else pages[::-1]
        assert [event for page in ordered for event in page["events"]] == wanted


async def test_backward_pages_begin_at_the_end_and_are_each_the_oldest_first(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (client, _):
        for prompt in ("one", "two"):
            await client.turn(S, prompt)
        wanted = await client.history(S)
        page = await read(client, max=3, direction="backward")
        assert page["events"] == wanted[-3:]
        found = page["events"]
        while page["hasMore"]:
            page = await read(client, max=3, cursor=page["cursor"])  # a cursor knows its direction
            found = page["events"] + found
        assert found == wanted
        assert (await read(client, cursor=page["cursor"]))["events"] == []


async def test_a_cursor_at_the_end_shows_only_what_comes_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        await client.turn(S, "before")
        end = await tail(client)
        assert (await read(client, cursor=end["cursor"]))["events"] == []
        later = await note(client, "later")
        assert ids((await read(client, cursor=end["cursor"]))["events"]) == [later]
        assert (await tail(client))["seq"] == end["seq"] + 1


@pytest.mark.parametrize("cursor", ["", "x", "f", "f-1", "f01", "b99", "f99", "12", "f" + "9" * 40])
async def test_a_cursor_that_leads_nowhere_is_said_to_be_so_and_reading_begins_anew(
    tmp_path: Path, cursor: str
) -> None:
    async with opened(tmp_path) as (client, _):
        await note(client, "a")
        page = await read(client, cursor=cursor)
        assert page["cursorStatus"] == "expired"
        assert page["events"] == await client.history(S)
        assert (await read(client, cursor=page["cursor"]))["cursorStatus"] == "ok"


async def test_a_cursor_beyond_the_end_is_expired(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        end = await tail(client)
        beyond = end["cursor"].replace(f"f{end['seq']}", f"f{end['seq'] + 1}")
        page = await read(client, cursor=beyond)
        assert (page["cursorStatus"], page["events"]) == ("expired", await client.history(S))


async def test_a_cursor_of_another_session_is_not_taken_for_a_place_here(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        other = (await tail(client))["cursor"]
        back = (await read(client, max=1, direction="backward"))["cursor"]
        await client.create("another")
        for cursor in (other, back):
            page = await client.request(
                "session.eventLog.read", {"sessionId": "another", "cursor": cursor}
            )
            assert page["cursorStatus"] == "expired"
            assert page["events"][0]["type"] == "session.start"


async def test_a_cursor_of_a_session_that_was_made_again_is_expired(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        before = (await tail(client))["cursor"]
        created = (await client.request("session.metadata.snapshot", {"sessionId": S}))["startTime"]
        again = created
        while again == created:  # in another millisecond
            await client.request("session.delete", {"sessionId": S})
            await client.create(S)
            told = await client.request("session.metadata.snapshot", {"sessionId": S})
            again = told["startTime"]
        await note(client, "the log is as long as it was")
        assert (await read(client, cursor=before))["cursorStatus"] == "expired"


async def test_types_are_filtered_and_nobody_reads_the_daemons_own_facts(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        await client.turn(S, "one")
        wanted = await client.history(S)
        own = [*facts.INTERNAL.values()]
        assert (await read(client, types=own))["events"] == []
        assert (await read(client, types="*", agentScope="primary"))["events"] == wanted
        assert (await read(client, types=["*"]))["events"] == wanted
        said = await read(client, types=["user.message", "assistant.message", *own])
        assert [e["type"] for e in said["events"]] == ["user.message", "assistant.message"]
        assert (await read(client, agentIds=["somebody"]))["events"] == []


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"max": 0}, "$.max"),
        ({"waitMs": -1}, "$.waitMs"),
        ({"types": []}, "$.types"),
        ({"types": "some"}, "$.types"),
        ({"direction": "sideways"}, "$.direction"),
    ],
)
async def test_wrong_params_are_refused_with_their_place(
    tmp_path: Path, params: dict[str, Any], path: str
) -> None:
    async with opened(tmp_path) as (client, _):
        with pytest.raises(errors.InvalidParams) as refused:
            await read(client, **params)
        assert refused.value.data == {"kind": "invalid_params", "path": path}


async def test_who_is_not_attached_reads_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, room):
        stranger = room.connect()
        for method in ("session.eventLog.read", "session.eventLog.tail"):
            with pytest.raises(errors.SessionNotFound):
                await stranger.request(method, {"sessionId": S})


# Waiting for news


async def test_a_read_that_waits_is_answered_by_the_next_event_and_holds_nothing_up(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (client, _):
        cursor = (await tail(client))["cursor"]
        params = {"sessionId": S, "cursor": cursor, "waitMs": LONG_MS}
        waiting = await client.ask("session.eventLog.read", params)
        await client.request("ping")
        assert waiting not in [answer["id"] for answer in client.answers()]
        later = await note(client, "news")
        page = (await client.answer(waiting))["result"]
        assert ids(page["events"]) == [later]


async def test_a_read_that_waits_passes_over_what_was_not_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        await client.turn(S, "one")
        cursor = (await tail(client))["cursor"]
        waiting = await client.ask(
            "session.eventLog.read",
            {"sessionId": S, "cursor": cursor, "waitMs": LONG_MS, "types": ["assistant.message"]},
        )
        await note(client, "not this")
        answer = await client.turn(S, "two")
        page = (await client.answer(waiting))["result"]
        assert ids(page["events"]) == [answer["id"]]


async def test_a_read_does_not_wait_where_something_is_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        page = await read(client, waitMs=LONG_MS)
        assert page["events"] == await client.history(S)
        beginning = (await read(client, direction="backward"))["cursor"]
        backward = await read(client, cursor=beginning, waitMs=LONG_MS)
        assert backward["events"] == []


async def test_a_read_that_waits_in_vain_is_answered_when_its_time_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        cursor = (await tail(client))["cursor"]
        page = await read(client, cursor=cursor, waitMs=5)
        assert page == {"events": [], "cursor": cursor, "hasMore": False, "cursorStatus": "ok"}


async def test_a_read_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        cursor = (await tail(client))["cursor"]
        params = {"sessionId": S, "cursor": cursor, "waitMs": LONG_MS}
        waiting = await client.ask("session.eventLog.read", params)
        cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": waiting}}
        await client.send(cancel)
        assert "error" in await client.answer(waiting)


async def test_a_read_that_waits_is_answered_when_its_client_asks_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, room):
        cursor = (await tail(client))["cursor"]
        params = {"sessionId": S, "cursor": cursor, "waitMs": LONG_MS}
        waiting = await client.ask("session.eventLog.read", params)
        await client.request("ping")
        await client.send_eof()
        assert (await client.answer(waiting))["result"]["events"] == []
        await room.gone(client)


async def test_a_read_that_waits_is_answered_when_its_session_is_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, _):
        cursor = (await tail(client))["cursor"]
        params = {"sessionId": S, "cursor": cursor, "waitMs": LONG_MS}
        waiting = await client.ask("session.eventLog.read", params)
        await client.request("ping")
        await client.request("session.delete", {"sessionId": S})
        answer = await client.answer(waiting)
        if "error" in answer:  # the session went before the read had begun
            assert answer["error"]["data"]["kind"] == "session_not_found"
        else:
            assert answer["result"]["events"] == []


async def test_a_cursor_outlives_a_rewind_of_what_it_points_at(tmp_path: Path) -> None:
    async with opened(tmp_path) as (client, room):
        await note(client, "kept")
        kept = (await tail(client))["seq"]
        await note(client, "left out")
        cursor = (await tail(client))["cursor"]
        await rewind(room, kept)
        new = await note(client, "new")
        page = await read(client, cursor=cursor)
        assert page["cursorStatus"] == "ok"
        assert ids(page["events"]) == [new]


# One total order


class Script:
    """A session that is written to, rewound and brought back, with one reader of pages and one
    follower of live events."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.live: list[str] = []
        """Ids of the stored events, as they were published."""
        self.seen: list[str] = []
        """Ids of the events that the reader got."""
        self.cursor: str | None = None
        self.log: list[str] = []
        """Ids of the log in the end."""

    async def play(self, lives: list[list[tuple[str, int]]]) -> None:
        for number, steps in enumerate(lives):
            async with pair(self.home) as (writer, room):
                if number == 0:
                    await writer.create(S)
                else:
                    await self._attach(writer)
                reader = room.connect()
                await self._attach(reader)
                for step, size in steps:
                    reader = await self._do(step, size, writer, reader, room)
                if number == len(lives) - 1:
                    await self._read_all(reader)
                    self.log = ids(await writer.history(S))
                await self._take_live(writer)

    async def _attach(self, client: FramesClient) -> None:
        await client.request("session.resume", {"sessionId": S, "disableResume": True})

    async def _take_live(self, writer: FramesClient) -> None:
        await writer.request("ping")  # all that was published before has come by then
        events = [e for e in writer.events(S) if not e.get("ephemeral")]
        self.live += ids(events)

    async def _do(
        self, step: str, size: int, writer: FramesClient, reader: FramesClient, room: Room
    ) -> FramesClient:
        match step:
            case "turn":
                await writer.turn(S, f"prompt {size}")
            case "note":
                await note(writer, f"note {size}")
            case "read":
                await self._read(reader, size)
            case "rewind":
                await rewind(room, max(1, (await tail(writer))["seq"] - size))
            case "rest":
                room.sessions.let_go()
            case "reconnect":
                await reader.aclose()
                await room.gone(reader)
                reader = room.connect()
                await self._attach(reader)
        return reader

    async def _read(self, reader: FramesClient, size: int) -> bool:
        given = {} if self.cursor is None else {"cursor": self.cursor}
        page = await read(reader, max=size, **given)
        assert page["cursorStatus"] == "ok"
        assert len(page["events"]) <= size
        self.seen += ids(page["events"])
        self.cursor = page["cursor"]
        return bool(page["hasMore"])

    async def _read_all(self, reader: FramesClient) -> None:
        while await self._read(reader, 3):
            pass


STEPS = st.tuples(
    st.sampled_from(["turn", "note", "read", "read", "rewind", "rest", "reconnect"]),
    st.integers(1, 9),
)
LIVES = st.lists(st.lists(STEPS, max_size=9), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(LIVES)
def test_a_reader_sees_one_order_without_gap_or_repeat(lives: list[list[tuple[str, int]]]) -> None:
    """Whatever is written, rewound and restarted between its pages, and however large they are."""

    async def play(script: Script) -> None:
        with anyio.fail_after(PATIENCE_S * 3):
            await script.play(lives)

    with tempfile.TemporaryDirectory() as home:
        script = Script(Path(home))
        anyio.run(play, script)
    assert len(set(script.seen)) == len(script.seen), "nothing comes twice"
    assert [one for one in script.live if one in set(script.seen)] == script.seen, "one order"
    assert set(script.log) <= set(script.seen), "nothing that stands is missed"
    assert [one for one in script.seen if one in set(script.log)] == script.log
