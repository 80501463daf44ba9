"""An idle session leaves memory after its time, and nobody can tell: it comes back as it was, and
stays while a turn runs, a message waits or somebody waits for an answer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tertuliad import limits
from tertuliad.config import ConfigError, load
from tertuliad.options import parse
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

SOON_S = 0.001


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks for idle sessions every millisecond."""
    monkeypatch.setattr(limits, "SESSION_LOOK_S", SOON_S)


async def left_memory(room: Room, count: int = 0) -> None:
    """Wait until no more than `count` sessions are in memory."""
    with anyio.fail_after(PATIENCE_S):
        while room.sessions.in_memory > count:
            await anyio.lowlevel.checkpoint()


async def kept(client: FramesClient) -> list[tuple[str, Any]]:
    """(type, data) of the stored events, without what differs between any two sessions."""
    stored = await client.history("s")
    return [(e["type"], e["data"].get("content")) for e in stored]


async def test_an_idle_session_leaves_memory_and_comes_back_as_it_was(tmp_path: Path) -> None:
    async with pair(tmp_path, session_idle_s=SOON_S) as (client, room):
        await client.create("s", streaming=True)
        await client.turn("s", "first")
        await left_memory(room)
        answer = await client.turn("s", "second")
        assert answer["data"]["content"] == "answer 2 to second"
        await left_memory(room)


STEPS: list[tuple[str, dict[str, Any]]] = [
    ("session.send", {"prompt": "hello"}),
    ("session.send", {"prompt": "once", "idempotencyKey": "k"}),
    ("session.name.set", {"name": "a name"}),
    ("session.log", {"message": "noted"}),
    ("session.model.switchTo", {"modelId": "another"}),
    ("session.abort", {}),
    ("session.metadata.update", {"metadata": {"k": 1}}),
    ("session.queue.setDrainPaused", {"paused": True}),
    ("session.queue.setDrainPaused", {"paused": False}),
    ("session.resume", {"systemMessage": {"mode": "replace", "content": "Be brief."}}),
    ("session.usage.getMetrics", {}),
]


async def told_by(home: Path, steps: list[tuple[str, dict[str, Any]]], *, leaves: bool) -> Any:
    """All that anybody can tell of a session in which `steps` happened: the answers, the events
    live and stored, and what its model was asked."""
    answers = []
    async with pair(home) as (client, room):
        await client.create("s", streaming=True)
        for method, params in steps:
            answer = await client.request(method, {"sessionId": "s", **params})
            answers.append(sorted(answer) if isinstance(answer, dict) else answer)
            await room.sessions.when_quiet("s").settled()
            if leaves:
                room.sessions.let_go()
                assert room.sessions.in_memory == 0
        stored = await kept(client)
        seen = [(e["type"], e["data"].get("content")) for e in client.events("s")]
        calls = [(c.request.model, c.request.messages) for c in room.model.calls]
        return answers, stored, seen, calls


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=10))
async def test_a_session_that_left_memory_after_every_step_is_like_one_that_never_did(
    steps: list[tuple[str, dict[str, Any]]],
) -> None:
    with tempfile.TemporaryDirectory() as home:
        stayed = await told_by(Path(home) / "stays", steps, leaves=False)
        left = await told_by(Path(home) / "leaves", steps, leaves=True)
        assert left == stayed


async def test_a_session_stays_while_its_turn_runs_and_leaves_afterwards(tmp_path: Path) -> None:
    async with pair(tmp_path, session_idle_s=SOON_S) as (client, room):
        room.model.hold = True
        await client.create("busy")
        await client.create("idle")
        await client.say("busy", "hello")
        call = await room.model.next_call()
        await left_memory(room, 1)
        room.sessions.let_go_idle()
        assert room.sessions.in_memory == 1
        call.finish("done")
        await client.next_event("session.idle", "busy")
        await left_memory(room)


async def test_whoever_waits_for_a_paused_message_is_answered_when_it_had_its_turn(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, session_idle_s=SOON_S) as (client, room):
        await client.create("s")
        await client.create("other")
        await client.request("session.queue.setDrainPaused", {"sessionId": "s", "paused": True})
        asked = await client.ask("session.sendAndWait", {"sessionId": "s", "prompt": "hello"})
        await client.request("session.name.get", {"sessionId": "s"})  # the message is accepted
        await left_memory(room, 1)
        room.sessions._live["s"].used_s = 0.0
        room.sessions.let_go_idle()
        room.sessions.let_go()
        assert list(room.sessions._live) == ["s"], "somebody waits for it"
        await client.request("session.queue.setDrainPaused", {"sessionId": "s", "paused": False})
        answer = await client.answer(asked)
        assert answer["result"]["response"]["data"]["content"] == "answer 1 to hello"
        await left_memory(room)


async def test_a_key_given_with_a_session_outlives_its_leaving_memory(tmp_path: Path) -> None:
    provider = {"type": "openai", "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "of a test"}
    async with pair(tmp_path, session_idle_s=SOON_S) as (client, room):
        await client.create("s", provider=provider, model="m")
        await left_memory(room)
        assert "s" in room.world.credentials
        await client.turn("s", "hello")


async def test_without_a_time_sessions_stay_until_there_are_too_many(tmp_path: Path) -> None:
    async with pair(tmp_path, session_idle_s=0.0) as (client, room):
        await client.create("first")  # the store is opened: what was written before is not known
        for name in "abc":
            await client.create(name)
        assert room.sessions.in_memory == 3


def test_the_time_is_an_option_and_a_key_of_the_file(tmp_path: Path) -> None:
    assert parse(["--session-idle-timeout", "30"]).session_idle_timeout == 30
    assert parse([]).session_idle_timeout is None
    assert load(tmp_path, environ={}).session_idle_s == 600
    (tmp_path / "config.toml").write_text("session_idle_timeout = 90")
    assert load(tmp_path, environ={}).session_idle_s == 90
    for off in (-1, limits.OPTION_S + 1):
        (tmp_path / "config.toml").write_text(f"session_idle_timeout = {off}")
        with pytest.raises(ConfigError, match="session_idle_timeout"):
            load(tmp_path, environ={})
        with pytest.raises(SystemExit):
            parse(["--session-idle-timeout", str(off)])
