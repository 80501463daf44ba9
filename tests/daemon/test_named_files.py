"""What callers name on the disk: a look that hangs holds up nobody but who asked for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import InvalidParams, Overloaded
from tertuliad import limits
from tertuliad.named_files import NamedFiles
from tertuliad.sessions import attached
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair

pytestmark = pytest.mark.anyio


class DeadDisk:
    """What looks at it hangs until it answers."""

    def __init__(self) -> None:
        self._answers = threading.Event()

    def look(self) -> str:
        self._answers.wait(PATIENCE_S)
        return "at last"

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def disk() -> Iterator[DeadDisk]:
    dead = DeadDisk()
    yield dead
    dead.answer()


async def test_what_hangs_takes_nothing_from_the_others_until_too_much_does(
    monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    for name, value in (("FILE_LOOKS", 2), ("FILE_LOOK_S", 0.05), ("FILE_LOOKS_HANGING", 3)):
        monkeypatch.setattr(limits, name, value)
    files = NamedFiles()
    with anyio.fail_after(PATIENCE_S):
        for _ in range(3):
            assert await files.look("$.x", lambda: "read") == "read"
            with pytest.raises(InvalidParams, match=r"^\$\.x: .* within 0.05 s"):
                await files.look("$.x", disk.look)
        with pytest.raises(Overloaded, match="3 looks at files hang"):
            await files.look("$.x", lambda: "read")
    disk.answer()
    with anyio.fail_after(PATIENCE_S):
        while True:  # a thread that goes on is not waited for: nobody knows when it is over
            try:
                assert await files.look("$.x", lambda: "read") == "read"
                break
            except Overloaded:
                await anyio.sleep(0.001)


async def test_no_more_looks_at_once_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE_LOOKS", 2)
    files = NamedFiles()
    running = [0, 0]  # now, and at most
    lock = threading.Lock()

    def look() -> None:
        with lock:
            running[0] += 1
            running[1] = max(running)
        os.sched_yield()
        with lock:
            running[0] -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(files.look, "$.x", look)
    assert running[0] == 0
    assert running[1] <= 2


async def test_a_failure_is_the_askers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE_LOOKS", 1)
    files = NamedFiles()
    with pytest.raises(ZeroDivisionError):
        await files.look("$.x", lambda: 1 / 0)
    assert await files.look("$.x", lambda: "read") == "read"


async def test_messages_keep_their_order_though_the_files_of_one_are_still_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    read = attached.prompt_with

    def late(prompt: str, given: Any, cwd: str | None) -> str:
        if prompt == "first":
            disk.look()
        return read(prompt, given, cwd)

    monkeypatch.setattr(attached, "prompt_with", late)
    async with pair(tmp_path) as (client, room):
        for session in ("a", "b"):
            await client.create(session)
        await client.request("session.queue.setDrainPaused", {"sessionId": "a", "paused": True})
        file = {"attachments": [{"type": "file", "path": "/nowhere"}]}
        asked = [
            await client.ask("session.send", {"sessionId": "a", "prompt": prompt, **more})
            for prompt, more in (("first", file), ("second", {}), ("third", file))
        ]
        await client.turn("b", "another session waits for nothing")
        other = room.connect()
        await other.create("c")
        sent = {"sessionId": "c", "prompt": "nor do another's files", "wait": True, **file}
        await other.request("session.send", sent)
        assert not [answer for answer in client.answers() if answer["id"] in asked]
        disk.answer()
        for one in asked:
            assert "messageId" in (await client.answer(one))["result"]
        waiting = await client.request("session.queue.pendingItems", {"sessionId": "a"})
        shown = [item["displayText"] for item in waiting["items"]]
        assert shown == ["first", "second", "third"]


async def test_a_message_whose_files_hang_is_refused_and_those_behind_it_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    monkeypatch.setattr(limits, "FILE_LOOK_S", 0.05)
    monkeypatch.setattr(attached, "prompt_with", lambda *_: disk.look())
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        file = {"attachments": [{"type": "file", "path": "/nowhere"}]}
        refused = await client.ask("session.send", {"sessionId": "a", "prompt": "x", **file})
        await client.turn("a", "goes on")
        error = (await client.answer(refused))["error"]
        assert error["data"]["path"] == "$.attachments"
        assert "does not answer" in error["message"]


async def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    """Also where it takes the place between the look and the reading."""
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "pipe", "rb", opener=attached.never_waiting) as nobody_writes:
        assert nobody_writes.read(1) == b""
