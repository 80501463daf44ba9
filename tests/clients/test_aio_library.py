"""The async client's half of what is done with sessions: the same calls, awaited."""

from __future__ import annotations

import inspect
import os
import signal
from pathlib import Path

import anyio
import pytest

from tertulia import (
    AsyncClient,
    AsyncSession,
    Client,
    MessageRemoved,
    SeqMoved,
    Session,
    SessionExists,
    TurnBusy,
)
from tertulia.aio_message_queue import AsyncMessageQueue
from tertulia.message_queue import MessageQueue
from tests.clients.conftest import BOUND_S, Counted

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [(Client, AsyncClient), (Session, AsyncSession), (MessageQueue, AsyncMessageQueue)],
    ids=lambda each: each.__name__,
)
def test_both_clients_have_the_same_methods_and_arguments(blocking: type, awaited: type) -> None:
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: [*inspect.signature(member).parameters]
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    ours, theirs = public(blocking), public(awaited)
    bounded_by_a_scope = {"stream"}
    threads_only = {"start", "close"} if blocking is Client else set()
    assert ours.keys() - threads_only == theirs.keys()
    for name in theirs.keys() - bounded_by_a_scope:
        assert ours[name] == theirs[name], name


async def test_lists_searches_and_usage(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        for number in range(3):
            session = await client.create_session(f"s{number}")
            await session.send_and_wait(f"[[say:heron {number}]]", BOUND_S)
        paged = client.iter_sessions(page_size=2, order="created")
        assert [info.session_id async for info in paged] == ["s2", "s1", "s0"]
        assert len({hit.event_id async for hit in client.search("heron", page_size=2)}) == 6
        assert [info.session_id for info in await client.sessions(prefix="s1")] == ["s1"]
        assert (await client.usage()).turns == 3
        assert (await client.prune(0, exclude=["s0"])).candidates
        assert set(await client.delete_sessions(["s1", "s2"])) == {"s1", "s2"}


async def test_forks_metadata_and_files(home: Path, tmp_path: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session("s")
        await session.send_and_wait("[[say:hi]]", BOUND_S)
        point = (await session.rewind_points())[0]
        fork = await session.fork(point.event_id, name="empty")
        assert await fork.name() == "empty"
        assert not await fork.rewind_points()
        await client.update_metadata("s", {"a": 1})
        assert (await session.metadata()).metadata == {"a": 1}
        assert (await client.archive_session("s")).archived
        await client.export_to("s", tmp_path / "s.json")
        with pytest.raises(SessionExists):
            await client.import_from(tmp_path / "s.json")
        assert await client.import_from(tmp_path / "s.json", "t") == "t"
        assert await session.truncate(point.event_id) > 0


async def test_send_asks_and_the_queue_is_edited(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session("s")
        seq = (await session.tail()).seq
        first = await session.send_and_wait("[[say:hi]]", BOUND_S, idempotency_key="k")
        again = await session.send_and_wait("[[say:hi]]", BOUND_S, idempotency_key="k")
        assert again.message_id == first.message_id
        with anyio.fail_after(BOUND_S):
            streamed = [e async for e in session.stream("[[say:hi]]", idempotency_key="k")]
        assert "hi" in [event.data.get("content") for event in streamed]
        with pytest.raises(SeqMoved):
            await session.send("no", expected_seq=seq)
        await session.send("[[fake-hang]]")
        with pytest.raises(TurnBusy):
            await session.send("no", if_idle=True)
        one = await session.send("one")
        two = await session.queue.insert(0, "two")
        assert await session.queue.edit(two, "zwei")
        assert await session.queue.move(one, 0)
        assert [item.display_text for item in (await session.queue.list()).items] == ["one", "zwei"]
        await session.queue.process()  # a turn runs: nothing to do
        assert len((await session.queue.list()).items) == 2
        await session.queue.clear()
        await session.set_working_directory(home)
        info = await client.session_info("s")
        assert info is not None
        assert info.context == {"cwd": str(home)}

        async def clear() -> None:
            with anyio.fail_after(BOUND_S):
                async for event in events:
                    if event.type == "pending_messages.modified":
                        await session.queue.clear()
                        break
            await session.suspend()

        events = await session.events()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clear)
            with pytest.raises(MessageRemoved):
                await session.send_and_wait("never", BOUND_S)
        await session.send("[[fake-hang]]")
        waiting = await session.send("never", idempotency_key="removed")
        assert await session.queue.remove(waiting)
        await session.abort()
        with pytest.raises(MessageRemoved):
            await session.send_and_wait("never", BOUND_S, idempotency_key="removed")


async def test_a_log_is_followed_across_the_daemons_death(home: Path, counted: Counted) -> None:
    async with AsyncClient.spawn(home=home, command=counted.command) as client:
        session = await client.create_session("s")
        followers = [session.follow() for _ in range(2)]
        noted = await session.log("kept")
        os.kill(counted.pids[0], signal.SIGKILL)
        with anyio.fail_after(BOUND_S):
            for follower in followers:
                async for event in follower:
                    if event.id == noted:
                        break
            later = session.follow(followers[0].cursor)
            noted = await session.log("more")
            assert (await anext(later)).id == noted
            await session.close()
            assert [event async for event in later] == []
        assert len(counted.pids) == 2
