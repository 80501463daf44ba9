"""The embedded engine's child process, as the daemon sees it.

Rules of this file:

- No task belongs to a process: its pipes and its end are told by the event loop's callbacks.
- The child ends with the daemon, however that ends: it reads its stdin until the end of file.
- Its API key goes through that stdin, and its environment holds no key of any provider.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from typing import cast

import anyio
import msgspec

from tertulia_protocol.decoding import json_decoder
from tertuliad import limits

_ENVIRONMENT = (
    r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON(PATH|HOME)|VIRTUAL_ENV|OMP_\w+"
)
_SIGNAL_HINTS = {
    int(signal.SIGILL): "the processor lacks an instruction that the engine uses",
    int(signal.SIGKILL): "killed, perhaps because memory ran out",
}


class _Announcement(msgspec.Struct):
    """The one line that the child writes to stdout."""

    port: int | None = None
    error: str | None = None


class EngineProcess(asyncio.SubprocessProtocol):
    """One child process, from its spawn to its end.

    `settled` is set when it serves (then `port` is known) or cannot; `gone` when it has ended.
    """

    def __init__(self) -> None:
        self.api_key = os.urandom(32).hex()
        self.port: int | None = None
        self.settled = asyncio.Event()
        self.gone = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._output = b""
        self._complaints = b""
        self._error: str | None = None

    @property
    def transport(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None, "connection_made comes first"
        return self._transport

    @property
    def pid(self) -> int:
        return self.transport.get_pid()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes), "the pipes are binary"
        if fd == 2:
            self._complaints = (self._complaints + data)[-limits.EMBEDDED_STDERR_BYTES :]
        elif not self.settled.is_set():
            self._output += data
            if b"\n" in self._output:
                self._hear(self._output)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.close()  # its pipes, where the process ended by itself
        self.settled.set()
        self.gone.set()

    def start_fault(self) -> str:
        """Why it does not serve, for people."""
        if self._error is not None:
            reason = self._error
        elif self.gone.is_set():
            reason = self.ending()
        else:
            reason = f"not ready within {limits.EMBEDDED_START_TIMEOUT_S:.0f} s"
        return f"The embedded model could not be started: {reason}.{self._complaint()}"

    def ending(self) -> str:
        """How it ended, in words."""
        code = self.transport.get_returncode()
        if code is None or code >= 0:
            return f"its process ended with status {code}"
        name = _SIGNAL_HINTS.get(-code) or signal.strsignal(-code) or "unknown"
        return f"its process was ended by signal {-code}: {name}"

    async def end(self) -> None:
        """Close its stdin, wait, kill it if that is not enough. May be called again."""
        with anyio.CancelScope(shield=True):
            stdin = self.transport.get_pipe_transport(0)
            if stdin is not None:
                stdin.close()
            with anyio.move_on_after(limits.EMBEDDED_END_S):
                await self.gone.wait()
            self.transport.close()  # kills what is still there
            with anyio.move_on_after(limits.EMBEDDED_END_S):
                await self.gone.wait()

    def _hear(self, line: bytes) -> None:
        try:
            said = json_decoder(_Announcement).decode(line)
        except msgspec.MsgspecError:
            said = _Announcement(error="its process announced something that is not JSON")
        self.port, self._error = said.port, said.error
        self.settled.set()

    def _complaint(self) -> str:
        """The last line of its stderr, as a sentence to append."""
        lines = self._complaints.decode(errors="replace").strip().splitlines()
        return f" Its last words: {lines[-1][-limits.EMBEDDED_COMPLAINT_CHARS :]}" if lines else ""


async def spawn(arguments: list[str]) -> EngineProcess:
    """Start the child in a session of its own, so that Ctrl-C at a terminal does not reach it."""
    _, process = await asyncio.get_running_loop().subprocess_exec(
        EngineProcess,
        sys.executable,
        "-P",  # the folder that the daemon was started in is no place to import from
        "-m",
        "tertuliad.embedded_child",
        *arguments,
        env={name: value for name, value in os.environ.items() if re.fullmatch(_ENVIRONMENT, name)},
        start_new_session=True,
    )
    stdin = cast("asyncio.WriteTransport", process.transport.get_pipe_transport(0))
    stdin.write(process.api_key.encode() + b"\n")
    return process
