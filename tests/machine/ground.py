"""A daemon under the machine's hands: its home, its clients and its model, and the comparison of
all that they show with what stands on paper.

The rules of this file:
- Nothing here waits for time: each wait is for something that has to come, with a bound.
- A crash is a copy of the home as it is at that moment, which is what a kill leaves, and a new
  daemon on the copy. The old one is abandoned and says nothing any more.
- The write-ahead log has no checkpoint here, so that two files copied one after the other are one
  moment of the store. `tests/torture` kills processes whose log has.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import sniffio

from tertulia_protocol.errors import RpcError
from tertuliad import limits
from tertuliad.follow import Pace
from tertuliad.sessions import left_over
from tests.machine.book import PENDING_MESSAGES, REMEMBERED_KEYS, Message, Refused
from tests.machine.paper import Paper
from tests.machine.view import Client
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S, Call, last_words
from tests.support.pair import Room, pair

T = TypeVar("T")
BOUNDS: dict[str, Any] = {
    "PENDING_MESSAGES": PENDING_MESSAGES,
    "REMEMBERED_KEYS": REMEMBERED_KEYS,
    "SNAPSHOT_EVENTS": 6,
    "CATCH_UP_EVENTS": 4,
    "OUTBOX_HIGH_BYTES": 256 * limits.KIB,
    "OUTBOX_LOW_BYTES": 32 * limits.KIB,
    "WRITE_CHUNK_BYTES": 16 * limits.KIB,
    "READ_EVENTS": 7,
    "READ_EVENTS_MAX": 11,
    "READ_BYTES": 4000,
    "LISTED_AT_ONCE": 3,
    "WAL_CHANGES": 1_000_000,
    "IDLE_AFTER_ERROR_S": 0.0,
    "LEASE_BEAT_S": 1e6,
    "LEASE_S": 1e6,
    "OTHERS_LOOK_S": 1e6,
    "OTHERS_AT_ONCE": 2,
}
"""Small, so that each is reached; times so long that none of them is."""
FILLING = BOUNDS["OUTBOX_HIGH_BYTES"] // BOUNDS["WRITE_CHUNK_BYTES"]
"""So many answers, each of which leaves in a write of its own, are as much as an outbox takes."""


class Daemon:
    """A room of `pair`, alive from `start` to `end`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.room: Room
        self.observer: FramesClient
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None]
        self._tasks: anyio.abc.TaskGroup

    async def _live(self) -> None:
        try:
            async with pair(self.home) as (self.observer, self.room):
                self.room.model.hold = True
                async with anyio.create_task_group() as self._tasks:
                    self._ready.set()
                    await self._stop.wait()
                    self._tasks.cancel_scope.cancel()
        finally:
            self._ready.set()

    def take_up(self) -> None:
        """What every daemon does when it starts: go on with what waits."""
        room = self.room

        async def work() -> None:
            await left_over.take_up(room.store, room.sessions, lambda: False)

        self._tasks.start_soon(work)

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._live())
        await self._ready.wait()

    async def end(self) -> None:
        self._stop.set()
        await self._task

    async def fill(self, client: FramesClient) -> None:
        """Have the client read no more, and so many answers wait for it that it is behind."""
        connection = self.room.connection_of[client]
        client.stop_reading()
        for _ in range(FILLING * 3):
            await client.ask("ping", {"message": "x" * limits.WRITE_CHUNK_BYTES})
        with anyio.fail_after(PATIENCE_S):
            while connection.outbox_bytes < limits.OUTBOX_HIGH_BYTES * 2:
                await anyio.lowlevel.checkpoint()

    async def drain(self, client: FramesClient) -> None:
        """Have the client read, until it follows live again."""
        client.read_on()
        connection = self.room.connection_of[client]
        followed = self.room.hub._by_outlet.get(connection, {})
        with anyio.fail_after(PATIENCE_S):
            while connection.outbox_bytes >= limits.OUTBOX_LOW_BYTES or any(
                follower.pace is not Pace.LIVE for follower in followed.values()
            ):
                await anyio.lowlevel.checkpoint()

    async def log(self, session: str, events: int) -> list[dict[str, Any]]:
        """The whole log of a session, once it has so many events."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                params = {"sessionId": session}
                answer = await self.observer.request("session.export", params)
                log: list[dict[str, Any]] = answer["document"]["events"]
                if len(log) >= events:
                    return log
                await anyio.lowlevel.checkpoint()

    async def call_of(self, paper: Paper) -> Call:
        """The model call of the session's turn."""
        turn, model = paper.turn, self.room.model
        assert turn is not None
        with anyio.fail_after(PATIENCE_S):
            while True:
                for call in reversed(model.calls):
                    words = last_words(call.request)
                    if words == turn.message.prompt and not call.ended.is_set():
                        return call
                await model.arrived(len(model.calls))


def copied(home: Path) -> Path:
    """The home as a kill would leave it now."""
    new = Path(tempfile.mkdtemp(prefix="tertulia-machine-"))
    for name in ("sessions.db", "sessions.db-wal"):
        if (home / name).exists():
            shutil.copyfile(home / name, new / name)
    return new


