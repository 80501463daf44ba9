"""The async client against the real daemon and a scripted model."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tertulia import (
    AsyncClient,
    AsyncSession,
    ConnectionLost,
    DaemonFailed,
    SessionDeleted,
    SessionNotFound,
    Timeout,
    TurnAborted,
    TurnFailed,
    limits,
)
from tertulia.aio_link import AsyncLink
from tests.clients.conftest import BOUND_S, Counted, Model, Served, wait_until_gone

pytestmark = pytest.mark.anyio


async def test_sessions_answer_from_their_own_history(home: Path, model: Model) -> None:
    answers: dict[int, str] = {}

    async def converse(client: AsyncClient, number: int) -> None:
        async with await client.create_session(
            model="fake-history", provider=model.provider
        ) as session:
            await session.send_and_wait(f"context {number}", BOUND_S)
            answers[number] = (await session.send_and_wait("and now", BOUND_S)).text

    async with AsyncClient.spawn(home=home) as client, anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(converse, client, number)
    for number in range(3):
        assert f"context {number}" in answers[number]
        assert answers[number].count("context") == 1


async def test_a_stream_is_one_turn_up_to_idle(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session(model="fake-n5-d1")
        with anyio.fail_after(BOUND_S):
            events = [event async for event in session.stream("hello")]
    deltas = [e.data["deltaContent"] for e in events if e.type == "assistant.message_delta"]
    said = [e.data["content"] for e in events if e.type == "assistant.message"]
    assert said == ["".join(deltas)]
    assert events[-1].type == "session.idle"


async def test_a_failed_turn_says_why_and_the_next_one_works(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session()
        with pytest.raises(TurnFailed) as raised:
            await session.send_and_wait("[[fake-e401]]", BOUND_S)
        assert raised.value.status == 401
        assert (await session.send_and_wait("[[say:fine]]", BOUND_S)).text == "fine"


async def test_a_client_of_another_event_loop_is_refused(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session()

        async def there() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await session.send("Hello")
            with pytest.raises(RuntimeError, match="another event loop"):
                async with client:
                    pass

        await anyio.to_thread.run_sync(anyio.run, there)
        assert await client.ping("here") == "pong: here"


async def test_an_aborted_turn_ends(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session()
        with pytest.raises(TurnAborted), anyio.fail_after(BOUND_S):
            async for event in session.stream("[[fake-n100000-d20]]"):
                if event.type == "assistant.message_delta":
                    await session.abort()


async def test_a_turn_whose_session_is_deleted_says_so(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session()
        with pytest.raises(SessionDeleted, match="deleted"), anyio.fail_after(BOUND_S):
            async for event in session.stream("[[fake-n100000-d20]]"):
                if event.type == "assistant.message_delta":
                    await client.delete_session(session.id)


async def test_neither_a_timeout_nor_a_cancellation_ends_a_turn(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session()
        with pytest.raises(Timeout):
            await session.send_and_wait("[[fake-hang]]", timeout=0.2)
        with anyio.move_on_after(0.1):
            await client.request("session.getMessages", {"sessionId": session.id})
        assert "abort" not in [event.type for event in await session.messages()]
        await session.abort()
        assert (await session.send_and_wait("[[say:fine]]", BOUND_S)).text == "fine"


async def test_iterators_end_with_an_error_when_the_daemon_dies(
    home: Path, counted: Counted
) -> None:
    async with AsyncClient.spawn(home=home, command=counted.command) as client:
        session = await client.create_session()
        events = await session.events()
        os.kill(counted.pids[0], signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="signal 9"), anyio.fail_after(BOUND_S):
            async for _ in events:
                pass
        with pytest.raises(ConnectionLost):
            await client.ping()


async def test_iterators_end_when_their_session_does(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        closed = await client.create_session("closed")
        deleted = await client.create_session("deleted")
        quiet, loud = await closed.events(), await deleted.events()
        await closed.close()
        await client.delete_session("deleted")
        with anyio.fail_after(BOUND_S):
            assert "session.idle" not in [event.type async for event in quiet]
            with pytest.raises(SessionNotFound):
                async for _ in loud:
                    pass


async def test_who_is_not_attached_waits_for_no_events_and_sends_nothing(
    home: Path, counted: Counted
) -> None:
    async def seen(session: AsyncSession) -> list[str]:
        with anyio.fail_after(BOUND_S):
            return [event.type async for event in await session.events()]

    async with AsyncClient.spawn(home=home, command=counted.command) as client:
        closed, deleted = await client.create_session("c"), await client.create_session("d")
        await closed.close()
        await client.delete_session("d")
        again = await client.resume_session("c")
        before = (await again.tail()).cursor
        assert await seen(closed) == []
        with pytest.raises(SessionNotFound):
            await closed.send_and_wait("[[say:unseen]]", BOUND_S)
        assert (await again.read_log(before)).events == ()
        with pytest.raises(SessionNotFound):
            await seen(deleted)
        os.kill(counted.pids[0], signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            await seen(again)
        await client.reconnect()
        with pytest.raises(SessionNotFound):
            await seen(again)
        with pytest.raises(SessionNotFound):
            await again.send_and_wait("[[say:unseen]]", BOUND_S)


async def test_events_show_what_another_client_does(served: Served) -> None:
    async with (
        AsyncClient.connect(served.address) as first,
        AsyncClient.connect(served.address) as second,
    ):
        mine = await first.create_session("shared")
        watcher = await (await second.resume_session("shared")).events()
        await mine.send_and_wait("[[say:seen]]", BOUND_S)
        said = []
        with anyio.fail_after(BOUND_S):
            async for event in watcher:
                if event.type == "assistant.message":
                    said.append(event.data["content"])
                if event.type == "session.idle":
                    break
        assert said == ["seen"]


async def test_the_small_calls(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session("small")
        assert await client.ping("hi") == "pong: hi"
        assert (await client.status())["protocolVersion"] == 3
        assert await client.models()
        await session.set_model("fake-n1")
        assert await session.log("a note")
        assert [info.session_id for info in await client.sessions()] == ["small"]
        assert await client.last_session_id() == "small"


async def test_however_many_tasks_enter_it_one_daemon_starts(home: Path, counted: Counted) -> None:
    client = AsyncClient.spawn(home=home, command=counted.command)
    answers: list[str] = []
    all_asked = anyio.Event()

    async def ask(number: int) -> None:
        async with client:
            answers.append(await client.ping(str(number)))
            if len(answers) == 4:
                all_asked.set()
            await all_asked.wait()

    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(ask, number)
    assert sorted(answers) == [f"pong: {n}" for n in range(4)]
    assert len(counted.pids) == 1
    wait_until_gone(counted.pids[0])


async def test_an_error_of_the_body_comes_as_it_is_and_leaves_no_process(
    home: Path, counted: Counted
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with AsyncClient.spawn(home=home, command=counted.command) as client:
            await client.ping()
            raise ZeroDivisionError
    wait_until_gone(counted.pids[0])


async def test_a_cancelled_body_leaves_no_process(home: Path, counted: Counted) -> None:
    with anyio.CancelScope() as scope:
        async with AsyncClient.spawn(home=home, command=counted.command) as client:
            session: AsyncSession = await client.create_session()
            async for _ in session.stream("[[fake-n100000-d20]]"):
                scope.cancel()
    assert scope.cancelled_caught
    wait_until_gone(counted.pids[0])


def in_a_task(step: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
    return asyncio.create_task(asyncio.wait_for(step, BOUND_S))


@pytest.mark.parametrize("owner", ["over", "inside"])
async def test_left_by_a_task_that_never_entered_it_it_ends(
    home: Path, counted: Counted, owner: str
) -> None:
    client = AsyncClient.spawn(home=home, command=counted.command)
    entered, leaves = asyncio.Event(), asyncio.Event()

    async def life() -> None:
        await client.__aenter__()
        entered.set()
        if owner == "inside":
            await leaves.wait()
            await client.__aexit__(None, None, None)

    before = asyncio.all_tasks()
    task = in_a_task(life())
    await asyncio.wait_for(entered.wait(), BOUND_S)
    if owner == "over":
        await task
    async with client:
        session = await client.create_session()
        events = await session.events()
    assert await client.ping("x") == "pong: x"
    await in_a_task(client.__aexit__(None, None, None))
    wait_until_gone(counted.pids[0])
    assert client.closed
    with pytest.raises(ConnectionLost, match="closed"):
        async for _ in events:
            pass
    with pytest.raises(ConnectionLost, match="closed"):
        await client.ping()
    with pytest.raises(ConnectionLost, match="closed"):
        async with client:
            pass
    leaves.set()
    await task
    assert asyncio.all_tasks() == before


async def test_left_while_it_connects_anew_it_has_no_connection(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient.spawn(home=home, command=counted.command) as client:
        open_link = client._open_link

        async def leaving() -> AsyncLink:
            link = await open_link()
            await in_a_task(client.__aexit__(None, None, None))
            return link

        monkeypatch.setattr(client, "_open_link", leaving)
        session = await client.create_session()
        events = await session.events()
        os.kill(counted.pids[0], signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="signal 9"), anyio.fail_after(BOUND_S):
            async for _ in events:
                pass
        with pytest.raises(ConnectionLost, match="closed"), anyio.fail_after(BOUND_S):
            await client.reconnect()
        wait_until_gone(counted.pids[1])


async def cancelled(task: asyncio.Task[None], times: int) -> None:
    """Have asyncio itself cancel it, so many times, until it ends."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, BOUND_S)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_asyncios_own_cancellation_of_the_leaving_leaves_nothing(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, times: int, stopped: bool
) -> None:
    for name in ("SHUTDOWN_TIMEOUT_S", "EOF_GRACE_S", "TERM_GRACE_S"):
        monkeypatch.setattr(limits, name, 0.1 if stopped else BOUND_S)
    leaves = asyncio.Event()

    async def life() -> None:
        async with AsyncClient.spawn(home=home, command=counted.command):
            if stopped:
                os.kill(counted.pids[0], signal.SIGSTOP)
            leaves.set()

    before = asyncio.all_tasks()
    task = asyncio.create_task(life())
    await leaves.wait()
    await cancelled(task, times)
    assert asyncio.all_tasks() == before
    wait_until_gone(counted.pids[0])


