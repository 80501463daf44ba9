"""Where a session works: told with its other settings, changed, and what its folder is like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol.errors import InvalidParams, SessionNotFound
from tests.support.frames_client import FramesClient
from tests.support.pair import Room, pair

pytestmark = pytest.mark.anyio

S = "a-session"


async def move(client: FramesClient, folder: Path | str) -> Any:
    params = {"sessionId": S, "workingDirectory": str(folder)}
    return await client.request("session.metadata.setWorkingDirectory", params)


async def record(client: FramesClient, **context: Any) -> Any:
    params = {"sessionId": S, "context": context}
    return await client.request("session.metadata.recordContextChange", params)


async def changes(client: FramesClient) -> list[Any]:
    """What is stored of changes of the folder."""
    answer = await client.history(S)
    return [e["data"] for e in answer if e["type"] == "session.context_changed"]


async def in_folder(client: FramesClient, folder: Path) -> list[str]:
    answer = await client.request("sessions.list", {"filter": {"cwd": str(folder)}})
    return [row["sessionId"] for row in answer["sessions"]]


def system_message(room: Room) -> str:
    """What the daemon said itself in the last model call."""
    (said,) = (m.content for m in room.model.calls[-1].request.messages if m.role == "system")
    return str(said)


async def test_a_session_moves_to_another_folder(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, room = both
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    await client.create(S, workingDirectory=str(old))
    assert await move(client, new) == {"workingDirectory": str(new)}
    told = await client.next_event("session.context_changed", S)
    assert told["data"] == {"cwd": str(new)}
    assert (await in_folder(client, old), await in_folder(client, new)) == ([], [S])
    snapshot = await client.request("session.metadata.snapshot", {"sessionId": S})
    assert snapshot["workingDirectory"] == str(new)
    await client.turn(S, "hi")
    assert f"Current working directory: {new}\n" in system_message(room)
    assert str(old) not in system_message(room)
    (new / "notes.txt").write_text("of the new folder")
    file = {"type": "file", "path": "notes.txt"}
    params = {"sessionId": S, "prompt": "read", "attachments": [file]}
    await client.request("session.sendAndWait", params)
    assert "of the new folder" in str(room.model.calls[-1].request.messages[-1].content)


async def test_to_stay_where_it_is_writes_nothing(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, _ = both
    await client.create(S, workingDirectory=str(tmp_path))
    assert await move(client, tmp_path) == {"workingDirectory": str(tmp_path)}
    assert await changes(client) == []


async def test_a_move_comes_back_from_disk_and_outlives_a_rewind(tmp_path: Path) -> None:
    async with pair(tmp_path / "home") as (client, _):
        await client.create(S, workingDirectory="/")
        await client.turn(S, "hi")
        await move(client, tmp_path)
        points = await client.request("session.history.listRewindPoints", {"sessionId": S})
        cut = {"sessionId": S, "eventId": points["points"][0]["eventId"]}
        await client.request("session.history.truncate", cut)
    async with pair(tmp_path / "home") as (client, room):
        await client.request("session.resume", {"sessionId": S})
        assert await in_folder(client, tmp_path) == [S]
        await client.turn(S, "again")
        assert f"Current working directory: {tmp_path}\n" in system_message(room)


@pytest.mark.parametrize("folder", ["relative", "", ".", "missing", "file", "nul\0"])
async def test_what_is_no_folder_is_refused(
    both: tuple[FramesClient, Room], tmp_path: Path, folder: str
) -> None:
    client, _ = both
    await client.create(S, workingDirectory="/")
    (tmp_path / "file").write_text("")
    given = str(tmp_path / folder) if folder in ("missing", "file", "nul\0") else folder
    with pytest.raises(InvalidParams, match=r"\$.workingDirectory"):
        await move(client, given)
    assert await in_folder(client, Path("/")) == [S]
    assert await changes(client) == []


async def test_what_a_client_knows_of_the_folder_is_written_down(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    await client.create(S, workingDirectory="/work")
    known = {
        "cwd": "/work",
        "gitRoot": "/work",
        "repository": "o/n",
        "hostType": "github",
        "repositoryHost": "github.com",
        "branch": "main",
        "headCommit": "a1",
        "baseCommit": "b2",
    }
    assert await record(client, **known) == {}
    assert (await client.next_event("session.context_changed", S))["data"] == known
    assert await record(client, cwd="/elsewhere", branch="other") == {}
    assert await changes(client) == [known]
    with pytest.raises(InvalidParams, match=r"\$.context.cwd"):
        await record(client, branch="main")


async def test_the_folder_is_the_business_of_who_is_attached(
    both: tuple[FramesClient, Room], tmp_path: Path
) -> None:
    client, room = both
    await client.create(S, workingDirectory="/")
    other = room.connect()
    with pytest.raises(SessionNotFound):
        await move(other, tmp_path)
    with pytest.raises(SessionNotFound):
        await record(other, cwd="/")
    assert await changes(client) == []


@pytest.mark.parametrize("method", ["session.create", "session.resume", "session.options.update"])
async def test_a_folder_that_is_not_said_whole_is_refused(
    both: tuple[FramesClient, Room], method: str
) -> None:
    client, _ = both
    await client.create(S)
    for folder in ("rel", "./rel", "~"):
        params = {"sessionId": S, "workingDirectory": folder}
        with pytest.raises(InvalidParams, match="absolute"):
            await client.request(method, params)
    for number, folder in enumerate(("/not/there", "C:\\work", "\\\\host\\share")):
        await client.create(f"s{number}", workingDirectory=folder)  # of a client on another machine
