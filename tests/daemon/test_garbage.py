"""What sessions do leaves nothing behind in cycles: memory goes when its last holder does, and the
collector, which looks seldom, has nothing to find."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import pytest

from tertuliad import garbage, limits
from tests.daemon.test_idle_sessions import SOON_S, STEPS, left_memory
from tests.support.frames_client import FramesClient
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def found() -> Iterator[list[Any]]:
    """What the collector finds from now on."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def of_ours(found: list[Any]) -> Counter[str]:
    """Where what was found was made, as far as that is code of the daemon or the protocol."""
    gc.collect()
    return Counter(name for name in map(_place, found) if name.startswith("tertulia"))


def _place(each: Any) -> str:
    if isinstance(each, FrameType):
        return f"{each.f_globals['__name__']}.{each.f_code.co_qualname}"
    kind = each if isinstance(each, FunctionType) else type(each)
    return f"{kind.__module__}.{kind.__qualname__}"


async def lives(client: FramesClient, room: Room, session_id: str) -> None:
    """All that a session can go through."""
    await client.create(session_id, streaming=True)
    await client.turn(session_id, "first")
    for method, params in STEPS:
        await client.request(method, {"sessionId": session_id, **params})
        await left_memory(room)
    await client.request("session.getMessages", {"sessionId": session_id})
    await client.request("sessions.fork", {"sessionId": session_id})
    await client.request("session.list", {})
    refused = await client.ask("session.send", {"sessionId": "nobody", "prompt": "hi"})
    assert "error" in await client.answer(refused)
    await client.request("session.delete", {"sessionId": session_id})


async def test_what_sessions_do_leaves_nothing_in_cycles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Any]
) -> None:
    monkeypatch.setattr(limits, "SESSION_LOOK_S", SOON_S)
    async with pair(tmp_path, session_idle_s=SOON_S) as (client, room):
        await lives(client, room, "warm")
        of_ours(found)
        found.clear()
        await lives(client, room, "s")
        assert not of_ours(found)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("session.create", {"systemMessage": {"mode": "replace", "content": "long"}}),
    ("session.create", {"model": "nobody-has-it"}),
    ("session.resume", {"sessionId": "nobody"}),
    ("session.resume", {"provider": {"baseUrl": "no address"}}),
    ("session.send", {"prompt": "long", "expectedSeq": 1}),
    ("session.send", {"prompt": "long", "ifIdle": True}),
    ("session.send", {"prompt": 1}),
    ("session.history.truncate", {"eventId": "no event"}),
    ("session.history.rewind", {"eventId": "no event"}),
    ("session.metadata.update", {"metadata": {"k": "v" * 70_000}}),
    ("session.model.switchTo", {"modelId": "nobody-has-it"}),
    ("session.export", {"sessionId": "nobody"}),
    ("session.import", {"data": "nothing"}),
    ("sessions.fork", {"toEventId": "no event"}),
    ("sessions.open", {"kind": "create", "options": {"sessionId": "s"}}),
    ("session.eventLog.read", {"cursor": "none", "max": 0}),
    ("no.method", {}),
]


async def test_what_is_refused_leaves_nothing_in_cycles(tmp_path: Path, found: list[Any]) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s", streaming=True)
        room.model.hold = True
        await client.say("s", "hello")
        call = await room.model.next_call()
        for _ in range(2):  # the first time, modules are read
            of_ours(found)
            found.clear()
            for method, params in REFUSED:
                asked = await client.ask(method, {"sessionId": "s", **params})
                assert "error" in await client.answer(asked), method
        assert not of_ours(found)
        call.finish("done")
        await client.next_event("session.idle", "s")


async def test_messages_that_find_no_room_leave_nothing_in_cycles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Any]
) -> None:
    monkeypatch.setattr(limits, "PENDING_MESSAGES", 1)
    async with pair(tmp_path) as (client, room):
        await client.create("s", streaming=True)
        room.model.hold = True
        await client.say("s", "hello")
        call = await room.model.next_call()
        await client.say("s", "waits")
        of_ours(found)
        found.clear()
        asked = await client.ask("session.send", {"sessionId": "s", "prompt": "long"})
        assert (await client.answer(asked))["error"]["data"]["kind"] == "overloaded"
        assert not of_ours(found)
        room.model.hold = False
        call.finish("done")
        await client.next_event("session.idle", "s")


class Round:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_in_a_cycle_would_be_found(found: list[Any]) -> None:
    Round.__module__ = "tertuliad.imagined"
    Round()
    assert of_ours(found)


def test_what_stays_is_not_looked_at(found: list[Any]) -> None:
    with garbage.made_to_stay():
        stays: list[Any] = [[]]
    assert gc.isenabled()
    assert not any(each is stays for each in gc.get_objects())
    gc.unfreeze()
