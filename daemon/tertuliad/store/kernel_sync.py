"""Syncing a file without a thread that waits for it: Linux's asynchronous I/O.

To wake a thread and to hand it the interpreter, and back, costs more than the sync of a fast disk.
The C library has no functions for these system calls (io_setup(2) and its relatives), so they are
called by their numbers. Where there are none for this machine, or the kernel refuses, `offered`
says so, and a thread does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Callable

_NUMBERS = {  # of io_setup, io_destroy, io_getevents, io_submit
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
_FDSYNC = 3  # IOCB_CMD_FDSYNC
_TELL_EVENTFD = 1  # IOCB_FLAG_RESFD


class _Control(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("file", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("control", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


Done = Callable[[OSError | None], None]
"""Told on the event loop's thread that the file is durable, or why it may not be."""


class KernelSync:
    """One sync at a time. Used on the event loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises `OSError` where the kernel does not offer it."""
        fits = sys.platform == "linux" and sys.maxsize > 2**32
        numbers = _NUMBERS.get(platform.machine()) if fits else None
        if numbers is None:
            raise OSError("There is no asynchronous sync on this platform.")
        self._setup, self._destroy, self._getevents, self._submit = numbers
        self._system = ctypes.CDLL(None, use_errno=True).syscall
        self._system.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._call(self._setup, ctypes.c_long(1), ctypes.byref(self._context))
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._control = _Control(opcode=_FDSYNC, flags=_TELL_EVENTFD, eventfd=self._eventfd)
        self._controls = (ctypes.c_void_p * 1)(ctypes.addressof(self._control))
        self._event = _Event()
        self._found = ctypes.byref(self._event)
        self._done: Done | None = None
        self._loop = loop
        loop.add_reader(self._eventfd, self._ready)

    def sync(self, file: int, done: Done) -> None:
        """Begin to make `file` durable. Raises `OSError` where that cannot be done so."""
        assert self._done is None, "one sync at a time"
        self._control.file = file
        self._call(self._submit, self._context, ctypes.c_long(1), self._controls)
        self._done = done

    def close(self) -> None:
        """A sync that is under way is waited for, and told."""
        if self._done is not None:
            self._tell()
        self._loop.remove_reader(self._eventfd)
        with contextlib.suppress(OSError):
            self._call(self._destroy, self._context)
        os.close(self._eventfd)

    def _ready(self) -> None:
        try:
            os.read(self._eventfd, 8)
        except BlockingIOError:
            return  # woken for nothing: to look for an outcome would be to wait for it
        if self._done is not None:
            self._tell()

    def _tell(self) -> None:
        """Take the outcome, waiting for it if need be."""
        one = ctypes.c_long(1)
        while True:
            try:
                self._call(self._getevents, self._context, one, one, self._found, None)
            except InterruptedError:
                continue
            break
        done, self._done = self._done, None
        result = self._event.result
        if done is not None:
            done(None if result >= 0 else OSError(-result, os.strerror(-result)))

    def _call(self, number: int, *arguments: object) -> None:
        if self._system(ctypes.c_long(number), *arguments) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


def offered(loop: asyncio.AbstractEventLoop) -> KernelSync | None:
    """A way to sync, if the kernel offers it."""
    try:
        return KernelSync(loop)
    except (OSError, NotImplementedError, AttributeError):
        return None
