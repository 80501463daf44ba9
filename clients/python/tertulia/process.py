"""A daemon that this client spawned, on pipes, and how it is ended.

Every wait is bounded, and whatever happens no process is left: end of file on its stdin, then
SIGTERM, then SIGKILL. It has a session of its own, so that Ctrl-C in the terminal reaches the
client alone. Its stderr is always drained, and only the end of it is kept.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from tertulia import limits
from tertulia.errors import ConnectionLost, DaemonFailed, TertuliaError, Timeout
from tertulia.streams import write_all

_RUNNING: set[DaemonProcess] = set()
"""What is ended with the interpreter, where its client was not closed."""


class DaemonProcess:
    """The child and its pipes: a byte stream. Raises `DaemonFailed` where it cannot be run."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None) -> None:
        self._owner = os.getpid()
        self._tail = StderrTail()
        self._ending = threading.Lock()
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **env} if env else None,
                start_new_session=True,
            )
        except OSError as error:
            raise cannot_run(command[0], error) from None
        assert self._popen.stdin is not None
        os.set_blocking(self._popen.stdin.fileno(), False)
        _RUNNING.add(self)
        self._drain = threading.Thread(
            target=_drain, args=(self._popen, self._tail), name="tertuliad stderr", daemon=True
        )
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def read(self) -> bytes:
        """What stdout brings; empty at its end."""
        assert self._popen.stdout is not None
        return os.read(self._popen.stdout.fileno(), limits.READ_BYTES)

    def write(self, data: bytes) -> None:
        pipe = self._popen.stdin
        assert pipe is not None
        write_all(lambda view: os.write(pipe.fileno(), view), pipe, data)

    def reason(self) -> ConnectionLost:
        """Why the stream ended."""
        return ConnectionLost(str(self.failure()))

    def told(self, error: TertuliaError, patience: float) -> TertuliaError:
        """As `Stream.told`."""
        if isinstance(error, ConnectionLost):
            return self.failure()
        return unanswered(error) if isinstance(error, Timeout) else error

    def failure(self) -> DaemonFailed:
        """The end of the process, told with the end of its stderr."""
        self._ended_within(limits.EXIT_STATUS_S)
        self._drain.join(timeout=limits.EXIT_STATUS_S)
        return ended(self._popen.returncode, self._tail.text)

    def hang_up(self) -> None:
        """Close its stdin, whose end ends it."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()

    def end(self) -> None:
        """Leave no process. Idempotent; a fork of the owner does nothing. Ctrl-C meanwhile ends the
        patience with it."""
        if os.getpid() != self._owner:
            return
        with self._ending:
            try:
                self._end()
            except KeyboardInterrupt:
                self._popen.kill()
                raise

    def _end(self) -> None:
        self.hang_up()
        if not self._ended_within(limits.EOF_GRACE_S):
            self._popen.terminate()
            if not self._ended_within(limits.TERM_GRACE_S):
                self._popen.kill()
                self._ended_within(limits.KILL_GRACE_S)
        self._drain.join(timeout=limits.EXIT_STATUS_S)
        _RUNNING.discard(self)

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._popen.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def release(self) -> None:
        """Close the reading ends, once nobody reads them any more, and forget a process that has
        ended."""
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None and not (pipe is self._popen.stderr and self._drain.is_alive()):
                pipe.close()
        if self._popen.poll() is not None:
            _RUNNING.discard(self)


@atexit.register
def _end_all() -> None:
    if _RUNNING and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it would leave what is still to be ended
    for process in list(_RUNNING):
        process.end()


class StderrTail:
    """The last bytes of a stderr, bounded."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, chunk: bytes) -> None:
        self._kept = (self._kept + chunk)[-limits.STDERR_TAIL_BYTES :]

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()


def cannot_run(program: str, error: OSError) -> DaemonFailed:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return DaemonFailed(
            f"The daemon cannot be run: {error.strerror}. Raise the limit (`ulimit -n`), or close"
            " what this process does not need."
        )
    return DaemonFailed(
        f"The daemon cannot be run: {program}: {error.strerror}. Install tertulia, or name the"
        " program in TERTULIAD."
    )


def unanswered(error: Timeout) -> DaemonFailed:
    return DaemonFailed(f"The daemon does not answer: {error}")


def ended(returncode: int | None, stderr: str) -> DaemonFailed:
    if returncode is None:
        how = "closed its output"
    elif returncode < 0:
        how = f"was ended by signal {-returncode}"
    else:
        how = f"ended with exit code {returncode}"
    return DaemonFailed(f"The daemon {how}.", returncode=returncode, stderr=stderr)


def _drain(popen: subprocess.Popen[bytes], tail: StderrTail) -> None:
    assert popen.stderr is not None
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(popen.stderr.fileno(), limits.READ_BYTES):
            tail.add(chunk)
