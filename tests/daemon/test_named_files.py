"""What callers name on the disk: a look that hangs holds up nobody but who asked for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import REQUEST_CANCELLED, SESSION_NOT_FOUND, InvalidParams, Overloaded
from tertuliad import limits
from tertuliad.askers import asking
from tertuliad.named_files import NamedFiles
from tertuliad.sessions import attached
from tests.support.in_process_model import PATIENCE_S
from tests.support.pair import pair

pytestmark = pytest.mark.anyio


class DeadDisk:
    """What looks at it hangs until it answers."""

    def __init__(self) -> None:
        self._answers = threading.Event()
        self.looks = 0

    def look(self) -> str:
        self.looks += 1
        self._answers.wait(PATIENCE_S)
        return "at last"

    async def seen(self, looks: int) -> None:
        """Wait until so many look at it."""
        with anyio.fail_after(PATIENCE_S):
            while self.looks < looks:
                await anyio.lowlevel.checkpoint()

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def disk() -> Iterator[DeadDisk]:
    dead = DeadDisk()
    yield dead
    dead.answer()


async def goes_on(files: NamedFiles) -> None:
    """Wait until no look hangs any more: nobody is told when a thread's is over."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                assert await files.look("$.x", lambda: "read") == "read"
                return
            except Overloaded:
                await anyio.sleep(0.001)


