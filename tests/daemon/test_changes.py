"""Whoever asks the store for much, and for what takes long, leaves the others their turn."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia_protocol.errors import StoreFailed
from tertuliad.replies import Reply, settled
from tertuliad.store import writer
from tertuliad.store.changes import Change, Changes
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair

pytestmark = pytest.mark.anyio

MOST = 4
KINDS = {"light": (False, False), "heavy": (True, False), "bare": (True, True)}
ASKED = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(sorted(KINDS))), max_size=30)


def put(asked: list[tuple[int, str]]) -> tuple[Changes, dict[int, tuple[int, int]]]:
    """All of it, and by a change's identity who asked for it, as which of theirs."""
    changes, place = Changes(), {}
    for number, (asker, kind) in enumerate(asked):
        heavy, bare = KINDS[kind]
        change = Change(lambda _: None, Reply(), heavy, bare)
        changes.put(asker, change)
        place[id(change)] = (asker, number)
        change.reply.give(change)  # keeps it
    return changes, place


@given(ASKED)
def test_each_has_a_turn_and_its_own_order(asked: list[tuple[int, str]]) -> None:
    changes, place = put(asked)
    groups: list[list[Change]] = []
    while group := changes.next_group(MOST):
        groups.append(group)
    done = [place[id(change)] for group in groups for change in group]
    assert len(done) == len(asked)
    for asker in {asker for asker, _ in asked}:
        assert (mine := [number for who, number in done if who == asker]) == sorted(mine)
        others = [who for who, _ in asked if who != asker]
        waited = 0
        for group in groups:
            if all(place[id(change)][0] != asker for change in group):
                waited += 1
            else:
                assert waited <= len({*others}), "another had two turns before one's own"
                waited = 0
    assert all(len(group) == 1 for group in groups if any(change.heavy for change in group))
    assert max(map(len, groups), default=0) <= MOST


@given(ASKED)
def test_at_the_end_all_that_can_be_one_transaction_is(asked: list[tuple[int, str]]) -> None:
    changes, place = put(asked)
    done: list[tuple[int, int]] = []
    groups = 0
    while group := changes.last_group():
        assert len(group) == 1 or not any(change.bare for change in group)
        done += [place[id(change)] for change in group]
        groups += 1
    assert len(done) == len(asked)
    for asker in {asker for asker, _ in asked}:
        assert (mine := [number for who, number in done if who == asker]) == sorted(mine)
    bare = sum(kind == "bare" for _, kind in asked)
    assert groups <= 2 * bare + 1


FLOODS = {
    "sessions.fork": [{"sessionId": "busy"}] * 100,
    "session.delete": [{"sessionId": f"nobody-{number}"} for number in range(100)],
}


@pytest.mark.parametrize("method", FLOODS)
async def test_a_turn_goes_on_between_what_another_asks(tmp_path: Path, method: str) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("busy")
        other = room.connect()
        await other.create("s")
        free = threading.Event()
        room.store._writer.submit_bare(lambda _: free.wait(PATIENCE_S))
        many = [await client.ask(method, params) for params in FLOODS[method]]
        await client.request("ping")
        free.set()
        await other.turn("s", "hello")
        answered = {answer["id"] for answer in client.answers()}
        assert len(answered & {*many}) < 50
        for each in many:
            await client.answer(each)


async def test_searches_that_come_together_share_a_step_of_the_index(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("busy")
        await client.turn("busy", "herons")
        steps: list[Any] = []
        submit = room.store._writer.submit

        def counting(work: Any, **how: Any) -> Any:
            steps.append(work)
            return submit(work, **how)

        room.store._writer.submit = counting  # type: ignore[method-assign]
        free = threading.Event()
        room.store._writer.submit_bare(lambda _: free.wait(PATIENCE_S))
        many = [await client.ask("sessions.search", {"text": "herons"}) for _ in range(50)]
        await client.request("ping")
        free.set()
        await client.say("busy", "said between")
        last = await client.ask("sessions.search", {"text": "between"})
        for each in many:
            assert len((await client.answer(each))["result"]["hits"]) == 2
        assert (await client.answer(last))["result"]["hits"]
        assert len(steps) < 15


async def test_a_daemon_that_ends_does_what_waits_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Any] = []
    monkeypatch.setattr(writer, "sync_file", synced.append)
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        free = threading.Event()
        room.store._writer.submit_bare(lambda _: free.wait(PATIENCE_S))
        deleted = [room.store.delete([name]) for name in ("s", *map(str, range(100)))]
        free.set()
        room.store.close()
        assert await settled(deleted[0]) == {"s": ANY}
        for each in deleted[1:]:
            assert await settled(each) == {}
        assert len(synced) < 5
        late = [room.store.delete([name]) for name in map(str, range(2000))]
        for each in late:
            with pytest.raises(StoreFailed, match="closed"):
                await settled(each)
