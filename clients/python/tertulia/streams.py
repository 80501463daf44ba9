"""Sockets to a daemon, and writing that cannot hang.

A daemon reads all the time; one that takes nothing for `STALL_S` is stuck, and the write ends with
a TimeoutError. A part may have been written then: the stream is of no use any more.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from typing import Protocol

from tertulia import limits
from tertulia.errors import ConnectionLost
from tertulia.launch import Address, UnixAddress


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
    """A daemon on TCP or a unix socket. Raises `ConnectionLost` where none answers."""

    def __init__(self, address: Address) -> None:
        self._address = address
        try:
            self._socket = _connected(address)
        except OSError as error:
            raise no_daemon(address, error) from None

    def read(self) -> bytes:
        return self._socket.recv(limits.READ_BYTES)

    def write(self, data: bytes) -> None:
        write_all(lambda view: self._socket.send(view, socket.MSG_DONTWAIT), self._socket, data)

    def reason(self) -> ConnectionLost:
        return ConnectionLost(f"The daemon at {self._address} closed the connection.")

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self.hang_up()

    def release(self) -> None:
        self._socket.close()


def _connected(address: Address) -> socket.socket:
    if isinstance(address, UnixAddress):
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(limits.CONNECT_TIMEOUT_S)
            made.connect(address.path)
        except OSError:
            made.close()
            raise
    else:
        made = socket.create_connection((address.host, address.port), limits.CONNECT_TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(None)
    return made


def no_daemon(address: Address, error: OSError) -> ConnectionLost:
    return ConnectionLost(
        f"No daemon answers at {address} ({error.strerror or error}): start one with"
        " `tertulia serve`, or check the address."
    )
