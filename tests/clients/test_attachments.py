"""Several sessions of one client with the same id: each ends for itself, the last one detaches."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia import AsyncClient, Client, SessionNotFound
from tertulia.attachments import Hold
from tertulia.core import Core
from tests.clients.conftest import BOUND_S, Counted
from tests.clients.test_core import Kept, frame, held, sent

LONG = "[[fake-n50-d5]]"
RESUME = "session.resume"


def asked(core: Core, hold: Hold, session_id: str = "s") -> Any:
    """Ask to attach; the request's id."""
    core.attach(RESUME, {"sessionId": session_id}, hold)
    return sent(core)[0]["id"]


def grant(core: Core, request_id: Any) -> None:
    core.receive(frame({"id": request_id, "result": {"sessionId": "s"}}))


def refuse(core: Core, request_id: Any) -> None:
    core.receive(frame({"id": request_id, "error": {"code": -32602, "message": "no"}}))


def methods(core: Core) -> list[str]:
    return [message["method"] for message in sent(core)]


def test_the_last_hold_that_is_released_detaches_and_each_ends_its_own_feeds() -> None:
    core = Core()
    first, second = held(core), held(core)
    feeds = Kept(), Kept()
    core.subscribe("s", feeds[0], first)
    core.subscribe("s", feeds[1], second)
    assert core.release("s", first) is None
    assert core.release("s", first) is None
    assert (feeds[0].ends, feeds[1].ends, methods(core)) == ([None], [], [])
    assert core.release("s", second) is not None
    assert (feeds[1].ends, methods(core)) == ([None], ["session.detach"])
    assert core.release("s", second) is None


def test_nobody_detaches_while_somebody_asks_to_attach() -> None:
    core = Core()
    first, second = held(core), Hold()
    request = asked(core, second)
    core.release("s", first)
    assert methods(core) == []
    grant(core, request)
    assert methods(core) == []
    core.release("s", second)
    assert methods(core) == ["session.detach"]


def test_a_request_to_attach_that_is_refused_gives_its_share_back() -> None:
    core = Core()
    refuse(core, asked(core, Hold()))
    assert methods(core) == []
    first = held(core)
    request = asked(core, Hold())
    core.release("s", first)
    refuse(core, request)
    assert methods(core) == ["session.detach"]


def test_a_hold_that_nobody_has_any_more_does_not_count() -> None:
    core = Core()
    first, dropped, feed = held(core), held(core), Kept()
    core.subscribe("s", feed, dropped)
    del dropped
    core.release("s", first)
    assert methods(core) == []
    first = held(core)
    del feed
    core.release("s", first)
    assert methods(core) == ["session.detach"]
    request = asked(core, Hold())
    grant(core, request)
    assert methods(core) == ["session.detach"]


def test_a_deleted_session_is_held_by_nobody() -> None:
    core = Core()
    old = held(core)
    notice = {"type": "session.deleted", "sessionId": "s"}
    core.receive(frame({"method": "session.lifecycle", "params": notice}))
    new = held(core)
    core.release("s", new)
    assert methods(core) == ["session.detach"]
    core.release("s", old)
    assert methods(core) == []


def test_who_leaves_first_ends_neither_the_attachment_nor_a_turn_of_the_others(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session("s") as session:
        with client.resume_session("s") as other:
            events = other.events()
            stream = session.stream(LONG, timeout=BOUND_S)
            next(stream)
        assert "session.idle" not in [event.type for event in events]
        assert "session.idle" in [event.type for event in stream]
        other.close()
        assert session.send_and_wait("[[say:still here]]", BOUND_S).text == "still here"
        session.close()
        with pytest.raises(SessionNotFound):
            session.tail()
        with client.resume_session("s") as again:
            assert again.send_and_wait("[[say:back]]", BOUND_S).text == "back"


@pytest.mark.anyio
async def test_the_async_client_counts_them_as_well(home: Path) -> None:
    async with AsyncClient.spawn(home=home) as client:
        session = await client.create_session("s")
        with anyio.fail_after(BOUND_S):
            async with await client.resume_session("s") as other:
                events = await other.events()
                stream = session.stream(LONG)
                await anext(stream)
            assert "session.idle" not in [event.type async for event in events]
            assert "session.idle" in [event.type async for event in stream]
        await other.close()
        answer = await session.send_and_wait("[[say:still here]]", BOUND_S)
        assert answer.text == "still here"
        await session.close()
        with pytest.raises(SessionNotFound):
            await session.tail()
        async with await client.resume_session("s") as again:
            assert (await again.send_and_wait("[[say:back]]", BOUND_S)).text == "back"


@pytest.mark.anyio
@pytest.mark.parametrize("answered", [True, False])
async def test_who_is_cancelled_before_having_the_session_does_not_stay_attached(
    home: Path, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """By asyncio's own cancellation, which comes even where the answer is there."""
    async with AsyncClient.spawn(home=home) as client:
        assert client._link is not None
        core = client._link._core
        step = core._attached if answered else core.attach

        def cancelling(*given: Any) -> Any:
            result = step(*given)
            creating.cancel()
            return result

        monkeypatch.setattr(core, step.__name__, cancelling)
        creating = asyncio.create_task(client.create_session("s"))
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await creating
        monkeypatch.undo()
        assert await client.ping("x") == "pong: x"
        with pytest.raises(SessionNotFound):
            await client.request("session.getMessages", {"sessionId": "s"})
        del cancelled  # what it keeps of the call does not hold the session


def test_those_that_attach_to_the_next_daemon_are_counted_there(
    home: Path, counted: Counted
) -> None:
    with Client.spawn(home=home, command=counted.command) as client:
        sessions = [client.create_session("s"), client.resume_session("s")]
        left = client.resume_session("s")
        events = left.events()
        os.kill(counted.pids[0], signal.SIGKILL)
        with pytest.raises(Exception, match="signal 9"):
            list(events)
        left.close()
        for session in (*sessions, sessions[0]):
            session.attach()
        sessions[0].close()
        assert sessions[1].send_and_wait("[[say:here]]", BOUND_S).text == "here"
        sessions[1].close()
        with pytest.raises(SessionNotFound):
            sessions[1].tail()
