"""What sessions do leaves nothing behind in cycles: memory goes when its last holder does, and the
collector, which looks seldom, has nothing to find."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
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
    places = [each if callable(each) else type(each) for each in found]
    named = [f"{place.__module__}.{place.__qualname__}" for place in places]
    return Counter(name for name in named if name.startswith("tertulia"))


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
