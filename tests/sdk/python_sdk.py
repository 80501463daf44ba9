"""The official Python SDK as the tests use it: a client, a session, a question."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from copilot import CopilotClient, RuntimeConnection
from copilot.client import ChildProcessRuntimeConnection
from copilot.session import CopilotSession, PermissionHandler, ProviderConfig
from copilot.session_events import AssistantMessageData

from tests.sdk.conftest import Way
from tests.support.daemon_process import TERTULIAD, environment
from tests.support.model_thread import ModelThread

BOUND_S = 60.0

MARKS = [
    pytest.mark.sdk,
    pytest.mark.anyio,
    # The SDK leaves its pipes, its reader thread and its socket to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    ),
]


def connection_for(way: Way, args: tuple[str, ...]) -> RuntimeConnection:
    path = str(TERTULIAD)
    if way.connection == "uri":
        return RuntimeConnection.for_uri(way.uri, connection_token=way.token)
    if way.connection == "tcp":
        return RuntimeConnection.for_tcp(path=path, args=args)
    return RuntimeConnection.for_stdio(path=path, args=args)


@contextlib.asynccontextmanager
async def gathering(way: Way, *args: str, **options: Any) -> AsyncIterator[CopilotClient]:
    """A started client; afterwards it is stopped, and the daemon that it started is gone."""
    connection = connection_for(way, args)
    started = isinstance(connection, ChildProcessRuntimeConnection)
    if started:
        options |= {
            "env": environment(way.home),
            "working_directory": str(way.home),
            "base_directory": str(way.home),
            "use_logged_in_user": False,
        }
    with anyio.fail_after(BOUND_S):
        client = CopilotClient(connection=connection, **options)
        await client.start()
        process = client._cli_process
        try:
            yield client
        except BaseException:
            await client.force_stop()
            raise
        await client.stop()
        assert (process is not None) == started
        assert process is None or process.poll() is not None, "the daemon outlives its client"


async def create(client: CopilotClient, server: ModelThread, **more: Any) -> CopilotSession:
    options = {"model": "fake-history", "provider": provider(server), **more}
    return await client.create_session(
        on_permission_request=PermissionHandler.approve_all, **options
    )


def provider(model: ModelThread) -> ProviderConfig:
    return {"type": "openai", "base_url": model.base_url, "api_key": "key-of-a-test"}


async def ask(session: CopilotSession, prompt: str) -> str:
    """The content of the final message of the turn."""
    answer = await session.send_and_wait(prompt, timeout=BOUND_S)
    assert answer is not None
    assert isinstance(answer.data, AssistantMessageData)
    return answer.data.content
