"""Where clients come in: TCP on this machine, and unix sockets for one user.

A unix socket lies in a folder of mode 0700 and has mode 0600. A TCP port is bound to this machine
unless told otherwise, and asks for a token; a token that was made here lies in a file of mode 0600.
Whatever is put on disk is taken away when the listener closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.abc

from tertulia_protocol import layout
from tertulia_protocol.envelope import encode_error
from tertulia_protocol.errors import Overloaded
from tertulia_protocol.framing import encode_frame
from tertuliad import limits
from tertuliad.spread import spread

if TYPE_CHECKING:
    from anyio.streams.stapled import MultiListener


log = logging.getLogger(__name__)


class ListenFailed(Exception):
    """The address cannot be listened on; the message says why and what to do."""


class Door(NamedTuple):
    """Where clients come in. `token` is what they have to say first, None: nothing; `place` is for
    people."""

    listener: anyio.abc.Listener[anyio.abc.SocketStream]
    token: str | None
    place: str


async def unix_door(path: str, cleanup: contextlib.ExitStack) -> Door:
    """Listen on a unix socket, until `cleanup`. Raises `ListenFailed`."""
    bound = cleanup.enter_context(_unix_socket(Path(path)))
    return Door(await _listen_unix(bound), None, path)


async def tcp_door(
    host: str,
    port: int,
    cleanup: contextlib.ExitStack,
    *,
    home: Path,
    token: str | None,
    allow_anonymous: bool,
) -> Door:
    """Listen on TCP. Where anybody may not come in and no token is given, one is made, and lies in
    the home until `cleanup`. Raises `ListenFailed`."""
    listener = await _listen_tcp(host, port)
    bound = _port_of(listener)
    place = f"port {bound}"
    if allow_anonymous:
        _warn_of_strangers(listener)
        return Door(listener, None, place)
    if token is None:
        token, path = cleanup.enter_context(_token_file(home, bound))
        place += f" (the token is in {path})"
    return Door(listener, token, place)


async def _listen_tcp(host: str, port: int) -> MultiListener[anyio.abc.SocketStream]:
    """Listen on every address of `host`, on one port. Raises `ListenFailed`."""
    try:
        return await anyio.create_tcp_listener(local_host=host, local_port=port)
    except socket.gaierror as error:
        raise ListenFailed(
            f"There is no host {host!r} ({error.strerror}): choose another --host."
        ) from error
    except OSError as error:
        raise ListenFailed(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port,"
            " or 0 for a free one."
        ) from error


def _warn_of_strangers(listener: MultiListener[anyio.abc.SocketStream]) -> None:
    """Say so where other machines may come in, and are not asked for a token."""
    attribute = anyio.abc.SocketAttribute.local_address
    bound = [each.extra(attribute) for each in listener.listeners]  # noqa: S610 - not a query
    hosts = [str(address[0]).partition("%")[0] for address in bound]
    if not all(ipaddress.ip_address(host).is_loopback for host in hosts):
        log.warning(
            "no token is asked for on %s: anyone who reaches this machine can use this daemon and"
            " all its sessions; --host localhost or a token keeps them out",
            ", ".join(hosts),
        )


def _port_of(listener: MultiListener[anyio.abc.SocketStream]) -> int:
    """The port that the listener is bound to."""
    return int(listener.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610 - not a query


@contextlib.contextmanager
def _token_file(home: Path, port: int) -> Iterator[tuple[str, Path]]:
    """A token for a port, in a file that only the user can read; removed at the end. It is locked
    for as long as it is good for something."""
    path = layout.token_file(home, port)
    token = os.urandom(32).hex()
    advice = "Name another --home, or give a token in COPILOT_CONNECTION_TOKEN."
    with _explained(f"The token for port {port} cannot be written", advice):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with _explained(f"The token for port {port} cannot be written", advice):
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, token.encode() + b"\n")
        yield token, path
    finally:
        _unlink_own(path, os.fstat(fd))
        os.close(fd)


@contextlib.contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    """What the file system refuses, as `ListenFailed`."""
    try:
        yield
    except OSError as error:
        raise ListenFailed(f"{what}: {error}. {advice}") from error


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to a socket's path; the kernel drops it with the process."""
    lock = path.with_name(path.name + ".lock")
    with _explained(f"Cannot listen on {path}", "Name another --socket or --home."):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = _locked(lock)
        while os.fstat(fd).st_nlink == 0:  # the daemon before us took it away meanwhile
            os.close(fd)
            fd = _locked(lock)
    try:
        yield
    finally:
        _unlink_own(lock, os.fstat(fd))
        os.close(fd)


