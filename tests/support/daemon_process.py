"""The real daemon as a process: the ground of the end-to-end tests.

What was started here ends here: a `DaemonProcess` is killed at the end of its `with` block. Every
wait has a bound, `BOUND_S`; reaching it is a failure and never a measurement.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.wire import BOUND_S, Wire

TERTULIAD = Path(sys.executable).with_name("tertuliad")
"""The installed command: a file, as the SDKs want it."""
BOUNDED = Path(__file__).with_name("bounded_daemon.py")
"""The same daemon with other bounds, so that a test can reach them."""
SDK_FLAGS = ("--headless", "--no-auto-update", "--no-auto-login")
"""What an SDK puts before `--stdio` or `--port`."""


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a daemon of a test sees: its data folder, and nothing of the machine's own settings but
    where the code is."""
    home.mkdir(parents=True, exist_ok=True)
    code = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {
        **code,
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
        "TERTULIA_HOME": str(home),
        **(more or {}),
    }


class DaemonProcess:
    """One daemon, killed at the end of its `with` block if it still runs.

    With `--stdio` its `wire` is the client; otherwise `port` or `connect_unix` says where it is.
    """

    def __init__(
        self,
        home: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
        bounds: Mapping[str, float] | None = None,
        program: Sequence[str] = (str(TERTULIAD),),
    ) -> None:
        """`bounds` are names of the daemon's limits, with other values."""
        self.home = home
        if bounds:
            program = [sys.executable, str(BOUNDED), json.dumps(bounds)]
        self.process = subprocess.Popen(
            [*program, *args],
            env=environment(home, env),
            cwd=home,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
        )
        self._errors = bytearray()
        self._wires: list[Wire] = []
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()
        self.wire: Wire
        self.port = 0

    def _collect(self) -> None:
        if self.process.stderr is not None:
            while data := self.process.stderr.read(65536):
                self._errors += data

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has said on standard error; whole once `wait` has returned."""
        return self._errors.decode(errors="replace")

    @property
    def received(self) -> bytes:
        """Every byte that its clients have received."""
        return b"".join(bytes(wire.raw) for wire in self._wires)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for wire in self._wires:
            with contextlib.suppress(OSError):
                wire.close()
        self.process.wait(BOUND_S)
        self._collector.join(BOUND_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    # Its end

    def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        status = self.process.wait(BOUND_S)
        self._collector.join(BOUND_S)
        return status

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.wait()

    def line(self) -> str:
        """The next line of its standard output, without the line's end."""
        assert self.process.stdout is not None
        read = bytearray()
        while not read.endswith(b"\n"):
            byte = self.process.stdout.read(1)
            assert byte, f"standard output ended after {bytes(read)!r}"
            read += byte
        return read.decode().rstrip("\n")

    # Its clients

    def adopt(self, wire: Wire) -> Wire:
        self._wires.append(wire)
        return wire

    def connect(self, token: str | None = None, *, handshake: bool = True) -> Wire:
        """A client over TCP, past its handshake unless told otherwise."""
        return self._client(
            socket.create_connection(("localhost", self.port), BOUND_S), token, handshake
        )

    def connect_unix(self, path: Path, *, handshake: bool = True) -> Wire:
        """A client over a unix socket."""
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(BOUND_S)
        stream.connect(str(path))
        return self._client(stream, None, handshake)

    def _client(self, stream: socket.socket, token: str | None, handshake: bool) -> Wire:
        stream.settimeout(None)

        def close() -> None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()

        wire = self.adopt(Wire(lambda: stream.recv(65536), stream.sendall, close))
        if handshake:
            wire.call("connect", **({"token": token} if token else {}))
        return wire


def resident(daemon: DaemonProcess) -> int:
    """The bytes of memory that the daemon has."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@contextlib.contextmanager
def stdio_daemon(
    home: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
    bounds: Mapping[str, float] | None = None,
    program: Sequence[str] = (str(TERTULIAD),),
) -> Iterator[DaemonProcess]:
    """A daemon on pipes, past its handshake; `wire` is its client."""
    flags = (*SDK_FLAGS, "--stdio", *args)
    with DaemonProcess(
        home,
        *flags,
        env=env,
        stdin=subprocess.PIPE,
        stderr=stderr,
        bounds=bounds,
        program=program,
    ) as daemon:
        into, out = daemon.process.stdin, daemon.process.stdout
        assert into is not None
        assert out is not None
        daemon.wire = daemon.adopt(Wire(lambda: out.read(65536) or b"", _all(into), into.close))
        with _telling_why(daemon):
            daemon.wire.call("connect", supportedTaskKinds=["agent"])
        yield daemon


@contextlib.contextmanager
def _telling_why(daemon: DaemonProcess) -> Iterator[None]:
    """A daemon that does not start has said why on its standard error."""
    try:
        yield
    except (AssertionError, BrokenPipeError) as error:
        daemon.kill()
        raise AssertionError(f"the daemon does not start: {daemon.stderr[-2000:]}") from error


def _all(stream: Any) -> Callable[[bytes], None]:
    """A function that writes all of what it is given to the unbuffered `stream`, or up to its end.

    As over a socket, a daemon that has closed its end is seen by what it has answered.
    """

    def write(data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[stream.write(view) :]

    return write


@contextlib.contextmanager
def tcp_daemon(
    home: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    token: str | None = "a-token",
    bounds: Mapping[str, float] | None = None,
    program: Sequence[str] = (str(TERTULIAD),),
) -> Iterator[DaemonProcess]:
    """A shared daemon on a free port; without `token`, it makes one or asks for none."""
    given = {**(env or {}), **({"COPILOT_CONNECTION_TOKEN": token} if token else {})}
    with DaemonProcess(
        home, "--port", "0", *args, env=given, bounds=bounds, program=program
    ) as daemon:
        with _telling_why(daemon):
            listening = re.search(r"listening on port (\d+)", daemon.line())
        assert listening is not None
        daemon.port = int(listening[1])
        yield daemon
