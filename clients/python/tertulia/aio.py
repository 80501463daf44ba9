"""The async client, over anyio: the blocking one's shape, awaited.

    async with AsyncClient.spawn() as client, await client.create_session() as session:
        print((await session.send_and_wait("Hello")).text)

The connection lives in the `async with` that was entered first; others that enter share it.
Cancelling a wait does not end the turn that was waited for; `abort` does. Errors come as they are,
never in a group.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack

import anyio
import anyio.abc

from tertulia import launch, limits, params
from tertulia.aio_library import AsyncLibrary
from tertulia.aio_link import AsyncEventQueue, AsyncLink, ProcessPeer, connected, spawned
from tertulia.aio_upkeep import AsyncUpkeep
from tertulia.calls import Call, wire_names
from tertulia.errors import ConnectionLost, DaemonFailed, RpcError, TertuliaError, Timeout
from tertulia.records import Answer, Event, Model, SendOptions
from tertulia.turn import BEGINNINGS, Turn

Path = str | os.PathLike[str]
OpenLink = Callable[[], Awaitable[AsyncLink]]
T = TypeVar("T")


class AsyncClient(AsyncLibrary):
    """A daemon in use. Made by `spawn` or `connect`, entered with `async with`; however many tasks
    enter it at once, one daemon is started. Once left it is over: make another.
    """

    def __init__(self, open_link: OpenLink, token: Callable[[], str | None]) -> None:
        self._open_link = open_link
        self._token = token
        self._starting = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._owner: int | None = None
        self._depth = 0
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
        cls, address: str, token: str | None = None, *, home: Path | None = None
    ) -> AsyncClient:
        """As `Client.connect`."""
        where = launch.parse_address(address)

        async def open_link() -> AsyncLink:
            return await connected(where)

        return cls(open_link, lambda: launch.token_for(where, token, launch.home_folder(home)))

    async def __aenter__(self) -> AsyncClient:
        task = anyio.get_current_task().id
        if self._tasks is None:
            self._owner = task
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
        self._depth += task == self._owner
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
        if anyio.get_current_task().id != self._owner:
            return
        self._depth -= 1
        if self._depth or self._tasks is None:
            return
        with anyio.CancelScope(shield=True):
            await self._close()
        self._tasks.cancel_scope.cancel()
        # The body's own error is not handed to the group, which would wrap it.
        await self._tasks.__aexit__(None, None, None)

    async def _close(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        if isinstance(link.peer, ProcessPeer):
            with contextlib.suppress(TertuliaError, RpcError):
                await link.request("runtime.shutdown", {}, limits.SHUTDOWN_TIMEOUT_S)
        await link.aclose()

    async def _started(self) -> AsyncLink:
        if self._tasks is None:
            raise RuntimeError("Enter the client first: async with client.")
        async with self._starting:
            if self._link is None:
                if self._depth == 0:
                    raise ConnectionLost("The client was closed.")
                self._link = await self._opened(self._tasks)
        return self._link

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
        return self._tasks is not None and self._depth == 0

    async def _opened(self, tasks: anyio.abc.TaskGroup) -> AsyncLink:
        """The link after its handshake; on failure nothing is left of it."""
        token = self._token()
        link = await self._open_link()
        tasks.start_soon(link.run, name="tertulia connection")
        try:
            hello = {"token": token} if token is not None else {}
            params.checked_handshake(await link.request("connect", hello, limits.START_TIMEOUT_S))
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await link.aclose()
            if isinstance(link.peer, ProcessPeer) and isinstance(error, ConnectionLost):
                raise await link.peer.failure() from None
            if isinstance(link.peer, ProcessPeer) and isinstance(error, Timeout):
                raise DaemonFailed(f"The daemon does not answer: {error}") from None
            raise
        return link

    async def request(
        self, method: str, params: Any = None, timeout: float | None = limits.REQUEST_TIMEOUT_S
    ) -> Any:
        """Any method of the protocol. The decoded result; `timeout` in seconds."""
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
        return AsyncSession(self, (await self.request("session.create", given))["sessionId"])

    async def resume_session(self, session_id: str, **given: Any) -> AsyncSession:
        """As `Client.resume_session`."""
        result = await self.request("session.resume", params.resumed_session(session_id, given))
        return AsyncSession(self, result["sessionId"])

    async def delete_session(self, session_id: str) -> None:
        """Delete it with its history. Raises `SessionNotFound`."""
        result = await self.request("session.delete", {"sessionId": session_id})
        params.raise_unless_deleted(session_id, result)

    async def last_session_id(self) -> str | None:
        """The session that was used last."""
        found: str | None = (await self.request("session.getLastId")).get("sessionId")
        return found

    async def models(self) -> list[Model]:
        """The models that the daemon knows, and whether each can be used now."""
        return params.models_of(await self.request("models.list"))

    async def ping(self, message: str = "") -> str:
        """What the daemon answers: `pong: ` and the message."""
        return str((await self.request("ping", {"message": message}))["message"])

    async def status(self) -> dict[str, Any]:
        """The daemon's `version` and `protocolVersion`."""
        found: dict[str, Any] = await self.request("status.get")
        return found

    async def subscribe(self, session_id: str) -> AsyncEventQueue:
        """For `AsyncSession`: a feed of the session's events from now on."""
        return (await self._started()).subscribe(session_id)

    async def end_feeds(self, session_id: str) -> None:
        """For `AsyncSession`: end its iterators."""
        (await self._started()).end_feeds(session_id)


