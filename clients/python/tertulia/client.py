"""The blocking client: threads, and no event loop.

    with Client.spawn() as client, client.create_session() as session:
        print(session.send_and_wait("Hello").text)

`Client` and `Session` may be used by many threads at once. A session's turns belong to the daemon:
a wait that ends early, by its time-out or by an exception, does not end the turn; `abort` does.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack

from tertulia import launch, limits, params
from tertulia.calls import Call, wire_names
from tertulia.errors import ConnectionLost, DaemonFailed, RpcError, TertuliaError, Timeout
from tertulia.library import Library
from tertulia.link import EventQueue, Link
from tertulia.process import DaemonProcess
from tertulia.records import Answer, Event, Model, SendOptions
from tertulia.streams import SocketStream
from tertulia.turn import BEGINNINGS, Turn
from tertulia.upkeep import Upkeep

Path = str | os.PathLike[str]
T = TypeVar("T")


class Client(Library):
    """A daemon in use. Made by `spawn` or `connect`; it starts at the first need, once, however
    many threads need it at once. After `close` it is over: make another.
    """

    def __init__(self, open_link: Callable[[], Link], *, owns_daemon: bool) -> None:
        self._open_link = open_link
        self._owns_daemon = owns_daemon
        self._starting = threading.Lock()
        self._link: Link | None = None
        self._closed = False

    @classmethod
    def spawn(
        cls,
        home: Path | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        command: str | Sequence[str] | None = None,
    ) -> Client:
        """A daemon of its own, on pipes, which ends with this client.

        `home`: its data folder. `args`: further options. `env`: set on top of this environment.
        `command`: what to run instead of the `tertuliad` that is found.
        """
        options = [*(["--home", os.fspath(home)] if home is not None else []), *args]

        def open_link() -> Link:
            process = DaemonProcess([*launch.daemon_command(command), "--stdio", *options], env)
            return _greeted(Link(process), None, process)

        return cls(open_link, owns_daemon=True)

    @classmethod
    def connect(cls, address: str, token: str | None = None, *, home: Path | None = None) -> Client:
        """A daemon that runs already: `unix:/path`, `host:port` or `tcp://host:port`.

        `token`: by default TERTULIA_TOKEN, or the file that a daemon of the same `home` wrote.
        """
        where = launch.parse_address(address)

        def open_link() -> Link:
            known = launch.token_for(where, token, launch.home_folder(home))
            return _greeted(Link(SocketStream(where)), known, None)

        return cls(open_link, owns_daemon=False)

    def start(self) -> None:
        """Start or connect now. Raises `DaemonFailed`, `ConnectionLost` or an `RpcError`."""
        self._started()

    def _started(self) -> Link:
        with self._starting:
            if self._closed:
                raise ConnectionLost("The client was closed.")
            if self._link is None:
                self._link = self._open_link()
                # Of a client that is dropped. No more than this: it may run inside the reader.
                weakref.finalize(self, self._link.stream.hang_up)
            return self._link

    def reconnect(self) -> None:
        """Where the connection was lost, make another, and start the daemon anew if it was spawned.
        Sessions have to be attached to again: `Session.attach`. Raises what `start` raises."""
        with self._starting:
            lost = self._link if self._link is not None and self._link.lost else None
            if lost is not None:
                self._link = None
        if lost is not None:
            lost.close()
        self._started()

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    def close(self) -> None:
        """End the connection, and the daemon if it was spawned. Idempotent, bounded."""
        with self._starting:
            link, self._link, self._closed = self._link, None, True
        if link is None:
            return
        if self._owns_daemon:
            with contextlib.suppress(TertuliaError, RpcError):
                link.request("runtime.shutdown", {}, limits.SHUTDOWN_TIMEOUT_S)
        link.close()

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(
        self, method: str, params: Any = None, timeout: float | None = limits.REQUEST_TIMEOUT_S
    ) -> Any:
        """Any method of the protocol. The decoded result; `timeout` in seconds."""
        return self._started().request(method, {} if params is None else params, timeout)

    def do(self, call: Call[T]) -> T:
        return call.read(self.request(call.method, call.params, call.timeout))

    def create_session(
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
    ) -> Session:
        """A new session. `provider`: the wire's members (`baseUrl`, `apiKey`, ...); `more`: any
        other field of `session.create`. Raises `SessionExists` where the id is taken.
        """
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
        return Session(self, self.request("session.create", given)["sessionId"])

    def resume_session(self, session_id: str, **given: Any) -> Session:
        """Attach to a stored session; what is given, by the names of `create_session`, replaces
        what it has. Raises `SessionNotFound`."""
        result = self.request("session.resume", params.resumed_session(session_id, given))
        return Session(self, result["sessionId"])

    def delete_session(self, session_id: str) -> None:
        """Delete it with its history. Raises `SessionNotFound`."""
        result = self.request("session.delete", {"sessionId": session_id})
        params.raise_unless_deleted(session_id, result)

    def last_session_id(self) -> str | None:
        """The session that was used last."""
        found: str | None = self.request("session.getLastId").get("sessionId")
        return found

    def models(self) -> list[Model]:
        """The models that the daemon knows, and whether each can be used now."""
        return params.models_of(self.request("models.list"))

    def ping(self, message: str = "") -> str:
        """What the daemon answers: `pong: ` and the message."""
        return str(self.request("ping", {"message": message})["message"])

    def status(self) -> dict[str, Any]:
        """The daemon's `version` and `protocolVersion`."""
        found: dict[str, Any] = self.request("status.get")
        return found

    def subscribe(self, session_id: str) -> EventQueue:
        """For `Session`: a feed of the session's events from now on."""
        return self._started().subscribe(session_id)

    def end_feeds(self, session_id: str) -> None:
        """For `Session`: end its iterators."""
        self._started().end_feeds(session_id)


