"""The async client, over anyio: the blocking one's shape, awaited.

    async with AsyncClient.spawn() as client, await client.create_session() as session:
        print((await session.send_and_wait("Hello")).text)

The connection lives in the `async with` that was entered first; others that enter share it. Where a
task leaves the client that never entered it, as a test's fixture may, the connection ends as well.
Errors come as they are, never in a group.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.abc
from anyio.lowlevel import current_token

from tertulia import calls, launch, limits, params
from tertulia.aio_library import AsyncLibrary
from tertulia.aio_link import (
    AsyncEventQueue,
    AsyncLink,
    ProcessPeer,
    connected,
    spawned,
)
from tertulia.aio_session import AsyncSession
from tertulia.attachments import Hold
from tertulia.calls import Call
from tertulia.errors import ConnectionLost, RpcError, TertuliaError
from tertulia.params import Path
from tertulia.records import Model

OpenLink = Callable[[], Awaitable[AsyncLink]]
T = TypeVar("T")


class AsyncClient(AsyncLibrary):
    """A daemon in use. Made by `spawn` or `connect`, entered with `async with`; however many tasks
    enter it at once, one daemon is started. Once left it is over: make another.
    """

    def __init__(
        self,
        open_link: OpenLink,
        token: Callable[[], str | None],
        patience: float = limits.START_TIMEOUT_S,
    ) -> None:
        self._open_link = open_link
        self._patience = patience
        self._token = token
        self._starting = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._owner: int | None = None
        self._loop: object = None
        """The event loop in which the connection lives."""
        self._depth = 0
        self._guests: Counter[int] = Counter()
        """How often each other task is inside."""
        self._left = False
        self._link: AsyncLink | None = None

    @classmethod
    def spawn(
        cls,
        home: Path | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        command: str | Sequence[str] | None = None,
    ) -> AsyncClient:
        """As `Client.spawn`."""
        options = [*(["--home", os.fspath(home)] if home is not None else []), *args]

        async def open_link() -> AsyncLink:
            return await spawned([*launch.daemon_command(command), "--stdio", *options], env)

        return cls(open_link, lambda: None)

    @classmethod
    def connect(
        cls,
        address: str,
        token: str | None = None,
        *,
        home: Path | None = None,
        patience: float = limits.START_TIMEOUT_S,
    ) -> AsyncClient:
        """As `Client.connect`."""
        where = launch.parse_address(address)

        async def open_link() -> AsyncLink:
            return await connected(where)

        def known() -> str | None:
            return launch.token_for(where, token, launch.home_folder(home))

        return cls(open_link, known, patience)

    async def __aenter__(self) -> AsyncClient:
        self._refuse_left()
        task = anyio.get_current_task().id
        if self._tasks is None:
            self._owner = task
            self._loop = current_token()
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
        if task == self._owner:
            self._depth += 1
        else:
            self._guests[task] += 1
        try:
            await self._started()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task = anyio.get_current_task().id
        if task != self._owner:
            await self._leave(task)
            return
        self._depth -= 1
        if self._depth or self._tasks is None:
            return
        self._left = True
        try:
            with anyio.CancelScope(shield=True):
                await self._close()
        finally:  # asyncio's own cancellation passes every shield
            self._tasks.cancel_scope.cancel()
            # The body's own error is not handed to the group, which would wrap it.
            await self._tasks.__aexit__(None, None, None)

    async def _leave(self, task: int) -> None:
        """Of a task that has no part in the group, whose own end only its owner can await: without
        the link there is nothing in it."""
        if self._guests[task]:
            self._guests -= Counter([task])
            return
        self._left = True
        with anyio.CancelScope(shield=True):
            await self._close()

    async def _close(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        try:
            if isinstance(link.peer, ProcessPeer):
                with contextlib.suppress(TertuliaError, RpcError):
                    end = calls.shutdown()
                    await link.request(end.method, end.params, end.timeout)
        finally:
            await link.aclose()

    async def _started(self) -> AsyncLink:
        if self._tasks is None:
            raise RuntimeError("Enter the client first: async with client.")
        if current_token() != self._loop:
            raise RuntimeError("The client lives in another event loop: make one for each.")
        async with self._starting:
            if self._link is None:
                self._refuse_left()
                link = await self._opened(self._tasks)
                if self._left:  # meanwhile
                    with anyio.CancelScope(shield=True):
                        await link.aclose()
                self._refuse_left()
                self._link = link
            return self._link

    def _refuse_left(self) -> None:
        if self._left:
            raise ConnectionLost("The client was closed.")

    async def reconnect(self) -> None:
        """As `Client.reconnect`."""
        async with self._starting:
            if self._link is not None and self._link.lost:
                lost, self._link = self._link, None
                with anyio.CancelScope(shield=True):
                    await lost.aclose()
        await self._started()

    @property
    def closed(self) -> bool:
        """Whether it was left."""
        return self._left

    async def _opened(self, tasks: anyio.abc.TaskGroup) -> AsyncLink:
        """The link after its handshake; on failure nothing is left of it."""
        token = self._token()
        link = await self._open_link()
        tasks.start_soon(link.run, name="tertulia connection")
        try:
            hello = calls.connect(token)
            hello.read(await link.request(hello.method, hello.params, self._patience))
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await link.aclose()
            if isinstance(error, TertuliaError):
                raise await link.peer.told(error, self._patience) from None
            raise
        return link

    async def request(
        self, method: str, params: Any = None, timeout: float | None = limits.REQUEST_TIMEOUT_S
    ) -> Any:
        """As `Client.request`."""
        link = await self._started()
        return await link.request(method, {} if params is None else params, timeout)

    async def do(self, call: Call[T]) -> T:
        return call.read(await self.request(call.method, call.params, call.timeout))

    async def create_session(
        self,
        session_id: str | None = None,
        model: str | None = None,
        *,
        system_message: str | dict[str, Any] | None = None,
        provider: dict[str, Any] | None = None,
        streaming: bool = True,
        working_directory: Path | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        **more: Any,
    ) -> AsyncSession:
        """As `Client.create_session`."""
        given = params.new_session(
            session_id,
            model,
            system_message=system_message,
            provider=provider,
            streaming=streaming,
            working_directory=working_directory,
            tools=tools,
            more=more,
        )
        return await self._attached(calls.create(given))

    async def resume_session(self, session_id: str, **given: Any) -> AsyncSession:
        """As `Client.resume_session`."""
        settings = params.resumed_session(session_id, given)
        return await self._attached(calls.resume(settings))

    async def _attached(self, call: Call[str]) -> AsyncSession:
        link, hold = await self._started(), Hold()
        result = await link.attach_first(call.method, call.params, call.timeout, hold)
        return AsyncSession(self, call.read(result), hold)

    async def delete_session(self, session_id: str) -> None:
        """As `Client.delete_session`."""
        await self.do(calls.delete(session_id))

    async def last_session_id(self) -> str | None:
        """As `Client.last_session_id`."""
        return await self.do(calls.last_session_id())

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self.do(calls.models())

    async def ping(self, message: str = "") -> str:
        """As `Client.ping`."""
        return await self.do(calls.ping(message))

    async def status(self) -> dict[str, Any]:
        """As `Client.status`."""
        return await self.do(calls.status())

    async def attach(self, call: Call[str], hold: Hold) -> str:
        """As `Client.attach`."""
        link = await self._started()
        return call.read(await link.attach(call.method, call.params, call.timeout, hold))

    async def release(self, session_id: str, hold: Hold) -> None:
        """As `Client.release`."""
        link = self._link
        if link is not None:
            await link.release(session_id, hold, limits.REQUEST_TIMEOUT_S)

    async def subscribe(self, session_id: str, hold: Hold) -> AsyncEventQueue:
        """As `Client.subscribe`."""
        return (await self._started()).subscribe(session_id, hold)
