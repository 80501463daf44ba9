"""A thread's jobs: each in its turn among those of the others, and all of them done before the
end."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia_protocol.errors import RpcError, StoreFailed
from tertuliad.replies import Reply, mapped, settled
from tertuliad.store.base import Log
from tertuliad.store.sqlite import SqliteStore
from tertuliad.store.worker import Worker
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair
from tests.support.store_alone import done

pytestmark = pytest.mark.anyio

Job = tuple[int, int]
"""Who asked for it, and which of theirs it is."""


def numbered(askers: list[int]) -> Iterator[Job]:
    asked: Counter[int] = Counter()
    for asker in askers:
        asked[asker] += 1
        yield asker, asked[asker]


async def order_of(askers: list[int]) -> list[Job]:
    """The order in which jobs are done that are asked for while the thread is busy."""
    worker = Worker("tested", asyncio.get_running_loop())
    did: list[Job] = []
    begun, free = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        free.wait(PATIENCE_S)

    worker.submit(busy)
    await anyio.to_thread.run_sync(begun.wait, PATIENCE_S)
    futures = [worker.submit(partial(did.append, job), job[0]) for job in numbered(askers)]
    free.set()
    for future in futures:
        await done(future)
    worker.close(lambda: None)
    return did


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), max_size=30))
async def test_each_asker_has_its_turn_and_its_own_order(askers: list[int]) -> None:
    did = await order_of(askers)
    assert Counter(did) == Counter(numbered(askers))
    for asker in set(askers):
        assert [number for who, number in did if who == asker] == [
            number for who, number in numbered(askers) if who == asker
        ]
    rounds = [number for _, number in did]
    assert rounds == sorted(rounds), "nobody has a second job done before another's first"


async def test_who_asks_for_little_does_not_wait_for_who_asks_for_much() -> None:
    assert await order_of([1] * 50 + [2]) == [(1, 1), (2, 1), *((1, n) for n in range(2, 51))]


async def test_what_was_asked_for_is_done_before_the_end_and_nothing_after_it() -> None:
    worker = Worker("tested", asyncio.get_running_loop())
    did: list[str] = []
    futures = [worker.submit(partial(did.append, f"job {n}"), n % 3) for n in range(9)]
    worker.close(lambda: did.append("the end"))
    assert sorted(did[:9]) == [f"job {n}" for n in range(9)]
    assert did[9:] == ["the end"]
    for future in futures:
        await done(future)
    with pytest.raises(StoreFailed, match="stopping"):
        worker.submit(lambda: did.append("too late")).result()
    assert did[10:] == []


async def test_a_job_that_fails_is_its_askers_and_the_thread_goes_on() -> None:
    worker = Worker("tested", asyncio.get_running_loop())
    failed = worker.submit(lambda: 1 / 0, 1)
    with pytest.raises(ZeroDivisionError):
        await done(failed)
    assert await done(worker.submit(lambda: "done", 2)) == "done"
    worker.close(lambda: None)


async def test_what_nobody_needs_any_more_is_refused_at_the_end() -> None:
    worker = Worker("tested", asyncio.get_running_loop())
    did: list[str] = []
    begun, free = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        free.wait(PATIENCE_S)
        did.append("what had begun")

    first = worker.submit(busy)
    await anyio.to_thread.run_sync(begun.wait, PATIENCE_S)
    rest = [worker.submit(partial(did.append, "not begun"), n) for n in range(5)]
    free.set()
    worker.close(lambda: did.append("the end"), drop=True)
    await done(first)
    for future in rest:
        with pytest.raises(StoreFailed, match="stopping"):
            future.result()
    assert did == ["what had begun", "the end"]


async def test_a_thread_that_cannot_be_had_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker("tested", asyncio.get_running_loop())

    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(StoreFailed, match="bound of threads") as raised:
            await done(worker.submit(lambda: 1))
    assert raised.value.data is not None
    assert raised.value.data["retryMs"]
    assert await done(worker.submit(lambda: 2)) == 2
    worker.close(lambda: None)


async def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    worker = Worker("tested", asyncio.get_running_loop())
    begun, free = threading.Event(), threading.Event()
    did: list[int] = []

    def first() -> None:
        begun.set()
        free.wait(PATIENCE_S)
        did.append(1)

    running = worker.submit(first)
    left, stays = (worker.submit(partial(did.append, number)) for number in (2, 3))
    await anyio.to_thread.run_sync(begun.wait, PATIENCE_S)
    for future in (running, left):
        future.cancel()
    free.set()
    for future in (running, stays):  # what has begun is done
        await done(future)
    with pytest.raises(RpcError, match="cancelled"):
        await done(left)
    assert did == [1, 3]


async def test_whoever_leaves_a_wait_asks_the_work_to_stop_and_keeps_nothing_of_it() -> None:
    """The exception that ends a wait may live on in a cycle, with the frames that it has passed."""
    stopped: list[bool] = []
    reply = Reply(lambda: stopped.append(True))
    kept = weakref.ref(reply)
    waiting = asyncio.create_task(settled(reply))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError) as left:
        await waiting
    assert stopped
    del reply
    assert kept() is None, left


async def test_nothing_is_read_for_a_client_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Log | None] = []
    whole = SqliteStore.whole

    def note(log: Log | None) -> Log | None:
        read.append(log)
        return log

    def noted(store: SqliteStore, session_id: str) -> Future[Log | None]:
        return mapped(whole(store, session_id), note)

    monkeypatch.setattr(SqliteStore, "whole", noted)
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        leaving, free = room.connect(), threading.Event()
        busy = room.store.beside(partial(free.wait, PATIENCE_S))
        await leaving.request("session.resume", {"sessionId": "s"})
        for _ in range(20):
            await leaving.ask("session.export", {"sessionId": "s"})
        await leaving.request("ping")
        await leaving.aclose()
        await room.gone(leaving)
        free.set()
        await settled(busy)
        await client.request("session.export", {"sessionId": "s"})
        assert len(read) == 1
