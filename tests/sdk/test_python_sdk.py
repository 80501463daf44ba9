"""The official Python SDK drives the daemon, unmodified."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest
from copilot import CopilotClient
from copilot.session import (
    PermissionHandler,
    SystemMessageConfig,
)
from copilot.session_events import AssistantMessageDeltaData, SessionEvent
from copilot.tools import Tool, ToolInvocation, ToolResult

from tests.sdk.conftest import TOKEN, Way
from tests.sdk.python_sdk import BOUND_S, MARKS, ask, connection_for, create, gathering, provider
from tests.support.daemon_process import DaemonProcess, environment
from tests.support.model_thread import ModelThread

pytestmark = MARKS


def kinds(events: list[SessionEvent]) -> list[str]:
    return [str(event.type.value) for event in events]


async def test_three_conversations_at_once_each_with_its_own_history(way: Way) -> None:
    talks = [
        ["We are working on a Python project.", "How do I create a virtual environment?"],
        ["We are working on a TypeScript project.", "How do I set up tsconfig?"],
        ["We are working on a Go project.", "How do I initialize a module?"],
    ]
    with ModelThread() as one, ModelThread() as other:
        async with gathering(way) as client:
            sessions = [await create(client, model) for model in (one, one, other)]
            pairs = list(zip(sessions, talks, strict=True))
            await asyncio.gather(*(ask(session, talk[0]) for session, talk in pairs))
            answers = await asyncio.gather(*(ask(session, talk[1]) for session, talk in pairs))
            assert answers == [" | ".join(talk) for talk in talks]
            assert sorted(one.users()) == sorted([talks[0][:1], talks[0], talks[1][:1], talks[1]])
            assert other.users() == [talks[2][:1], talks[2]]

            chat = await create(client, one, session_id="user-123-chat")
            assert chat.session_id == "user-123-chat"
            ids = [session.session_id for session in sessions]
            listed = [row.session_id for row in await client.list_sessions()]
            assert sorted(listed) == sorted([*ids, "user-123-chat"])

            await client.delete_session(ids[0])
            left = [row.session_id for row in await client.list_sessions()]
            assert sorted(left) == sorted([*ids[1:], "user-123-chat"])

            await sessions[1].disconnect()
            with pytest.raises(Exception, match=r"disconnected|Session not found"):
                await sessions[1].send("too late")


async def test_many_users_are_answered_at_the_same_time(own: Way, model: ModelThread) -> None:
    users = [f"user-{number}-chat" for number in range(30)]
    async with gathering(own) as client:
        sessions = await asyncio.gather(
            *(
                create(client, model, session_id=user, model=f"fake-history-crowd{len(users)}")
                for user in users
            )
        )
        answers = await asyncio.gather(*(ask(session, session.session_id) for session in sessions))
    assert answers == users
    assert model.stats.max_active == len(users)


async def test_the_same_question_goes_to_two_models(own: Way, model: ModelThread) -> None:
    async with gathering(own) as client:
        sessions = [await create(client, model, model=name) for name in ("fake-a", "fake-b")]
        answers = await asyncio.gather(*(ask(s, "[[say:forty-two]]") for s in sessions))
    assert answers == ["forty-two"] * 2
    assert sorted(chat.body["model"] for chat in model.chats) == ["fake-a", "fake-b"]


async def test_deltas_joined_are_the_final_message(way: Way, model: ModelThread) -> None:
    events: list[SessionEvent] = []
    async with gathering(way) as client:
        session = await create(client, model, model="fake-n4-d100", streaming=True)
        session.on(events.append)
        final = await ask(session, "stream, please")
    deltas = [e.data.delta_content for e in events if isinstance(e.data, AssistantMessageDeltaData)]
    assert len(deltas) > 1
    assert "".join(deltas) == final
    assert kinds(events)[-1] == "session.idle"


async def test_an_abort_ends_the_turn_and_the_next_one_works(way: Way, model: ModelThread) -> None:
    async with gathering(way) as client:
        session = await create(client, model, streaming=True)
        flows, idle = asyncio.Event(), asyncio.Event()
        signals = {"assistant.message_delta": flows, "session.idle": idle}
        session.on(lambda e: signals[e.type.value].set() if e.type.value in signals else None)
        await session.send("[[fake-n9-stall2]]")
        await flows.wait()
        await session.abort()
        await idle.wait()
        stored = kinds(await session.get_events())
        assert "abort" in stored
        assert "assistant.message" not in stored
        await session.abort()
        assert await ask(session, "[[say:back again]]") == "back again"
    assert model.stats.aborted == 1, "the call to the model was closed"


async def test_a_model_is_switched_and_the_history_goes_along(own: Way, model: ModelThread) -> None:
    async with gathering(own) as client:
        session = await create(client, model, model="fake-history-n1")
        await ask(session, "one")
        await session.set_model("fake-history-n2")
        assert await ask(session, "two") == "one | two"
    assert [chat.body["model"] for chat in model.chats] == ["fake-history-n1", "fake-history-n2"]


async def test_a_session_is_resumed_by_another_client_in_another_process(
    own: Way, model: ModelThread
) -> None:
    async with gathering(own) as client:
        session = await create(client, model, session_id="kept")
        await ask(session, "one")
        before = await session.get_events()
    async with gathering(own) as client:
        assert await client.get_last_session_id() == "kept"
        metadata = await client.get_session_metadata("kept")
        assert metadata is not None
        assert metadata.session_id == "kept"
        session = await client.resume_session(
            "kept",
            on_permission_request=PermissionHandler.approve_all,
            model="fake-history",
            provider=provider(model),
        )
        assert await ask(session, "two") == "one | two"
        after = await session.get_events()
    assert [e.id for e in after[: len(before)]] == [e.id for e in before]
    assert kinds(after)[len(before)] == "session.resume"


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("fake-e401", "key"),
        ("fake-e429", "Wait"),
        ("fake-e500", "again"),
        ("fake-n5-cut2", "127.0.0.1"),
        ("fake-nonsense", "127.0.0.1"),
    ],
)
async def test_a_model_that_fails_raises_with_words_that_help_and_the_next_send_works(
    running: DaemonProcess, model: ModelThread, tmp_path: Path, script: str, word: str
) -> None:
    way = Way("uri", tmp_path, f"localhost:{running.port}", TOKEN)
    async with gathering(way) as client:
        session = await create(client, model, model="fake-say")
        with pytest.raises(Exception, match=word):
            await session.send_and_wait(f"[[{script}]]", timeout=BOUND_S)
        assert await ask(session, "[[say:all is well]]") == "all is well"


async def test_declared_tools_reach_the_model_and_hidden_ones_do_not(
    own: Way, model: ModelThread
) -> None:
    def tool(name: str) -> Tool:
        async def handler(_: ToolInvocation) -> ToolResult:
            return ToolResult(text_result_for_llm="sunny")

        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        return Tool(name=name, description=f"looks up {name}", handler=handler, parameters=schema)

    async with gathering(own) as client:
        session = await create(
            client,
            model,
            tools=[tool("weather"), tool("secret_weather")],
            excluded_tools=["secret_weather"],
        )
        assert await ask(session, "no need") == "no need"
    declared = model.chats[0].body["tools"]
    assert [entry["function"]["name"] for entry in declared] == ["weather"]
    assert declared[0]["function"]["description"] == "looks up weather"


async def test_system_messages_reach_the_model_as_each_mode_says(
    running: DaemonProcess, model: ModelThread, tmp_path: Path
) -> None:
    modes: list[SystemMessageConfig] = [
        {"mode": "replace", "content": "You are a parrot."},
        {"mode": "append", "content": "Be a parrot too."},
        {
            "mode": "customize",
            "sections": {"tone": {"action": "replace", "content": "Squawk."}},
            "content": "Add a feather.",
        },
    ]
    way = Way("uri", tmp_path, f"localhost:{running.port}", TOKEN)
    async with gathering(way) as client:
        for mode in modes:
            await ask(await create(client, model, system_message=mode), "hello")
    systems = [chat.body["messages"][0] for chat in model.chats]
    assert [system["role"] for system in systems] == ["system"] * 3
    replaced, appended, customized = (system["content"] for system in systems)
    assert replaced == "You are a parrot."
    assert "Be a parrot too." in appended
    assert len(appended) > len("Be a parrot too.")
    assert "Squawk." in customized
    assert "Add a feather." in customized


async def test_a_client_in_empty_mode_has_its_session(own: Way, model: ModelThread) -> None:
    async with gathering(own, mode="empty") as client:
        session = await create(client, model, available_tools=[])
        assert await ask(session, "bare") == "bare"
    assert "tools" not in model.chats[0].body


async def test_refusals_say_what_is_wrong(own: Way, model: ModelThread) -> None:
    async with gathering(own) as client:
        for bad in ("a/b", "../evil", "x" * 300):
            with pytest.raises(Exception, match="sessionId"):
                await create(client, model, session_id=bad)
        await create(client, model, session_id="taken")
        with pytest.raises(Exception, match=r"session\.resume"):
            await create(client, model, session_id="taken")
        with pytest.raises(Exception, match="Session not found"):
            await client.resume_session(
                "nobody", on_permission_request=PermissionHandler.approve_all
            )
        with pytest.raises(Exception, match="nobody"):
            await client.delete_session("nobody")
        assert await client.get_session_metadata("nobody") is None


async def test_the_house_answers_about_itself(way: Way, model: ModelThread) -> None:
    told: list[str] = []
    async with gathering(way) as client:
        client.on_lifecycle(lambda event: told.append(str(event.type)))
        session = await create(client, model, session_id="of-the-house")
        await session.log("a line of my own")
        await client.delete_session("of-the-house")
        assert (await client.ping("hello")).message == "pong: hello"
        assert (await client.get_status()).protocol_version == 3
        assert (await client.get_auth_status()).isAuthenticated is False
        assert isinstance(await client.list_models(), list)
        assert await client.get_foreground_session_id() is None
        assert await client.get_last_session_id() is None
    assert told[0] == "session.created"
    assert told[-1] == "session.deleted"


async def test_a_client_that_is_stopped_by_force_leaves_no_daemon(
    own: Way, model: ModelThread
) -> None:
    client = CopilotClient(
        connection=connection_for(own, ()),
        env=environment(own.home),
        base_directory=str(own.home),
        use_logged_in_user=False,
    )
    with anyio.fail_after(BOUND_S):
        await client.start()
        process = client._cli_process
        session = await create(client, model)
        await session.send("[[fake-hang]]")
        await anyio.to_thread.run_sync(model.until_active, 1)
        await client.force_stop()
        assert process is not None
        await anyio.to_thread.run_sync(process.wait)


async def test_a_flag_that_does_not_exist_is_told_by_the_sdk(own: Way) -> None:
    with pytest.raises(Exception, match="nonexistent"):
        async with gathering(own, "--nonexistent-flag-for-testing"):
            pass


async def test_a_wrong_token_is_told_by_the_sdk(running: DaemonProcess, tmp_path: Path) -> None:
    way = Way("uri", tmp_path, f"localhost:{running.port}", "wrong")
    with pytest.raises(Exception, match="AUTHENTICATION_FAILED"):
        async with gathering(way):
            pass
