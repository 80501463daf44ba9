"""Sessions opened, listed and forgotten under the names that the SDKs generate: over the wire,
against a whole daemon."""

from __future__ import annotations

from typing import Any

import pytest

from tertulia_protocol.errors import (
    InvalidParams,
    ModelUnavailable,
    NotSupported,
    Overloaded,
    SessionExists,
    SessionNotFound,
)
from tertuliad.handlers.sessions import _created_or_resumed
from tertuliad.replies import Reply
from tertuliad.sessions.refusals import exists
from tests.support.frames_client import FramesClient
from tests.support.in_process_model import last_words
from tests.support.pair import Room

pytestmark = pytest.mark.anyio


async def opened(client: FramesClient, kind: str, **params: Any) -> tuple[str, str | None]:
    """The status, and the session that is open now."""
    answer = await client.request("sessions.open", {"kind": kind, **params})
    return answer["status"], answer.get("sessionId")


async def types(client: FramesClient, session_id: str) -> list[str]:
    answer = await client.history(session_id)
    return [event["type"] for event in answer]


async def row(client: FramesClient, session_id: str) -> Any:
    answer = await client.request("sessions.getMetadata", {"sessionId": session_id})
    return answer.get("session")


# Opened


async def test_a_session_is_opened_new_with_its_options(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    options = {
        "sessionId": "s",
        "name": "Chosen",
        "model": "some-model",
        "clientName": "an editor",
        "workingDirectory": "/work",
        "enableStreaming": True,
        "installedPlugins": [],
    }
    answer = await client.request("sessions.open", {"kind": "create", "options": options})
    assert answer == {"status": "created", "sessionId": "s", "startupPrompts": []}
    await client.next_event("session.start", "s")
    await client.turn("s", "hi")
    assert any(event["type"] == "assistant.message_delta" for event in client.events("s"))
    found = await row(client, "s")
    assert (found["name"], found["model"]) == ("Chosen", "some-model")
    assert (found["clientName"], found["context"]) == ("an editor", {"cwd": "/work"})


async def test_a_session_without_options_gets_an_id(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    status, session_id = await opened(client, "create")
    assert status == "created"
    assert session_id is not None
    assert await types(client, session_id) == ["session.start"]


async def test_an_id_beside_the_options_is_taken_where_they_have_none(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    assert await opened(client, "create", sessionId="a") == ("created", "a")
    options = {"sessionId": "b"}
    assert await opened(client, "create", sessionId="c", options=options) == ("created", "b")


async def test_a_session_is_resumed_by_the_beginning_of_its_id(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    for session_id in ("abc-1", "abd-1", "abd-10"):
        await client.create(session_id)
    other = room.connect()
    assert await opened(other, "resume", sessionId="abc") == ("resumed", "abc-1")
    assert await opened(other, "resume", sessionId="abd-1") == ("resumed", "abd-1")
    assert await opened(other, "resume", sessionId="ab") == ("not_found", None)
    assert await opened(other, "resume", sessionId="x") == ("not_found", None)
    assert await types(other, "abc-1") == ["session.start", "session.resume"]
    given = {"model": "another"}
    await opened(other, "resume", sessionId="abd-10", resume=False, options=given)
    assert await types(other, "abd-10") == ["session.start"]
    assert (await row(other, "abd-10"))["model"] == "another"


async def test_the_session_used_last_in_a_folder_is_resumed(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    assert await opened(client, "resumeLast") == ("not_found", None)
    await client.create("here", workingDirectory="/here")
    await client.create("there", workingDirectory="/there")
    assert await opened(client, "resumeLast", context={"cwd": "/here"}) == ("resumed", "here")
    assert await opened(client, "resumeLast", context={"cwd": "/no"}) == ("not_found", None)
    await client.turn("there", "hi")
    assert await opened(client, "resumeLast") == ("resumed", "there")


async def test_who_only_attaches_writes_and_starts_nothing(both: tuple[FramesClient, Room]) -> None:
    client, room = both
    room.model.hold = True
    await client.create("s")
    await client.say("s", "one")
    await room.model.next_call()
    await client.say("s", "waits")
    await client.request("session.suspend", {"sessionId": "s"})
    written = await types(client, "s")
    other = room.connect()
    assert await opened(other, "attach", sessionId="s") == ("resumed", "s")
    assert await opened(other, "attach", sessionId="nobody") == ("not_found", None)
    assert (await other.request("session.queue.hasPending", {"sessionId": "s"}))["hasPending"]
    assert await types(other, "s") == written
    assert await opened(other, "resume", sessionId="s") == ("resumed", "s")
    assert last_words((await room.model.next_call()).request) == "waits"


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"kind": "remote", "remoteSessionId": "r"}, NotSupported, "no remote service"),
        ({"kind": "cloud"}, NotSupported, "no remote service"),
        ({"kind": "handoff", "metadata": {}}, NotSupported, "no remote service"),
        ({"kind": "create", "emitStart": False}, NotSupported, "emitStart"),
        ({"kind": "create", "options": {"managedMcpServers": {"a": {}}}}, NotSupported, "MCP"),
        ({"kind": "create", "options": {"model": "nobody-has-it"}}, ModelUnavailable, "model"),
        ({"kind": "create", "options": {"sessionId": "taken"}}, SessionExists, "taken"),
        ({"kind": "create", "options": {"sessionId": "../a"}}, InvalidParams, r"\$.options.sess"),
        ({"kind": "resume"}, InvalidParams, r"\$.sessionId"),
        ({"kind": "attach"}, InvalidParams, r"\$.sessionId"),
        ({"kind": "guess"}, InvalidParams, r"\$.kind"),
        ({}, InvalidParams, r"\$.kind"),
    ],
)
async def test_what_cannot_be_opened_is_refused(
    both: tuple[FramesClient, Room], params: Any, error: type[Exception], words: str
) -> None:
    client, _ = both
    await client.create("taken")
    with pytest.raises(error, match=words):
        await client.request("sessions.open", params)
    listed = (await client.request("sessions.list"))["sessions"]
    assert [each["sessionId"] for each in listed] == ["taken"]


# Listed, looked up, forgotten


async def test_both_lists_are_one(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    for number in range(3):
        await client.create(f"s{number}", workingDirectory=f"/{number % 2}")
    params: dict[str, Any]
    for params in ({}, {"filter": {"cwd": "/0"}}, {"limit": 2}, {"filter": {"branch": "b"}}):
        assert await client.request("sessions.list", params) == await client.request(
            "session.list", params
        )
    more = {"metadataLimit": 0, "includeDetached": True, "throwOnError": True}
    found = await client.request("sessions.list", {"source": "all", **more})
    assert found == await client.request("session.list")
    assert await client.request("sessions.list", {"source": "remote"}) == {"sessions": []}


async def test_a_row_is_the_same_under_both_names(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("s")
    for session_id in ("s", "nobody"):
        named = {"sessionId": session_id}
        assert await client.request("sessions.getMetadata", named) == await client.request(
            "session.getMetadata", named
        )
    assert await row(client, "nobody") is None


async def test_a_session_is_forgotten_once(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("s")
    assert await client.request("sessions.delete", {"sessionId": "s", "sessionPath": None}) is None
    assert await row(client, "s") is None
    deleted = await client.wait_for(lambda m: m.get("params", {}).get("type") == "session.deleted")
    assert deleted["params"]["sessionId"] == "s"
    with pytest.raises(SessionNotFound):
        await client.request("sessions.delete", {"sessionId": "s"})


async def test_sessions_that_nobody_spoke_in_are_not_named(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both

    async def named(**params: Any) -> list[str]:
        answer = await client.request("sessions.listNonEmptySessionIds", params)
        return list(answer["sessionIds"])

    assert await named() == []
    for session_id in ("empty", "old", "new", "away"):
        await client.create(session_id)
    for session_id in ("old", "new", "away"):
        await client.turn(session_id, "hi")
    await client.request("session.metadata.update", {"sessionId": "away", "archived": True})
    await client.request("session.log", {"sessionId": "empty", "message": "a note of a client"})
    assert await named() == ["new", "old"]
    assert await named(limit=1) == ["new"]
    with pytest.raises(InvalidParams, match=r"\$.limit"):
        await named(limit=0)


async def test_no_session_has_a_task(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("s")
    assert await client.request("sessions.findByTaskId", {"taskId": "s"}) == {}


# The caller's own metadata


async def updated(client: FramesClient, session_id: str, **changes: Any) -> Any:
    params = {"sessionId": session_id, **changes}
    return await client.request("session.metadata.updateClientMetadata", params)


async def kept(client: FramesClient, session_id: str) -> Any:
    named = {"sessionId": session_id}
    return await client.request("session.metadata.getClientMetadata", named)


async def test_metadata_of_the_sdks_is_changed_in_one_step(
    both: tuple[FramesClient, Room],
) -> None:
    client, room = both
    await client.create("s")
    assert await kept(client, "s") == {}
    assert await updated(client, "s", set={"a": "1", "b": "2"}) == {"a": "1", "b": "2"}
    assert await updated(client, "s", remove=["a", "b", "no"], set={"b": "3"}) == {"b": "3"}
    assert await updated(client, "s", clear=True, set={"c": "4"}) == {"c": "4"}
    other = room.connect()
    assert await kept(other, "s") == {"c": "4"}
    assert await updated(other, "s", clear=True) == {}
    with pytest.raises(SessionNotFound):
        await updated(client, "nobody", set={"a": "1"})


async def test_members_may_have_the_names_of_an_answer(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("s")
    names = {"result": "r", "error": "e", "id": "i"}
    assert await updated(client, "s", set=names) == names
    assert await kept(client, "s") == names


async def test_what_is_not_text_is_kept_beside_it(both: tuple[FramesClient, Room]) -> None:
    client, _ = both
    await client.create("s")
    ours = {"number": 1, "text": "old", "taken": [1]}
    await client.request("session.metadata.update", {"sessionId": "s", "metadata": ours})
    assert await kept(client, "s") == {"text": "old"}
    assert await updated(client, "s", clear=True, set={"taken": "now text"}) == {
        "taken": "now text"
    }
    whole = await client.request("session.metadata.get", {"sessionId": "s"})
    assert whole["metadata"] == {"number": 1, "taken": "now text"}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"set": {"a": "x" * (64 * 1024)}}, "set"),
        ({"set": {"a": 1}}, "set"),
        ({"set": {"": "x"}}, "set"),
        ({"remove": [""]}, "remove"),
    ],
    ids=["too large", "a number", "no name", "no name to remove"],
)
async def test_metadata_that_cannot_be_kept_changes_nothing(
    both: tuple[FramesClient, Room], changes: Any, path: str
) -> None:
    client, _ = both
    await client.create("s")
    await updated(client, "s", set={"a": "1"})
    with pytest.raises(InvalidParams, match=rf"\$\.{path}"):
        await updated(client, "s", **changes)
    assert await kept(client, "s") == {"a": "1"}


async def test_the_metadata_of_many_sessions_comes_in_the_order_asked_for(
    both: tuple[FramesClient, Room],
) -> None:
    client, _ = both
    for session_id in ("a", "b"):
        await client.create(session_id)
    await updated(client, "b", set={"k": "v", "other": "w"})
    params: dict[str, Any] = {"sessionIds": ["b", "nobody", "a"]}
    missing = {"sessionId": "nobody", "status": "notFound"}
    empty = {"sessionId": "a", "status": "ok", "metadata": {}}
    found = {"sessionId": "b", "status": "ok", "metadata": {"k": "v", "other": "w"}}
    assert await client.request("sessions.getClientMetadata", params) == [found, missing, empty]
    some = {**params, "keys": ["k", "no"]}
    found["metadata"] = {"k": "v"}
    assert await client.request("sessions.getClientMetadata", some) == [found, missing, empty]


async def test_who_would_resume_instead_is_told_why_that_is_refused() -> None:
    """Though nobody but a callback is there to hear it."""

    def instead() -> Reply:
        raise Overloaded("It follows too many sessions.", retry_ms=None)

    reply = _created_or_resumed(lambda: Reply.failed(exists("a")), instead)
    assert isinstance(reply.exception(), Overloaded)