async def test_asyncios_own_cancellation_of_the_greeting_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EOF_GRACE_S", 0.1)
    os.mkfifo(said := tmp_path / "said")
    program = (
        "import os, signal, sys; print(os.getpid(), file=open(sys.argv[1], 'w')); signal.pause()"
    )

    async def life() -> None:
        async with AsyncClient.spawn(command=[sys.executable, "-c", program, str(said)]):
            pytest.fail("it greets")

    before = asyncio.all_tasks()
    task = asyncio.create_task(life())
    pid = int(await anyio.to_thread.run_sync(said.read_text))
    await cancelled(task, 3)
    assert asyncio.all_tasks() == before
    wait_until_gone(pid)


async def test_a_reader_that_fails_keeps_nobody_waiting(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SHUTDOWN_TIMEOUT_S", 0.1)

    def failing(body: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup), anyio.fail_after(BOUND_S):
        async with AsyncClient.spawn(home=home, command=counted.command) as client:
            assert client._link is not None
            monkeypatch.setattr(client._link._core, "_take", failing)
            await client.ping()
    wait_until_gone(counted.pids[0])


async def test_a_daemon_that_does_not_end_is_killed(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHUTDOWN_TIMEOUT_S", "EOF_GRACE_S", "TERM_GRACE_S"):
        monkeypatch.setattr(limits, name, 0.1)
    async with AsyncClient.spawn(home=home, command=counted.command):
        os.kill(counted.pids[0], signal.SIGSTOP)
    wait_until_gone(counted.pids[0])


async def test_a_daemon_that_fails_shows_the_end_of_its_stderr(home: Path) -> None:
    with pytest.raises(DaemonFailed, match="--no-such-flag") as raised:
        async with AsyncClient.spawn(home=home, args=["--no-such-flag"]):
            pass
    assert raised.value.returncode == 2
    with pytest.raises(DaemonFailed, match="no-such-daemon"):
        async with AsyncClient.spawn(command=["no-such-daemon"]):
            pass


async def test_no_daemon_at_an_address_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="tertulia serve"):
        async with AsyncClient.connect(f"unix:{tmp_path}/none.sock"):
            pass


async def test_a_client_that_was_left_is_over(home: Path) -> None:
    client = AsyncClient.spawn(home=home)
    with pytest.raises(RuntimeError, match="async with"):
        await client.ping()
    async with client:
        await client.ping()
    with pytest.raises(ConnectionLost, match="closed"):
        await client.ping()