class AsyncSession(AsyncUpkeep):
    """A session that this client is attached to. It lives in the daemon; `close` detaches."""

    _client: AsyncClient

    def __init__(self, client: AsyncClient, session_id: str) -> None:
        self.id = session_id
        self._client = client
        self._closed = False

    async def attach(self) -> None:
        await self._client.reconnect()
        given = params.resumed_session(self.id, {**params.SILENT})
        await self._client.request("session.resume", given)
        self._closed = False

    async def fork(
        self, at: str | None = None, *, name: str | None = None, new_session_id: str | None = None
    ) -> AsyncSession:
        """As `Session.fork`."""
        client = self._client
        made = await client.fork_session(self.id, at, name=name, new_session_id=new_session_id)
        return await client.resume_session(made, **params.SILENT)

    async def send(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> str:
        """As `Session.send`."""
        given = params.message(self.id, prompt, attachments, {**options})
        return str((await self._client.request("session.send", given))["messageId"])

    async def send_and_wait(
        self,
        prompt: str,
        timeout: float | None = None,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> Answer:
        """As `Session.send_and_wait`."""
        turn: Turn | None = None
        with anyio.move_on_after(timeout):
            feed, turn = await self._begin(prompt, attachments, options)
            async for _ in self._play(feed, turn):
                pass
            return turn.answer()
        state = turn.state if turn is not None else "the message was being sent"
        raise Timeout(f"The turn did not end within {timeout:g} s", state)

    async def stream(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncGenerator[Event, None]:
        """As `Session.stream`; sent when the iteration begins. Bound it with a cancel scope."""
        feed, turn = await self._begin(prompt, attachments, options)
        async for event in self._play(feed, turn):
            yield event

    async def events(self) -> AsyncIterator[Event]:
        """As `Session.events`; await it, then iterate."""
        return _live(await self._client.subscribe(self.id))

    async def messages(self) -> list[Event]:
        """The history: every stored event, in order."""
        return params.events_of(await self._call("session.getMessages"))

    async def abort(self) -> None:
        """End the turn that runs. Without one it does nothing."""
        await self._call("session.abort")

    async def set_model(self, model: str, **more: Any) -> None:
        """Later turns go to `model`."""
        await self._call("session.model.switchTo", model_id=model, **more)

    async def log(self, message: str, level: str = "info", *, ephemeral: bool = False) -> str:
        """As `Session.log`."""
        given = {"message": message, "level": level, "ephemeral": ephemeral}
        return str((await self._call("session.log", **given))["eventId"])

    async def close(self) -> None:
        """Detach: the session and a turn that runs stay in the daemon. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ConnectionLost, RpcError):
            await self._call("session.detach")
            await self._client.end_feeds(self.id)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def _call(self, method: str, **given: Any) -> Any:
        whole = {"sessionId": self.id, **wire_names(given)}
        return await self._client.request(method, whole)

    async def _begin(
        self, prompt: str, attachments: Sequence[dict[str, Any]] | None, options: SendOptions
    ) -> tuple[AsyncEventQueue, Turn]:
        feed = await self._client.subscribe(self.id)  # first, so that no event is missed
        turn = Turn(await self.send(prompt, attachments, **options), prompt)
        if "idempotency_key" in options:  # it may have been accepted, and answered, before
            turn.recall(await self.messages())
        return feed, turn

    async def _play(self, feed: AsyncEventQueue, turn: Turn) -> AsyncGenerator[Event, None]:
        for event in turn.recalled:
            yield event
        while not turn.over:
            event = await _next(feed)
            if turn.take(event):
                yield event
            elif turn.is_missed_by(event):
                turn.raise_if_removed(
                    await self.queue.list(), await self.read_log(types=BEGINNINGS, backward=True)
                )
        turn.answer()


async def _next(feed: AsyncEventQueue) -> Event:
    event = await feed.take()
    if event is None:
        raise ConnectionLost("The session was closed while its turn ran.")
    return event


async def _live(feed: AsyncEventQueue) -> AsyncGenerator[Event, None]:
    while (event := await feed.take()) is not None:
        yield event