async def test_what_hangs_takes_nothing_from_the_others_until_too_much_does(
    monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    for name, value in (("FILE_LOOKS", 2), ("FILE_LOOKS_HANGING", 3)):
        monkeypatch.setattr(limits, name, value)
    files = NamedFiles()
    with anyio.fail_after(PATIENCE_S):
        for _ in range(3):
            assert await files.look("$.x", lambda: "read") == "read"
            with monkeypatch.context() as lowered:
                lowered.setattr(limits, "FILE_LOOK_S", 0.05)
                with pytest.raises(InvalidParams, match=r"^\$\.x: .* within 0.05 s"):
                    await files.look("$.x", disk.look)
        with pytest.raises(Overloaded, match="3 looks at files hang"):
            await files.look("$.x", lambda: "read")
    disk.answer()
    await goes_on(files)


async def test_no_more_looks_at_once_than_the_bounds(
    monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    for name, value in (("FILE_LOOKS", 3), ("FILE_LOOKS_OF_ONE", 2)):
        monkeypatch.setattr(limits, name, value)
    files = NamedFiles()
    looked: list[int] = []

    async def look(who: int, work: Callable[[], str]) -> None:
        with asking(who):
            assert await files.look("$.x", work) == "at last"
        looked.append(who)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(look, 1, disk.look)
        await disk.seen(2)
        tasks.start_soon(look, 2, lambda: "at last")
        with anyio.fail_after(PATIENCE_S):
            while looked != [2]:
                await anyio.lowlevel.checkpoint()
        tasks.start_soon(look, 3, disk.look)
        await disk.seen(3)
        with monkeypatch.context() as lowered, asking(4):
            lowered.setattr(limits, "FILE_LOOK_S", 0.05)
            with pytest.raises(Overloaded, match="try again") as refused:
                await files.look("$.x", lambda: "it has no room")
        assert refused.value.retry_ms == limits.FILE_LOOKS_RETRY_MS
        assert disk.looks == 3
        disk.answer()
    assert sorted(looked) == [1, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("rounds", range(9))
async def test_a_look_that_is_given_up_at_any_moment_is_none_that_hangs(
    monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    monkeypatch.setattr(limits, "FILE_LOOKS_HANGING", 1)
    files = NamedFiles()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(files.look, "$.x", lambda: None)
        for _ in range(rounds):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await goes_on(files)


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


async def test_what_is_sent_to_a_session_is_not_said_to_the_next_one_of_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    monkeypatch.setattr(attached, "prompt_with", lambda prompt, *_: prompt + disk.look())
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        file = {"attachments": [{"type": "file", "path": "/nowhere"}]}
        asked = [
            await client.ask("session.send", {"sessionId": "a", "prompt": "secret", **more})
            for more in (file, {}, file)
        ]
        await disk.seen(2)
        await client.request("session.delete", {"sessionId": "a"})
        other = room.connect()
        await other.create("a")
        disk.answer()
        for one in asked:
            assert (await client.answer(one))["error"]["data"]["kind"] == "session_not_found"
        await other.turn("a", "mine")
        said = [e["data"]["content"] for e in other.events("a") if e["type"] == "user.message"]
        assert said == ["mine"]


async def test_a_file_that_nobody_has_written_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipe that has taken a file's place: some of /proc are of this kind."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    somebody_may_write = os.open(pipe, os.O_RDWR)
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    told: list[str] = []

    def read() -> None:
        told.append(attached.prompt_with("x", [{"type": "file", "path": str(pipe)}], None))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    await anyio.to_thread.run_sync(reading.join, PATIENCE_S)
    os.close(somebody_may_write)
    assert "nothing is there yet" in told[0]


async def test_who_names_files_of_a_dead_disk_leaves_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    for name, value in (("FILE_LOOKS", 3), ("FILE_LOOKS_OF_ONE", 2)):
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(
        attached, "prompt_with", lambda prompt, *_: disk.look() if prompt == "dead" else prompt
    )
    async with pair(tmp_path) as (client, room):
        other = room.connect()
        for each, session in ((client, "a"), (other, "b")):
            await each.create(session)
        file = {"attachments": [{"type": "file", "path": "/nowhere"}]}
        dead = {"sessionId": "a", "prompt": "dead", **file}
        asked = [await client.ask("session.send", dead) for _ in range(5)]
        await disk.seen(2)
        await other.request("session.send", {"sessionId": "b", "prompt": "x", **file})
        assert disk.looks == 2
        disk.answer()
        for one in asked:
            assert "messageId" in (await client.answer(one))["result"]


FILE = {"attachments": [{"type": "file", "path": "/nowhere"}]}


@pytest.mark.parametrize("how", ["abort", "cancel", "leave"])
async def test_a_message_whose_files_are_being_read_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk, how: str
) -> None:
    """And those that came before it are accepted before those behind it, all the same."""
    monkeypatch.setattr(attached, "prompt_with", lambda prompt, *_: prompt + disk.look())
    async with pair(tmp_path) as (client, room):
        await client.create("a")
        await client.request("session.queue.setDrainPaused", {"sessionId": "a", "paused": True})
        other = room.connect()
        await other.request("session.resume", {"sessionId": "a"})
        first = await other.ask("session.send", {"sessionId": "a", "prompt": "first", **FILE})
        await disk.seen(1)
        asked = await client.ask("session.send", {"sessionId": "a", "prompt": "not", **FILE})
        await disk.seen(2)
        last = await other.ask("session.send", {"sessionId": "a", "prompt": "last"})
        await other.request("ping")
        left = ["first", "last"]
        if how == "abort":
            await client.request("session.abort", {"sessionId": "a"})
            left = []
        elif how == "cancel":
            cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": asked}}
            await client.send(cancel)
        else:
            room.connection_of[client].abort()
            await room.gone(client)
        if how != "leave":
            assert (await client.answer(asked))["error"]["code"] == REQUEST_CANCELLED
        disk.answer()
        for each in (first, last):
            assert ("result" in await other.answer(each)) == bool(left)
        waiting = await other.request("session.queue.pendingItems", {"sessionId": "a"})
        assert [item["displayText"] for item in waiting["items"]] == left


async def test_an_abort_leaves_what_comes_behind_the_turn_that_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    monkeypatch.setattr(attached, "prompt_with", lambda prompt, *_: prompt + disk.look())
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create("a")
        await client.say("a", "runs")
        await room.model.next_call()
        asked = await client.ask("session.send", {"sessionId": "a", "prompt": "next", **FILE})
        await disk.seen(1)
        await client.request("session.abort", {"sessionId": "a"})
        disk.answer()
        assert "messageId" in (await client.answer(asked))["result"]
        (await room.model.next_call()).finish("to the next")


async def test_a_new_session_waits_for_no_files_of_the_one_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    monkeypatch.setattr(attached, "prompt_with", lambda prompt, *_: prompt + disk.look())
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        asked = await client.ask("session.send", {"sessionId": "a", "prompt": "x", **FILE})
        await disk.seen(1)
        await client.request("session.delete", {"sessionId": "a"})
        assert (await client.answer(asked))["error"]["code"] == SESSION_NOT_FOUND
        await client.create("a")
        await client.turn("a", "it waits for nothing")


async def test_what_names_no_file_needs_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FILE_LOOKS_HANGING", 0)
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        selection = {"type": "selection", "filePath": "/x.py", "text": "some lines"}
        image = {"type": "blob", "mimeType": "image/png", "data": "aGVsbG8="}
        sent = {"sessionId": "a", "prompt": "x", "wait": True, "attachments": [selection, image]}
        await client.request("session.send", sent)
        with pytest.raises(Overloaded, match="looks at files hang"):
            await client.request("session.send", {**sent, **FILE})


async def test_a_fault_is_told_where_the_message_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DeadDisk
) -> None:
    monkeypatch.setattr(limits, "PROMPT_BYTES", 100)
    monkeypatch.setattr(attached, "prompt_with", lambda *_: disk.look())
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        long = {"sessionId": "a", "message": {"prompt": "x" * 101}, "position": 0}
        with pytest.raises(InvalidParams, match=r"^\$\.message: the message has 101 characters"):
            await client.request("session.queue.insertAt", long)
        monkeypatch.setattr(limits, "FILE_LOOK_S", 0.01)
        hangs = {**long, "message": {"prompt": "x", **FILE}}
        with pytest.raises(InvalidParams, match=r"^\$\.message\.attachments: "):
            await client.request("session.queue.insertAt", hangs)
