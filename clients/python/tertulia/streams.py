"""Sockets to a daemon, and writing that cannot hang.

A daemon reads all the time; one that takes nothing for `STALL_S` is stuck, and the write ends with
a TimeoutError. A part may have been written then: the stream is of no use any more.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from tertulia import limits
from tertulia.errors import ConnectionLost, NobodyListens, TertuliaError, Timeout
from tertulia.launch import Address, UnixAddress
from tertulia_protocol import layout


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def write_all(send: Callable[[memoryview], int], file: HasFileno, data: bytes) -> None:
    """Hand all of `data` to `send`, which takes what it can and raises BlockingIOError."""
    view = memoryview(data)
    while view:
        try:
            view = view[send(view) :]
        except BlockingIOError:
            _wait_writable(file)


def _wait_writable(file: HasFileno) -> None:
    poll = select.poll()
    poll.register(file.fileno(), select.POLLOUT)
    if not poll.poll(limits.STALL_S * 1000):
        raise TimeoutError


class SocketStream:
    """A daemon on TCP or a unix socket. Raises `ConnectionLost` where none answers, `Timeout` where
    one takes no connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._owner = os.getpid()
        try:
            self._socket = _connected(address)
        except BlockingIOError:
            raise no_answer(address, None, limits.CONNECT_TIMEOUT_S) from None
        except OSError as error:
            raise no_daemon(address, error) from None
        self._pid = listener_of(self._socket)

    def read(self) -> bytes:
        return self._socket.recv(limits.READ_BYTES)

    def write(self, data: bytes) -> None:
        write_all(lambda view: self._socket.send(view, socket.MSG_DONTWAIT), self._socket, data)

    def reason(self) -> ConnectionLost:
        return ConnectionLost(f"The daemon at {self._address} closed the connection.")

    def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        """As `Stream.told`."""
        silent = isinstance(error, Timeout)
        return no_answer(self._address, self._pid, patience) if silent else error

    def hang_up(self) -> None:
        if os.getpid() == self._owner:  # else a fork, which would end the connection for both
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self.hang_up()

    def release(self) -> None:
        self._socket.close()


def _connected(address: Address) -> socket.socket:
    if isinstance(address, UnixAddress):
        made = _connected_unix(address.path)
    else:
        made = socket.create_connection((address.host, address.port), limits.CONNECT_TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(None)
    return made


def _connected_unix(path: str) -> socket.socket:
    until = time.monotonic() + limits.CONNECT_TIMEOUT_S
    while True:
        try:
            return connected_now(path)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(limits.CONNECT_AGAIN_S)


def connected_now(path: str) -> socket.socket:
    """A connection to a unix socket, which blocks nobody. Raises OSError; a BlockingIOError where
    as many wait there already as may."""
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        with addressable(path) as near:
            made.connect(near)
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def addressable(path: str) -> Iterator[str]:
    """`path`, or another one of the same socket where it is too long for an address and the
    platform has one. Raises OSError."""
    if sys.platform != "linux" or len(os.fsencode(path)) <= layout.SOCKET_PATH_BYTES:
        yield path
        return
    parent, name = os.path.split(path)
    folder = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield layout.through_folder(folder, name)
    finally:
        os.close(folder)


def no_daemon(address: Address, error: OSError) -> ConnectionLost:
    gone = isinstance(error, FileNotFoundError | ConnectionRefusedError)
    return (NobodyListens if gone else ConnectionLost)(
        f"No daemon answers at {address} ({error.strerror or error}): start one with"
        " `tertulia serve`, or check the address."
    )


def no_answer(address: Address, pid: int | None, seconds: float) -> Timeout:
    """Of a daemon that is there and says nothing."""
    named = f"{address}, process {pid}," if pid else str(address)
    if pid and _is_stopped(pid):
        advice = f"it is stopped: `kill -CONT {pid}` lets it go on"
    else:
        end = f" with `kill {pid}`" if pid else ""
        advice = f"it is stopped or very busy: try again, or end it{end} and start another"
    return Timeout(f"The daemon at {named} does not answer within {seconds:g} s", advice)


def listener_of(connected: socket.socket) -> int | None:
    """The process that listens at the other end of a unix socket, where the platform tells."""
    if connected.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[0]) or None


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False
