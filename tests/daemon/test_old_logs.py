"""Logs that an earlier version wrote, and what a later one has put into them: all of it is kept
and passed on, and the conversation goes on from it.

`data/log-0.1.json` is a session that version 0.1 exported, in which nearly everything has happened:
settings, a name, metadata, a failed and a stopped turn, a rewind, a message that still waits. Two
events and a member that no version knows were added by hand. A new version gets a file of its own;
these are never changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol import VERSION
from tests.support.frames_client import FramesClient
from tests.support.pair import pair

LOGS = sorted((Path(__file__).parent / "data").glob("log-*.json"))
SAID = [
    ("user", "hello"),
    ("assistant", "answer 1 to hello"),
    ("user", "line\u2028separator 😀"),
    ("assistant", "answer 2 to line\u2028separator 😀"),
    ("user", "this one fails"),
    ("user", "this one is stopped"),
    ("user", "this one waited"),
    ("assistant", "it was its turn"),
    ("user", "after the rewind"),
    ("assistant", "answer 6 to after the rewind"),
    ("user", "it runs"),
    ("assistant", "done"),
    ("user", "it still waits"),
]


@pytest.fixture(params=LOGS, ids=lambda path: path.stem)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(request.param.read_text("utf-8"))
    return read


def test_this_version_has_its_log() -> None:
    assert f"log-{VERSION.rpartition('.')[0]}" in [path.stem for path in LOGS]


async def opened(client: FramesClient, document: dict[str, Any]) -> None:
    await client.request("session.import", {"document": document})
    await client.request("session.resume", {"sessionId": "golden", "disableResume": True})


def shown(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of the log that clients see."""
    events = [record["event"] for record in document["events"]]
    return [event for event in events if not event["type"].startswith("tertulia.")]


@pytest.mark.anyio
async def test_every_event_of_an_old_log_is_kept_and_passed_on(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    async with pair(tmp_path) as (client, _):
        await opened(client, document)
        stored = await client.history("golden")
        assert stored == shown(document)
        read = await client.request("session.eventLog.read", {"sessionId": "golden", "max": 1000})
        assert read["events"] == shown(document)
        again = await client.request("session.export", {"sessionId": "golden"})
        length = len(document["events"])
        assert again["document"]["events"][:length] == document["events"]


@pytest.mark.anyio
async def test_the_conversation_of_an_old_log_goes_on(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    async with pair(tmp_path) as (client, room):
        await opened(client, document)
        meta = await client.request("session.getMetadata", {"sessionId": "golden"})
        row = meta["session"]
        assert (row["summary"], row["model"], row["clientName"]) == (
            "A golden log",
            "m2",
            "a-client",
        )
        assert (row["metadata"], row["pending"]) == ({"ticket": 7}, 1)
        paused = {"sessionId": "golden", "paused": False}
        await client.request("session.queue.setDrainPaused", paused)
        await client.next_event("session.idle", "golden")
        request = room.model.calls[-1].request
        conversation = [(m.role, m.content) for m in request.messages if m.role != "system"]
        assert conversation == SAID
        assert (request.model, request.reasoning_effort) == ("m2", "high")
        assert any("Be kind." in str(m.content) for m in request.messages if m.role == "system")


@pytest.mark.anyio
async def test_an_old_log_outlives_the_process_that_took_it_in(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    async with pair(tmp_path) as (client, _):
        await opened(client, document)
    async with pair(tmp_path) as (client, _):
        resume = {"sessionId": "golden", "disableResume": True}
        await client.request("session.resume", resume)
        stored = await client.history("golden")
        assert stored[: len(shown(document))] == shown(document)
