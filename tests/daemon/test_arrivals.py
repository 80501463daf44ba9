"""A message that is given up on its way in: its sender is told so, and it is not accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol.methods.session import SessionAbortParams
from tertuliad.named_files import NamedFiles
from tests.support.frames_client import FramesClient
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

GiveUp = Callable[[FramesClient, Room], None]


def aborted(client: FramesClient, room: Room) -> None:
    room.handlers["session.abort"](room.connection_of[client], SessionAbortParams(session_id="a"))


def cancelled(client: FramesClient, room: Room) -> None:
    room.connection_of[client]._gate._cancel(client.last_id)


@pytest.mark.parametrize("give_up", [aborted, cancelled])
async def test_what_is_given_up_as_its_file_was_read_is_not_accepted(
    tmp_path: Path, give_up: GiveUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.txt").write_text("x")
    attached = {"type": "file", "path": str(tmp_path / "x.txt")}
    async with pair(tmp_path / "home") as (client, room):
        await client.create("a")
        read = NamedFiles._done

        async def read_and_given_up(self: NamedFiles, work: Callable[[], Any]) -> Any:
            found = await read(self, work)
            give_up(client, room)  # as if the reader of the connection had its turn first
            return found

        monkeypatch.setattr(NamedFiles, "_done", read_and_given_up)
        message = {"sessionId": "a", "prompt": "hi", "attachments": [attached]}
        answer = await client.answer(await client.ask("session.send", message))
        assert "error" in answer
        monkeypatch.undo()
        await client.say("a", "next")
        await client.next_event("session.idle", "a")
        assert [
            event["data"]["content"]
            for event in client.events("a")
            if event["type"] == "user.message"
        ] == ["next"]