class Session(Upkeep):
    """A session that this client is attached to. It lives in the daemon; `close` detaches."""

    _client: Client

    def __init__(self, client: Client, session_id: str) -> None:
        self.id = session_id
        self._client = client
        self._closed = False

    def attach(self) -> None:
        self._client.reconnect()
        self._client.request("session.resume", params.resumed_session(self.id, {**params.SILENT}))
        self._closed = False

    def fork(
        self, at: str | None = None, *, name: str | None = None, new_session_id: str | None = None
    ) -> Session:
        """As `Client.fork_session`; the fork, attached to."""
        made = self._client.fork_session(self.id, at, name=name, new_session_id=new_session_id)
        return self._client.resume_session(made, **params.SILENT)

    def send(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> str:
        """Hand over a message; its id. It is stored when this returns, and its turn follows.
        Raises `TurnBusy` or `SeqMoved` where the `options` ask for what is not so."""
        given = params.message(self.id, prompt, attachments, {**options})
        return str(self._client.request("session.send", given)["messageId"])

    def send_and_wait(
        self,
        prompt: str,
        timeout: float | None = None,
        attachments: Sequence[dict[str, Any]] | None = None,
        **options: Unpack[SendOptions],
    ) -> Answer:
        """The answer to a message. Raises `TurnFailed`, `TurnAborted`, `ConnectionLost`,
        `MessageRemoved`, or `Timeout` after `timeout` seconds."""
        feed, turn = self._begin(prompt, attachments, options)
        for _ in self._play(feed, turn, timeout):
            pass
        return turn.answer()

    def stream(
        self,
        prompt: str,
        attachments: Sequence[dict[str, Any]] | None = None,
        timeout: float | None = None,
        **options: Unpack[SendOptions],
    ) -> Iterator[Event]:
        """Send now; iterate over that turn's events up to `session.idle`. Raises at the end what
        `send_and_wait` raises."""
        feed, turn = self._begin(prompt, attachments, options)
        return self._play(feed, turn, timeout)

    def events(self) -> Iterator[Event]:
        """The session's events from this call on, whoever caused them. Ends with `close`; raises
        `ConnectionLost` with the connection, `SessionNotFound` once the session is deleted."""
        return _live(self._client.subscribe(self.id))

    def messages(self) -> list[Event]:
        """The history: every stored event, in order."""
        return params.events_of(self._call("session.getMessages"))

    def abort(self) -> None:
        """End the turn that runs. Without one it does nothing."""
        self._call("session.abort")

    def set_model(self, model: str, **more: Any) -> None:
        """Later turns go to `model`."""
        self._call("session.model.switchTo", model_id=model, **more)

    def log(self, message: str, level: str = "info", *, ephemeral: bool = False) -> str:
        """Put a note of this client among the events: `info`, `warning` or `error`. Its id."""
        result = self._call("session.log", message=message, level=level, ephemeral=ephemeral)
        return str(result["eventId"])

    def close(self) -> None:
        """Detach: the session and a turn that runs stay in the daemon. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ConnectionLost, RpcError):
            self._call("session.detach")
            self._client.end_feeds(self.id)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: str, **given: Any) -> Any:
        return self._client.request(method, {"sessionId": self.id, **wire_names(given)})

    def _begin(
        self, prompt: str, attachments: Sequence[dict[str, Any]] | None, options: SendOptions
    ) -> tuple[EventQueue, Turn]:
        feed = self._client.subscribe(self.id)  # first, so that no event is missed
        turn = Turn(self.send(prompt, attachments, **options), prompt)
        if "idempotency_key" in options:  # it may have been accepted, and answered, before
            turn.recall(self.messages())
        return feed, turn

    def _play(
        self, feed: EventQueue, turn: Turn, timeout: float | None
    ) -> Generator[Event, None, None]:
        deadline = None if timeout is None else time.monotonic() + timeout
        yield from turn.recalled
        while not turn.over:
            event = _next(feed, turn, timeout, deadline)
            if turn.take(event):
                yield event
            elif turn.is_missed_by(event):
                turn.raise_if_removed(
                    self.queue.list(), self.read_log(types=BEGINNINGS, backward=True)
                )
        turn.answer()


def _next(feed: EventQueue, turn: Turn, timeout: float | None, deadline: float | None) -> Event:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        event = feed.take(left)
    except queue.Empty:
        raise Timeout(f"The turn did not end within {timeout:g} s", turn.state) from None
    if event is None:
        raise ConnectionLost("The session was closed while its turn ran.")
    return event


def _live(feed: EventQueue) -> Generator[Event, None, None]:
    while (event := feed.take()) is not None:
        yield event


def _greeted(link: Link, token: str | None, process: DaemonProcess | None) -> Link:
    """The link after its handshake; on failure nothing is left of it."""
    try:
        hello = {"token": token} if token is not None else {}
        params.checked_handshake(link.request("connect", hello, limits.START_TIMEOUT_S))
    except BaseException as error:
        link.close()
        if process is not None and isinstance(error, ConnectionLost):
            raise process.failure() from None
        if process is not None and isinstance(error, Timeout):
            raise DaemonFailed(f"The daemon does not answer: {error}") from None
        raise
    return link
