"""The queues between a connection's reader and those who iterate: order, bound and end."""

from __future__ import annotations

import queue

import anyio
import pytest

from tertulia import Event, FellBehind, limits
from tertulia.aio_link import AsyncEventQueue
from tertulia.link import EventQueue

EVENTS = [Event(str(number), {}) for number in range(3)]


def test_events_come_in_order_and_then_the_end_for_everyone() -> None:
    feed = EventQueue()
    for event in EVENTS:
        feed.push(event)
    feed.end(None)
    feed.end(RuntimeError("too late to count"))
    feed.push(EVENTS[0])
    assert [feed.take() for _ in range(5)] == [*EVENTS, None, None]


def test_the_ends_error_is_raised_again_and_again() -> None:
    feed = EventQueue()
    with pytest.raises(queue.Empty):
        feed.take(0)
    feed.end(RuntimeError("over"))
    depths = set()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="over") as raised:
            feed.take()
        depths.add(len(raised.traceback))
    assert len(depths) == 1


def test_nobody_reads_and_the_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FEED_EVENTS", 2)
    feed = EventQueue()
    for event in EVENTS:
        feed.push(event)
    assert [feed.take(), feed.take()] == EVENTS[:2]
    with pytest.raises(FellBehind):
        feed.take()


@pytest.mark.anyio
async def test_the_async_queue_keeps_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FEED_EVENTS", 2)
    feed = AsyncEventQueue()
    taken: list[Event | None] = []

    async def read() -> None:
        with pytest.raises(FellBehind):
            while True:
                taken.append(await feed.take())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            for event in EVENTS:
                feed.push(event)
    assert taken == EVENTS[:2]
    quiet = AsyncEventQueue()
    quiet.push(EVENTS[0])
    quiet.end(None)
    quiet.push(EVENTS[1])
    assert [await quiet.take() for _ in range(3)] == [EVENTS[0], None, None]
    depths = set()
    for _ in range(3):
        with pytest.raises(FellBehind) as raised:
            await feed.take()
        depths.add(len(raised.traceback))
    assert len(depths) == 1
