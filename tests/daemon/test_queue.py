"""The messages that wait: shown, edited, put in another order, paused; and sessions that rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol import errors
from tertuliad import limits
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import Call, last_words
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

S = "a-session"


class Desk:
    """A session whose first message, `running`, is being answered, while others wait behind it."""

    def __init__(self, client: FramesClient, room: Room, call: Call) -> None:
        self.client = client
        self.room = room
        self.running = call
        self.ids: dict[str, str] = {}

    async def put(self, *prompts: str, **more: Any) -> None:
        for prompt in prompts:
            params = {"sessionId": S, "prompt": prompt, **more}
            self.ids[prompt] = (await self.client.request("session.send", params))["messageId"]

    async def queue(self, method: str, **params: Any) -> Any:
        return await self.client.request(f"session.queue.{method}", {"sessionId": S, **params})

    async def waiting(self) -> list[str]:
        items = (await self.queue("pendingItems"))["items"]
        return [item["displayText"] for item in items]

    async def finish(self) -> None:
        """Let the running turn end."""
        self.running.finish("done")

    async def next_turn(self) -> str:
        """End the running turn; the prompt of the next one."""
        await self.finish()
        self.running = await self.room.model.next_call()
        return last_words(self.running.request)

    async def rest_of_turns(self) -> list[str]:
        """Let all turns end; the prompts of those that came."""
        count = len((await self.queue("pendingItems"))["items"])
        said = [await self.next_turn() for _ in range(count)]
        await self.finish()
        await self.client.next_event("session.idle", S)
        return said


@asynccontextmanager
async def desk(home: Path, *prompts: str) -> AsyncIterator[Desk]:
    async with pair(home) as (client, room):
        room.model.hold = True
        await client.create(S)
        await client.say(S, "running")
        made = Desk(client, room, await room.model.next_call())
        await made.put(*prompts)
        yield made


async def test_what_waits_is_shown_as_it_was_given(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        assert await here.queue("pendingItems") == {"items": [], "steeringMessages": []}
        await here.put("long words", displayPrompt="short", agentMode="plan", source="editor")
        await here.put("plain")
        await here.put("urgent", mode="immediate")
        found = await here.queue("pendingItems")
        assert found["steeringMessages"] == ["urgent"]
        first, second = here.ids["long words"], here.ids["plain"]
        assert found["items"] == [
            {
                "id": first,
                "messageId": first,
                "kind": "message",
                "displayText": "short",
                "agentMode": "plan",
                "source": "editor",
            },
            {
                "id": second,
                "messageId": second,
                "kind": "message",
                "displayText": "plain",
                "agentMode": "interactive",
            },
        ]
        assert await here.next_turn() == "urgent"
        assert await here.next_turn() == "long words"


@pytest.mark.parametrize(
    ("moved", "position", "order"),
    [
        ("a", 2, "bca"),
        ("c", 0, "cab"),
        ("b", 99, "acb"),
        ("b", -5, "bac"),
        ("a", 0, None),
        ("c", 9, None),
    ],
)
async def test_a_message_is_moved_and_the_turns_follow(
    tmp_path: Path, moved: str, position: int, order: str | None
) -> None:
    async with desk(tmp_path, "a", "b", "c") as here:
        answer = await here.queue("moveItem", id=here.ids[moved], toPosition=position)
        assert answer == {"changed": order is not None}
        assert await here.waiting() == list(order or "abc")
        assert await here.rest_of_turns() == list(order or "abc")


async def test_a_message_is_inserted_where_it_is_wanted(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b") as here:
        new = await here.queue("insertAt", position=1, message={"prompt": "new"})
        await here.queue("insertAt", position=99, message={"prompt": "last"})
        await here.queue("insertAt", position=-1, message={"prompt": "first"})
        await here.queue("insertAt", position=3, message={"prompt": "x", "mode": "immediate"})
        found = await here.queue("pendingItems")
        assert found["steeringMessages"] == ["x"]
        assert await here.waiting() == ["first", "a", "new", "b", "last"]
        assert new["id"] == found["items"][2]["id"]


async def test_a_message_inserted_where_nothing_runs_is_a_turn(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create(S)
        params = {"sessionId": S, "position": 4, "message": {"prompt": "at once"}}
        inserted = await client.request("session.queue.insertAt", params)
        answer = await client.next_event("assistant.message", S)
        assert answer["data"]["originatingMessageId"] == inserted["id"]


async def test_an_inserted_message_with_a_key_is_accepted_once(tmp_path: Path) -> None:
    async with desk(tmp_path, "a") as here:
        keyed = {"prompt": "once", "idempotencyKey": "k"}
        first = await here.queue("insertAt", position=0, message=keyed)
        assert await here.queue("insertAt", position=0, message=keyed) == first
        sent = await here.client.request("session.send", {"sessionId": S, **keyed})
        assert sent["messageId"] == first["id"]
        assert await here.rest_of_turns() == ["once", "a"]
        assert await here.queue("insertAt", position=0, message=keyed) == first


async def test_an_inserted_message_can_be_for_an_idle_session_only(tmp_path: Path) -> None:
    async with desk(tmp_path, "a") as here:
        with pytest.raises(errors.TurnBusy) as busy:
            await here.queue("insertAt", position=0, message={"prompt": "x", "ifIdle": True})
        seq = (busy.value.data or {})["seq"]
        with pytest.raises(errors.SeqMoved):
            message = {"prompt": "x", "expectedSeq": seq - 1}
            await here.queue("insertAt", position=0, message=message)
        message = {"prompt": "y", "expectedSeq": seq}
        await here.queue("insertAt", position=0, message=message)
        assert await here.waiting() == ["y", "a"]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"prompt": ""}, "$.message.prompt"),
        ({"prompt": "x", "attachments": [{"type": "file"}]}, "$.message.attachments[0]"),
    ],
)
async def test_an_inserted_message_is_looked_at_as_a_sent_one(
    tmp_path: Path, message: dict[str, Any], path: str
) -> None:
    async with desk(tmp_path) as here:
        with pytest.raises(errors.InvalidParams) as refused:
            await here.queue("insertAt", position=0, message=message)
        assert refused.value.data is not None
        assert str(refused.value.data["path"]).startswith(path)


async def test_messages_are_taken_out(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b", "c", "d") as here:
        assert await here.queue("removeAt", id=here.ids["b"]) == {"removed": True}
        assert await here.queue("removeAt", id=here.ids["b"]) == {"removed": False}
        assert await here.queue("removeMostRecent") == {"removed": True}
        assert await here.rest_of_turns() == ["a", "c"]
        assert await here.queue("removeMostRecent") == {"removed": False}


async def test_a_message_is_given_up_whether_it_runs_or_waits_and_no_other_one_is(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path, "a", "b") as here:

        async def given_up(message_id: str) -> bool:
            params = {"sessionId": S, "messageId": message_id}
            answer = await here.client.request("session.abort", params)
            return bool(answer["success"])

        assert await given_up(here.ids["a"])
        assert not here.running.ended.is_set()
        assert await here.waiting() == ["b"]
        assert not await given_up(here.ids["a"])
        start = await here.client.next_event("user.message")
        assert await given_up(start["data"]["messageId"])
        assert last_words((await here.room.model.next_call()).request) == "b"
        assert not await given_up(start["data"]["messageId"])
        assert await given_up(here.ids["b"])
        await here.client.next_event("session.idle")


async def test_a_cleared_queue_leaves_the_running_turn_alone(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b") as here:
        assert await here.queue("clear") is None
        assert await here.queue("clear") is None
        assert await here.rest_of_turns() == []
        stored = await here.client.history(S)
        said = [e["data"]["content"] for e in stored if e["type"] == "user.message"]
        assert said == ["running"]


async def test_the_words_of_a_waiting_message_are_changed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("what was noted")
    async with desk(tmp_path / "home", "a") as here:
        attachment = {"type": "file", "path": str(tmp_path / "notes.txt"), "displayName": "n"}
        await here.put("old", attachments=[attachment])
        changed = await here.queue(
            "updateText", id=here.ids["old"], prompt="new", displayPrompt="shown"
        )
        assert changed == {"updated": True}
        assert await here.waiting() == ["a", "shown"]
        assert await here.queue("updateText", id="nobody", prompt="x") == {"updated": False}
        await here.next_turn()
        read = await here.next_turn()
        assert read.startswith("new\n")
        assert "what was noted" in read
        assert "old" not in read


async def test_a_message_is_doubled(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b") as here:
        copy = await here.queue("duplicateAt", id=here.ids["a"])
        assert copy["id"] not in here.ids.values()
        assert await here.rest_of_turns() == ["a", "a", "b"]
        with pytest.raises(errors.InvalidParams, match="pendingItems"):
            await here.queue("duplicateAt", id=here.ids["a"])


async def test_a_message_is_sent_before_all_others(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b", "c") as here:
        await here.put("urgent", mode="immediate")
        assert await here.queue("sendNow", id=here.ids["c"]) == {"steered": True}
        assert await here.queue("sendNow", id="nobody") == {"steered": False}
        assert (await here.queue("pendingItems"))["steeringMessages"] == ["c", "urgent"]
        assert [await here.next_turn() for _ in range(4)] == ["c", "urgent", "a", "b"]


async def test_a_paused_queue_waits_until_it_may_go_on(tmp_path: Path) -> None:
    async with desk(tmp_path, "a") as here:
        assert await here.queue("setDrainPaused", paused=True) is None
        await here.finish()
        await here.client.next_event("session.idle", S)
        await here.put("b")
        found = await here.queue("pendingItems")
        assert found["paused"] is True
        assert await here.waiting() == ["a", "b"]
        assert await here.queue("sendNow", id=here.ids["b"]) == {"steered": False}
        assert len(here.room.model.calls) == 1

        await here.queue("setDrainPaused", paused=False)
        here.running = await here.room.model.next_call()
        assert last_words(here.running.request) == "a"
        assert await here.next_turn() == "b"


async def test_a_message_sent_to_an_idle_paused_session_waits(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        await client.request("session.queue.setDrainPaused", {"sessionId": S, "paused": True})
        await client.say(S, "later")
        assert room.model.calls == []
        await client.request("session.queue.setDrainPaused", {"sessionId": S, "paused": False})
        answer = await client.next_event("assistant.message", S)
        assert answer["data"]["content"] == "answer 1 to later"


async def test_a_full_queue_takes_no_more(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.put(*(str(n) for n in range(limits.PENDING_MESSAGES)))
        for method, params in (
            ("duplicateAt", {"id": here.ids["0"]}),
            ("insertAt", {"position": 0, "message": {"prompt": "x"}}),
        ):
            with pytest.raises(errors.Overloaded):
                await here.queue(method, **params)
        with pytest.raises(errors.Overloaded):
            await here.put("one more")


async def test_what_waits_beyond_a_bound_that_was_lowered_can_be_moved_and_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path, "a", "b", "c") as here:
        monkeypatch.setattr(limits, "PENDING_MESSAGES", 1)
        assert await here.queue("moveItem", id=here.ids["c"], toPosition=0) == {"changed": True}
        assert await here.queue("removeAt", id=here.ids["a"]) == {"removed": True}
        assert await here.queue("updateText", id=here.ids["b"], prompt="B") == {"updated": True}
        with pytest.raises(errors.Overloaded):
            await here.queue("updateText", id=here.ids["c"], prompt="longer")
        assert await here.waiting() == ["c", "B"]


async def test_an_edited_message_is_no_longer_than_a_sent_one_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as here:
        await here.put("short", attachments=[{"type": "mine", "text": "x" * 60}])
        monkeypatch.setattr(limits, "PROMPT_BYTES", 100)
        with pytest.raises(errors.InvalidParams, match="Make it shorter"):
            await here.queue("updateText", id=here.ids["short"], prompt="x" * 50)
        assert await here.waiting() == ["short"]


async def test_an_edited_queue_comes_back_after_a_crash(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b", "c") as here:
        await here.queue("setDrainPaused", paused=True)
        await here.queue("moveItem", id=here.ids["c"], toPosition=0)
        await here.queue("removeAt", id=here.ids["a"])
        wanted = await here.queue("pendingItems")
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": S})
        found = await client.request("session.queue.pendingItems", {"sessionId": S})
        assert found == wanted
        assert room.model.calls == []


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("pendingItems", {}),
        ("moveItem", {"id": "x", "toPosition": 0}),
        ("insertAt", {"position": 0, "message": {"prompt": "x"}}),
        ("removeAt", {"id": "x"}),
        ("updateText", {"id": "x", "prompt": "x"}),
        ("duplicateAt", {"id": "x"}),
        ("setDrainPaused", {"paused": True}),
        ("sendNow", {"id": "x"}),
        ("removeMostRecent", {}),
        ("clear", {}),
    ],
)
async def test_only_who_is_attached_touches_a_queue(
    tmp_path: Path, method: str, params: dict[str, Any]
) -> None:
    async with desk(tmp_path, "a") as here:
        stranger = here.room.connect()
        with pytest.raises(errors.SessionNotFound):
            await stranger.request(f"session.queue.{method}", {"sessionId": S, **params})
        assert await here.waiting() == ["a"]


# A session rests


async def test_a_suspended_session_keeps_what_waits_for_a_resume(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b") as here:
        assert await here.client.request("session.suspend", {"sessionId": S}) is None
        idle = await here.client.next_event("session.idle", S)
        assert idle["data"] == {"aborted": True}
        await here.running.ended.wait()
        assert await here.waiting() == ["a", "b"]
        assert len(here.room.model.calls) == 1
        assert await here.client.request("session.suspend", {"sessionId": S}) is None

        other = here.room.connect()
        await other.request("session.resume", {"sessionId": S})
        here.running = await here.room.model.next_call()
        assert last_words(here.running.request) == "a"
        assert await here.next_turn() == "b"


async def test_a_message_to_a_suspended_session_lets_what_waits_go_on(tmp_path: Path) -> None:
    async with desk(tmp_path, "a") as here:
        await here.client.request("session.suspend", {"sessionId": S})
        await here.put("b")
        here.running = await here.room.model.next_call()
        assert last_words(here.running.request) == "a"
        assert await here.next_turn() == "b"


async def test_a_session_that_is_shut_down_says_what_it_took(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.put("a")
        await here.next_turn()
        params = {"sessionId": S, "type": "error", "reason": "enough"}
        assert await here.client.request("session.shutdown", params) is None
        await here.client.next_event("abort", S)
        await here.client.next_event("session.idle", S)
        last = (await here.client.next_event("session.shutdown", S))["data"]
        assert last["shutdownType"] == "error"
        assert last["errorReason"] == "enough"
        assert last["codeChanges"] == {"linesAdded": 0, "linesRemoved": 0, "filesModified": []}
        (metric,) = last["modelMetrics"].values()
        assert metric["requests"] == {"count": 1}
        assert metric["usage"]["inputTokens"] == 7
        assert metric["usage"]["outputTokens"] == 3
        used = await here.client.request("session.usage.getMetrics", {"sessionId": S})
        assert last["totalApiDurationMs"] == used["totalApiDurationMs"]
        events = await here.client.history(S)
        assert events[-1]["type"] == "session.shutdown"

        await here.client.say(S, "again")
        again = await here.room.model.next_call()
        assert last_words(again.request) == "again"


@pytest.mark.parametrize("method", ["removeAt", "removeMostRecent", "clear"])
async def test_a_message_that_is_taken_out_leaves_no_headers_in_memory(
    tmp_path: Path, method: str
) -> None:
    async with desk(tmp_path) as here:
        await here.put("kept", requestHeaders={"x-secret": "k"})
        await here.put("taken out", requestHeaders={"x-secret": "s"})
        kept, taken = here.ids["kept"], here.ids["taken out"]
        await here.queue(method, **({"id": taken} if method == "removeAt" else {}))
        left = here.room.world.request_headers
        assert left.of(S, taken) == {}
        assert left.of(S, kept) == ({} if method == "clear" else {"x-secret": "k"})
        assert (S in left) == (method != "clear")


# The SDKs' other names


async def test_a_snapshot_of_the_queue_is_what_waits(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        assert await here.queue("hasPending") == {"hasPending": False}
        for more in ({}, {"mode": "immediate"}):
            await here.put("words", **more)
            assert await here.queue("hasPending") == {"hasPending": True}
            assert await here.queue("snapshot") == await here.queue("pendingItems")


async def test_what_was_left_waiting_is_processed_when_somebody_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path, "a", "b") as here:
        await here.client.request("session.suspend", {"sessionId": S})
        assert await here.waiting() == ["a", "b"]
        assert await here.queue("process") is None
        here.running = await here.room.model.next_call()
        assert last_words(here.running.request) == "a"
        assert await here.next_turn() == "b"


async def test_a_paused_queue_and_a_running_turn_are_left_alone(tmp_path: Path) -> None:
    async with desk(tmp_path, "a") as here:
        await here.queue("process")
        assert await here.waiting() == ["a"]
        await here.queue("setDrainPaused", paused=True)
        await here.finish()
        await here.client.next_event("session.idle", S)
        await here.queue("process")
        assert await here.waiting() == ["a"]
        await here.queue("setDrainPaused", paused=False)
        assert last_words((await here.room.model.next_call()).request) == "a"


@pytest.mark.parametrize("method", ["snapshot", "hasPending", "process"])
async def test_the_queue_is_for_who_is_attached(tmp_path: Path, method: str) -> None:
    async with desk(tmp_path, "a") as here:
        with pytest.raises(errors.SessionNotFound):
            await here.room.connect().request(f"session.queue.{method}", {"sessionId": S})


async def test_a_queue_that_waits_for_its_provider_says_so_until_it_is_given(
    tmp_path: Path,
) -> None:
    given = {"provider": {"type": "openai", "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "a-key"}}
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create(S, model="m", **given)
        await client.say(S, "running")
        await room.model.next_call()
        await client.say(S, "waiting")
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": S})
        waiting = await client.request("session.queue.pendingItems", {"sessionId": S})
        assert waiting["needsProvider"] is True
        await client.say(S, "one more")
        warning = await client.next_event("session.warning")
        assert warning["data"]["warningType"] == "provider_needed"
        assert warning["ephemeral"] is True
        await client.request("session.resume", {"sessionId": S, **given})
        waiting = await client.request("session.queue.pendingItems", {"sessionId": S})
        assert "needsProvider" not in waiting
        assert last_words((await room.model.next_call()).request) == "waiting"
