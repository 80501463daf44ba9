"""Who reads much leaves the others their turn, whatever is read, and however it was asked for."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertuliad import limits
from tertuliad.askers import NOBODY, asker, asking
from tertuliad.connection import Connection
from tertuliad.store.reader import Reader
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

Both = tuple[FramesClient, FramesClient, Room]


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    """Two clients that follow one session, in which something was said."""
    async with pair(tmp_path / "home") as (client, room):
        await client.create("s")
        params = {"sessionId": "s", "prompt": "herons", "idempotencyKey": "k", "wait": True}
        await client.request("session.send", params)
        other = room.connect()
        await other.request("session.resume", {"sessionId": "s", "disableResume": True})
        await other.request("sessions.search", {"text": "herons"})
        yield client, other, room


@contextmanager
def busy(reader: Reader) -> Iterator[None]:
    """The thread does something else meanwhile."""
    free = threading.Event()
    reader.submit(lambda _: free.wait(PATIENCE_S))
    try:
        yield
    finally:
        free.set()


READS: dict[str, dict[str, Any]] = {
    "session.getMessages": {"sessionId": "s"},
    "session.list": {},
    "sessions.search": {"text": "herons"},
    "session.export": {"sessionId": "s"},
    "session.history.listRewindPoints": {"sessionId": "s"},
    "session.sendAndWait": {"sessionId": "s", "prompt": "herons", "idempotencyKey": "k"},
}


@pytest.mark.parametrize("method", READS)
async def test_who_asks_once_does_not_wait_for_all_that_another_asks(
    both: Both, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other, room = both
    asked = {room.connection_of[each]: each for each in (client, other)}
    answered: list[FramesClient] = []
    push = Connection._push

    def noted(self: Connection, frame: bytes) -> None:
        answered.append(asked[self])
        push(self, frame)

    store = room.store
    with busy(store._searcher if method == "sessions.search" else store._reader):
        many = [await client.ask(method, READS[method]) for _ in range(30)]
        await client.request("ping")
        one = await other.ask(method, READS[method])
        await other.request("session.log", {"sessionId": "s", "message": "behind what is indexed"})
        monkeypatch.setattr(Connection, "_push", noted)
    for each in many:
        assert "result" in await client.answer(each)
    assert "result" in await other.answer(one)
    assert answered.index(other) < 5


@pytest.fixture
def asked_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Who asks the threads that read, from here on."""
    noted: list[int] = []
    submit = Reader.submit

    def noting(self: Reader, work: Any) -> Any:
        noted.append(asker.get())
        return submit(self, work)

    monkeypatch.setattr(Reader, "submit", noting)
    return noted


async def test_what_a_client_has_missed_is_read_in_its_turn(
    both: Both, monkeypatch: pytest.MonkeyPatch, asked_by: list[int]
) -> None:
    client, other, room = both
    monkeypatch.setattr(limits, "OUTBOX_HIGH_BYTES", 1000)
    monkeypatch.setattr(limits, "WRITE_CHUNK_BYTES", 1000)
    other.stop_reading()
    for number in range(20):
        await client.request("session.log", {"sessionId": "s", "message": f"{number} " * 200})
    asked_by.clear()
    other.read_on()
    await other.next(lambda message: "19 19" in str(message))
    assert {*asked_by} == {room.connection_of[other].asker}


async def test_a_session_that_is_resumed_since_it_exists_is_read_in_the_turn_of_who_asked(
    both: Both, monkeypatch: pytest.MonkeyPatch, asked_by: list[int]
) -> None:
    _, other, room = both
    monkeypatch.setattr(limits, "LIGHT_EVENTS", 0)
    room.sessions.let_go()
    await other.request("session.create", {"sessionId": "s", "ifExists": "resume"})
    assert {*asked_by} == {room.connection_of[other].asker}


async def test_what_the_daemon_does_for_all_is_asked_for_by_nobody(
    both: Both, monkeypatch: pytest.MonkeyPatch, asked_by: list[int]
) -> None:
    """Though it begins with somebody's request."""
    client, other, room = both
    others = room.engine.others
    monkeypatch.setattr(limits, "OTHERS_LOOK_S", 0.001)
    for each in (client, other):
        await each.request("session.detach", {"sessionId": "s"})
    with anyio.fail_after(limits.SHUTDOWN_GRACE_S):
        while others._watching:
            await anyio.sleep(0.01)
    await other.request("session.resume", {"sessionId": "s", "disableResume": True})
    asked_by.clear()
    with anyio.fail_after(PATIENCE_S):
        while len(asked_by) < 3:
            others._seen = None  # as if another daemon had written something
            await anyio.sleep(0.001)
    assert {*asked_by} == {NOBODY}


async def test_an_engine_that_somebody_makes_does_for_all_what_nobody_asks(
    tmp_path: Path, asked_by: list[int]
) -> None:
    with asking(7):
        async with pair(tmp_path / "home") as (client, room):
            await client.create("s")
            asked_by.clear()
            room.engine.others._seen = None
            room.engine.others._spawn(room.engine.others.look)
            with anyio.fail_after(PATIENCE_S):
                while not asked_by:
                    await anyio.sleep(0.001)
            assert asked_by[0] == NOBODY
