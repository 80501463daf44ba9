"""The blocking client: threads, and no event loop.

    with Client.spawn() as client, client.create_session() as session:
        print(session.send_and_wait("Hello").text)

`Client` and `Session` may be used by many threads at once. A fork of the process uses them no more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tertulia import calls, launch, limits, params
from tertulia.attachments import Hold
from tertulia.calls import Call
from tertulia.errors import ConnectionLost, RpcError, TertuliaError
from tertulia.library import Library
from tertulia.link import EventQueue, Link, in_a_fork
from tertulia.params import Path
from tertulia.process import DaemonProcess
from tertulia.records import Model
from tertulia.session import Session
from tertulia.streams import SocketStream

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
        self._hang_up: weakref.finalize[[], Client] | None = None
        """Of the link, where the client is dropped without an end. No more than this: it may run
        inside the reader."""
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
            return _greeted(Link(process), None)

        return cls(open_link, owns_daemon=True)

    @classmethod
    def connect(
        cls,
        address: str,
        token: str | None = None,
        *,
        home: Path | None = None,
        patience: float = limits.START_TIMEOUT_S,
    ) -> Client:
        """A daemon that runs already: `unix:/path`, `host:port` or `tcp://host:port`.

        `token`: by default TERTULIA_TOKEN, or the file that a daemon of the same `home` wrote.
        `patience`: after so many seconds without an answer to the handshake, `Timeout`.
        """
        where = launch.parse_address(address)

        def open_link() -> Link:
            known = launch.token_for(where, token, launch.home_folder(home))
            return _greeted(Link(SocketStream(where)), known, patience)

        return cls(open_link, owns_daemon=False)

    def start(self) -> None:
        """Start or connect now. Raises `DaemonFailed`, `ConnectionLost`, `Timeout` or an
        `RpcError`."""
        self._started()

    def _started(self) -> Link:
        self._refuse_in_fork()
        with self._starting:
            if self._closed:
                raise ConnectionLost("The client was closed.")
            if self._link is None:
                self._link = self._open_link()
                self._hang_up = weakref.finalize(self, self._link.abandon)
                self._hang_up.atexit = False  # the process's end does the same, whatever interrupts
            return self._link

    def reconnect(self) -> None:
        """Where the connection was lost, make another, and start the daemon anew if it was spawned.
        Sessions have to be attached to again: `Session.attach`. Raises what `start` raises."""
        self._refuse_in_fork()
        with self._starting:
            lost = self._given_up() if self._link is not None and self._link.lost else None
        if lost is not None:
            lost.close()
        self._started()

    @property
    def owns_daemon(self) -> bool:
        """Whether the daemon was spawned, and ends with it."""
        return self._owns_daemon

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    def close(self) -> None:
        """End the connection, and the daemon if it was spawned; a fork of the process that opened
        them leaves both to it. Idempotent, bounded."""
        with contextlib.nullcontext() if self._is_inherited else self._starting:
            link, self._closed = self._given_up(), True
        if link is None:
            return
        try:
            if self._owns_daemon and not link.is_inherited:
                with contextlib.suppress(TertuliaError, RpcError):
                    end = calls.shutdown()
                    link.request(end.method, end.params, end.timeout)
        finally:
            link.close()

    @property
    def _is_inherited(self) -> bool:
        """Asked without the lock, which a thread of the other process may have held."""
        link = self._link
        return link is not None and link.is_inherited

    def _refuse_in_fork(self) -> None:
        if self._is_inherited:
            raise in_a_fork()

    def _given_up(self) -> Link | None:
        """The link, which is the caller's to close now."""
        if self._hang_up is not None:
            self._hang_up.detach()
        link, self._link = self._link, None
        return link

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
        hold = Hold()
        return Session(self, self.attach(calls.create(given), hold), hold)

    def resume_session(self, session_id: str, **given: Any) -> Session:
        """Attach to a stored session; what is given, by the names of `create_session`, replaces
        what it has. Raises `SessionNotFound`."""
        settings = params.resumed_session(session_id, given)
        hold = Hold()
        return Session(self, self.attach(calls.resume(settings), hold), hold)

    def delete_session(self, session_id: str) -> None:
        """Delete it with its history. Raises `SessionNotFound`."""
        self.do(calls.delete(session_id))

    def last_session_id(self) -> str | None:
        """The session that was used last."""
        return self.do(calls.last_session_id())

    def models(self) -> list[Model]:
        """The models that the daemon knows, and whether each can be used now."""
        return self.do(calls.models())

    def ping(self, message: str = "") -> str:
        """What the daemon answers: `pong: ` and the message."""
        return self.do(calls.ping(message))

    def status(self) -> dict[str, Any]:
        """The daemon's `version` and `protocolVersion`."""
        return self.do(calls.status())

    def attach(self, call: Call[str], hold: Hold) -> str:
        """For `Session`: make a call that attaches to it."""
        return call.read(self._started().attach(call.method, call.params, call.timeout, hold))

    def release(self, session_id: str, hold: Hold) -> None:
        """For `Session`: end its iterators, and detach where no other one of its id is open."""
        link = self._link
        if link is not None and not link.is_inherited:
            link.release(session_id, hold, limits.REQUEST_TIMEOUT_S)

    def subscribe(self, session_id: str, hold: Hold) -> EventQueue:
        """For `Session`: a feed of the session's events from now on."""
        return self._started().subscribe(session_id, hold)


def _greeted(link: Link, token: str | None, patience: float = limits.START_TIMEOUT_S) -> Link:
    """The link after its handshake; on failure nothing is left of it."""
    try:
        hello = calls.connect(token)
        hello.read(link.request(hello.method, hello.params, patience))
    except BaseException as error:
        link.close()
        if isinstance(error, TertuliaError):
            raise link.stream.told(error, patience) from None
        raise
    return link