class Ground:
    """One event loop, on which the steps of one example run."""

    def __init__(self) -> None:
        self._bounds = pytest.MonkeyPatch()
        for name, value in BOUNDS.items():
            self._bounds.setattr(limits, name, value)
        self._runner = asyncio.Runner()
        self._context = contextvars.copy_context()
        self._context.run(sniffio.current_async_library_cvar.set, "asyncio")  # as anyio.run does
        self._homes = [Path(tempfile.mkdtemp(prefix="tertulia-machine-"))]
        self.ids: dict[int, dict[int, str]] = {}
        """By a session's number, the ids of the stored events by their seqs."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work, context=self._context)

    @property
    def home(self) -> Path:
        return self._homes[-1]

    def crash(self) -> None:
        """From here on the home is a copy of what it was."""
        self._homes.append(copied(self.home))

    def close(self) -> None:
        self._runner.close()
        self._bounds.undo()
        for home in self._homes:
            shutil.rmtree(home)


async def answered(client: FramesClient, method: str, params: dict[str, Any]) -> Any:
    """The result of a request, or `Refused` with the error's kind."""
    try:
        return await client.request(method, params)
    except RpcError as error:
        return Refused(_kind(error))


def _kind(error: RpcError) -> str:
    data = error.data
    return str(data["kind"]) if isinstance(data, dict) and "kind" in data else error.message


def refused(method: str, answer: Any, expected: Any) -> bool:
    """Whether a request was refused, as it has to be, and for that reason."""
    told, due = (e.kind if isinstance(e, Refused) else None for e in (answer, expected))
    assert told == due, f"{method}: refused as {told} instead of {due}"
    return told is not None


def check_full(paper: Paper, refusals: int) -> None:
    """So many messages were refused, and there is no room for them on paper either."""
    for _ in range(refusals):
        with pytest.raises(Refused, match="overloaded"):
            paper.send(Message("one too many"))


SAID = {
    "session.start": "selectedModel",
    "session.error": "errorType",
    "session.warning": "warningType",
    "session.info": "message",
    "session.idle": "aborted",
    "session.title_changed": "title",
    "session.model_change": "newModel",
    "assistant.idle": "aborted",
    "assistant.message": "content",
    "assistant.reasoning": "content",
    "assistant.message_delta": "deltaContent",
    "assistant.reasoning_delta": "deltaContent",
    "model.call_failure": "errorType",
    "user.message": "content",
    "tertulia.message_queued": "content",
    "tertulia.named": "name",
}
"""What matters of an event's data."""


def shown(event: dict[str, Any]) -> tuple[str, Any]:
    """An event as it stands on paper."""
    said = event["data"].get(SAID.get(event["type"], ""))
    if event["type"].endswith(".idle"):
        said = bool(said)
    return event["type"], said


def check_log(paper: Paper, log: list[dict[str, Any]], ids: dict[int, str]) -> None:
    """The stored log is the one on paper: each event once, in order, in one chain, and no event
    is another one than it was. `ids` grows by what is new."""
    found = [(item["seq"], *shown(item["event"])) for item in log]
    assert found == [(event.seq, event.type, event.said) for event in paper.log], paper.id
    for item in log:
        assert ids.setdefault(item["seq"], item["event"]["id"]) == item["event"]["id"]
    assert len(set(ids.values())) == len(ids), f"{paper.id}: an id is there twice"
    seen = [i["event"] for i in log if not i["event"]["type"].startswith("tertulia.")]
    parents = [None, *(event["id"] for event in seen)]
    assert [event["parentId"] for event in seen] == parents[:-1], f"{paper.id}: a broken chain"


async def check_view(client: Client, session: str, ids: dict[int, dict[int, str]]) -> None:
    """The client was told all that it has to be, once and in order, and nothing else."""
    expected = client.view(session).expected()
    with anyio.move_on_after(PATIENCE_S):
        await client.frames.until(lambda: len(client.seen(session)) >= len(expected))
    told = client.seen(session)
    assert [shown(event) for event in told] == [(e.type, e.said) for _, e in expected], session
    for event, (paper, on_paper) in zip(told, expected, strict=True):
        assert event.get("ephemeral", False) == (on_paper.seq == 0)
        if on_paper.seq:
            assert event["id"] == ids[paper.number][on_paper.seq], "another event than the log's"


def check_call(paper: Paper, call: Call) -> None:
    """The model was asked for exactly the conversation on paper."""
    assert paper.turn is not None
    said = [m for m in call.request.messages if m.role != "system"]
    assert [(m.role, m.content) for m in said] == paper.turn.history


def check_rows(papers: dict[str, Paper], rows: list[dict[str, Any]]) -> None:
    """Each session has its row, and nothing else has one."""
    found = {row["sessionId"]: row for row in rows}
    assert len(found) == len(rows), "a session is listed twice"
    assert sorted(found) == sorted(papers)
    for session, paper in papers.items():
        row = found[session]
        expected = {
            "summary": paper.title,
            "named": paper.name is not None,
            "model": paper.kept.model,
            "archived": paper.archived,
            "metadata": paper.metadata,
            "parentSessionId": paper.parent,
            "pending": len(paper.waiting),
        }
        told = {name: row.get(name) or type(value)() for name, value in expected.items() if value}
        assert told == {name: value for name, value in expected.items() if value}, session
        assert not [name for name, value in expected.items() if not value and row.get(name)]


def words_replaced(document: Any, renamed: dict[str, str]) -> Any:
    """An exported document with other prompts."""
    text = json.dumps(document)
    for old, new in renamed.items():
        text = text.replace(old, new)
    return json.loads(text)