def _unlink_own(path: Path, ours: os.stat_result) -> None:
    """Remove the file, unless another one lies there by now: its folder was removed, and another
    daemon has made it again."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), ours):
            path.unlink()


def _locked(lock: Path) -> int:
    """Raises `OSError`, and `ListenFailed` where another daemon holds it."""
    fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise
        raise ListenFailed(
            f"Another daemon listens on {lock.with_suffix('')} already: connect to it, or choose"
            " another --socket."
        ) from error
    return fd


@contextlib.contextmanager
def _unix_socket(path: Path) -> Iterator[socket.socket]:
    """A bound unix socket, not yet listening, that is removed at the end. Raises `ListenFailed`."""
    with _only_one(path):
        if path.exists() and not path.is_socket():
            raise ListenFailed(f"{path} is there and is no socket; it was left as it is.")
        bound = _bound(path)
        made = path.lstat()
        try:
            yield bound
        finally:
            _unlink_own(path, made)


def _bound(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)  # of a daemon that was killed: the lock shows that it is gone
        _bind(bound, path)
    except OSError as error:
        bound.close()
        advice = " Choose a shorter --socket." if "too long" in str(error) else ""
        raise ListenFailed(f"Cannot listen on {path}: {error}.{advice}") from error
    finally:
        os.umask(before)
    bound.setblocking(False)
    return bound


def _bind(unbound: socket.socket, path: Path) -> None:
    """Bind to a path that may be too long for an address, where the platform has a way to it."""
    if sys.platform != "linux" or len(os.fsencode(path)) <= layout.SOCKET_PATH_BYTES:
        unbound.bind(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        unbound.bind(layout.through_folder(folder, path.name))
    finally:
        os.close(folder)


async def _listen_unix(bound: socket.socket) -> anyio.abc.Listener[anyio.abc.SocketStream]:
    """Listen on a bound unix socket."""
    bound.listen(limits.CONNECTIONS_WAITING)
    listener: anyio.abc.SocketListener = await anyio.abc.SocketListener.from_socket(bound)
    return listener


def acknowledging(stream: anyio.abc.SocketStream) -> Callable[[], None] | None:
    """What tells a TCP peer at once that its bytes have come. The kernel waits 40 ms for an answer
    that could say so too, and a peer that writes a header and then a body (the TypeScript SDK)
    holds the body back until it hears of the header."""
    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not a query
    if sys.platform != "linux" or raw.family == socket.AF_UNIX:
        return None

    def acknowledge() -> None:
        # The peer is gone, or the stream was closed under us: the next read says so.
        with contextlib.suppress(OSError, ValueError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    return acknowledge


async def turn_away(stream: anyio.abc.SocketStream) -> None:
    """Say that there are too many clients. What the client has sent is read first:
    otherwise the kernel would take the refusal back from a client that has not read it yet."""
    full = Overloaded(
        f"{limits.CONNECTIONS} clients are connected, and no more are taken until one goes; try"
        " again.",
        retry_ms=limits.CONNECTIONS_RETRY_MS,
    )
    refusal = encode_error(None, full.code, full.message, spread(full.data))
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        with anyio.move_on_after(limits.STRANGER_FAREWELL_S):
            await stream.send(encode_frame(refusal))
            await stream.send_eof()
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    await stream.receive()


PEER_GONE = (OSError, RuntimeError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What comes of a peer that resets; uvloop says with a `RuntimeError` that it has closed."""


async def accept(
    listener: anyio.abc.Listener[anyio.abc.SocketStream],
    client: Callable[[anyio.abc.SocketStream], Coroutine[Any, Any, None]],
    tasks: anyio.abc.TaskGroup,
) -> None:
    """Accept for ever, each client in a task of its own, whose failure is its client's alone. Out
    of file descriptors, say, it pauses and goes on."""

    async def guarded(stream: anyio.abc.SocketStream) -> None:
        try:
            await client(stream)
        except PEER_GONE as error:
            log.info("a client was gone before it was served: %r", error)
        except Exception:
            log.exception("serving a client failed")
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(limits.CLOSE_S):
                await stream.aclose()

    quiet_until = 0.0
    while True:
        try:
            await listener.serve(guarded, tasks)
        except* (OSError, anyio.BrokenResourceError) as group:  # the latter from a unix socket
            if anyio.current_time() >= quiet_until:
                quiet_until = anyio.current_time() + limits.ACCEPT_TOLD_S
                error = group.exceptions[0]
                log.warning("accepting a client failed: %s", error.__cause__ or error)
            await anyio.sleep(limits.ACCEPT_PAUSE_S)
