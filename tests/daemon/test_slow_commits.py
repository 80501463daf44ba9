"""What comes while a commit is under way, which may take long: nothing is lost, nothing counts
twice, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tertuliad import limits
from tertuliad.replies import Reply, settled
from tertuliad.store.base import Append
from tertuliad.store.sqlite import SqliteStore
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair

pytestmark = pytest.mark.anyio
S = "a-session"


class SlowCommits:
    """Appends are made at once, and their answers held back while `hold` is set; or they are made
    `late`, when they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hold = self.late = False
        self._held: list[tuple[Reply, Callable[[], Future[None]]]] = []
        append = SqliteStore.append

        def slow(store: SqliteStore, given: Append) -> Future[None]:
            if not self.hold:
                return append(store, given)
            reply, made = Reply(), None if self.late else append(store, given)
            self._held.append((reply, lambda: made or append(store, given)))
            return reply

        monkeypatch.setattr(SqliteStore, "append", slow)

    async def release(self) -> None:
        self.hold = False
        held, self._held = self._held, []
        for reply, make in held:
            done = make()
            with anyio.fail_after(PATIENCE_S):
                while not done.done():
                    await anyio.lowlevel.checkpoint()
            reply.follow(done)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> SlowCommits:
    return SlowCommits(monkeypatch)


async def test_all_of_very_many_that_are_refused_together_are_answered(
    tmp_path: Path, commits: SlowCommits
) -> None:
    """Each of them has the log folded anew, which is done at once."""
    async with pair(tmp_path) as (client, _):
        await client.create(S)
        commits.hold = True
        named = await client.ask("session.name.set", {"sessionId": S, "name": "first"})
        stale = {"sessionId": S, "prompt": "too late", "expectedSeq": 999_999}
        asked = [await client.ask("session.send", stale) for _ in range(1000)]
        await client.request("ping")
        await commits.release()
        assert "result" in await client.answer(named)
        for request in asked:
            assert (await client.answer(request))["error"]["data"]["kind"] == "seq_moved"
        assert (await client.request("session.name.get", {"sessionId": S}))["name"] == "first"


async def test_a_call_that_was_hung_up_on_does_not_count_for_the_next(
    tmp_path: Path, commits: SlowCommits
) -> None:
    """The model is asked while the turn's start is stored. Another process has written meanwhile:
    the turn is begun again, and what the first call said is of no turn."""
    async with pair(tmp_path) as (client, room), pair(tmp_path) as (other, _):
        await client.create(S, streaming=True)
        await client.turn(S, "first")
        await room.model.next_call()
        await other.request("session.resume", {"sessionId": S, "disableResume": True})
        room.model.hold = commits.hold = commits.late = True
        asked = await client.ask("session.send", {"sessionId": S, "prompt": "second"})
        first = await room.model.next_call()
        first.finish("of the first call")
        with anyio.fail_after(PATIENCE_S):
            await first.ended.wait()
        commits.hold = False
        await other.request("session.name.set", {"sessionId": S, "name": "by another daemon"})
        await commits.release()
        assert "result" in await client.answer(asked)
        second = await room.model.next_call()
        second.finish("of the second call")
        message = await client.next_event("assistant.message", S)
        assert message["data"]["content"] == "of the second call"
        await client.next_event("session.idle", S)
        said = [event["data"].get("content", "") for event in client.events(S)]
        assert "of the first call" not in said


async def test_a_turn_that_is_over_has_no_call_open(tmp_path: Path, commits: SlowCommits) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create(S, streaming=True)
        room.model.hold = True
        await client.say(S, "hello")
        call = await room.model.next_call()
        await client.request("session.abort", {"sessionId": S})
        await client.next_event("session.idle", S)
        with anyio.fail_after(PATIENCE_S):
            await call.ended.wait()


async def test_a_history_that_is_read_as_its_turn_is_aborted_is_not_the_next_turns(
    tmp_path: Path, commits: SlowCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the turn and the next message are folded already, and not stored yet."""
    monkeypatch.setattr(limits, "SNAPSHOT_EVENTS", 4)
    async with pair(tmp_path) as (client, room):
        await client.create(S)
        for prompt in ("a", "b"):
            await client.turn(S, prompt)
            await room.model.next_call()
        room.sessions.let_go()
        room.model.hold = True
        free = threading.Event()
        room.store.beside(partial(free.wait, PATIENCE_S))  # the reader has something else to do
        for prompt in ("one", "two"):
            await client.say(S, prompt)
        commits.hold = True
        aborted = await client.ask("session.abort", {"sessionId": S})
        await client.request("ping")
        free.set()
        await settled(room.store.beside(list))  # behind the history
        await client.request("ping")
        await commits.release()
        assert (await client.answer(aborted))["result"]["success"]
        call = await room.model.next_call()
        while call.ended.is_set():  # that of the turn that was aborted
            call = await room.model.next_call()
        said = [m.content for m in call.request.messages if m.role == "user"]
        assert said == ["a", "b", "one", "two"]
