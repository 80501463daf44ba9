"""Pipes, sockets and terminals as they end in life: never read, half closed, reset, or gone."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import struct
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import SDK_FLAGS, DaemonProcess, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Wire, frame, types

SESSIONS = 20
SMALL_OUTBOX = {"OUTBOX_HIGH_BYTES": 2**18, "OUTBOX_LOW_BYTES": 2**15}
VISITS = 120
LOOKS = 5000
STRANGERS = 2000


def ask(ident: int, method: str) -> bytes:
    return frame({"jsonrpc": "2.0", "id": ident, "method": method, "params": {}})


LARGE = frame({"jsonrpc": "2.0", "id": 2, "method": "ping", "params": {"message": "x" * 2**16}})


@contextlib.contextmanager
def reader_that_may_stop(
    home: Path, *flags: str, **bounds: float
) -> Iterator[tuple[DaemonProcess, Wire, threading.Event]]:
    """A daemon on pipes whose client reads while the event is set."""
    may_read = threading.Event()
    may_read.set()
    with DaemonProcess(home, *SDK_FLAGS, "--stdio", *flags, stdin=-1, bounds=bounds) as daemon:
        into, out = daemon.process.stdin, daemon.process.stdout
        assert into is not None
        assert out is not None

        def receive() -> bytes:
            may_read.wait(BOUND_S)
            return out.read(65536) or b""

        wire = daemon.adopt(Wire(receive, into.write, into.close))
        wire.call("connect")
        yield daemon, wire, may_read
        may_read.set()


# Nobody reads


def test_a_pipe_that_is_not_read_holds_up_no_other_client_and_catches_up(
    home: Path, model: ModelThread
) -> None:
    """The owner follows many sessions and stops reading, while somebody else talks in them: more
    than a megabyte of events, several times what waits for the pipe."""
    path = home / "d.sock"
    with reader_that_may_stop(home, "--socket", str(path), **SMALL_OUTBOX) as parts:
        daemon, owner, may_read = parts
        names = [owner.create(model.provider(), streaming=True) for _ in range(SESSIONS)]
        may_read.clear()
        other = daemon.connect_unix(path)
        for name in names:
            other.call("session.resume", sessionId=name, disableResume=True)
        for name in names:
            other.turn(name, "[[fake-n16-s4096]]")
        told = {name: [event["id"] for event in other.history(name)] for name in names}
        assert len(owner.events(names[-1], "assistant.message_delta")) == 0, "it has read on"
        may_read.set()
        for name in names:
            owner.event(name, "session.idle")
            assert [event["id"] for event in owner.stored(name)] == told[name]
            assert types(owner.events(name))[-1] == "session.idle"
        heard = sum(len(owner.events(name, "assistant.message_delta")) for name in names)
        everything = sum(len(other.events(name, "assistant.message_delta")) for name in names)
        assert heard < everything, "it never fell behind"


def test_a_daemon_whose_answers_nobody_reads_ends_with_its_pipe(home: Path) -> None:
    with reader_that_may_stop(home, SHUTDOWN_GRACE_S=0.2) as (daemon, owner, may_read):
        may_read.clear()
        owner.ask("ping", {"message": "x" * 2**21})
        owner.close()
        assert daemon.wait() == 0


# Terminals


def test_a_terminal_that_is_gone_ends_a_daemon_on_stdio(home: Path) -> None:
    """Its other end is closed: the kernel gives an end of file. Where reading fails (EIO), see
    `tests/daemon/test_stdio.py`."""
    master, terminal = pty.openpty()
    tty.setraw(terminal)
    with DaemonProcess(home, *SDK_FLAGS, "--stdio", stdin=terminal) as daemon:
        os.close(terminal)
        os.write(master, ask(1, "connect"))
        assert daemon.process.stdout is not None
        assert b'"result"' in daemon.process.stdout.read(4096)
        os.close(master)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.stderr


def test_a_hangup_ends_a_daemon_cleanly_and_its_turn_with_an_event(
    home: Path, model: ModelThread
) -> None:
    path = home / "d.sock"
    with DaemonProcess(home, "--socket", str(path)) as daemon:
        daemon.line()
        wire = daemon.connect_unix(path)
        session = wire.create(model.provider())
        wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        model.until_active(1)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.wait() == 0
        wire.until_end()
        assert wire.events(session, "session.error")[0]["data"]["errorType"] == "turn_lost"
        assert types(wire.events(session))[-1] == "session.idle"
        assert not path.exists()


# Sockets


def test_a_socket_that_is_closed_for_writing_still_gets_its_answers(home: Path) -> None:
    with tcp_daemon(home, "--allow-anonymous", token=None) as daemon:
        stream = socket.create_connection(("localhost", daemon.port), BOUND_S)
        stream.sendall(b"".join(ask(number, "session.list") for number in range(100)))
        stream.shutdown(socket.SHUT_WR)
        wire = daemon.adopt(Wire(lambda: stream.recv(65536), stream.sendall, stream.close))
        wire.until_end()
        assert sorted(answer["id"] for answer in wire.frames) == list(range(100))
        assert all("result" in answer for answer in wire.frames)
        assert wire.fault is None


def closes_for_writing(stream: socket.socket) -> None:
    stream.shutdown(socket.SHUT_WR)
    while stream.recv(65536):
        pass


def closes_for_reading(stream: socket.socket) -> None:
    stream.shutdown(socket.SHUT_RD)
    stream.sendall(LARGE)


def leaves_its_answers_unread(stream: socket.socket) -> None:
    stream.sendall(LARGE)


def resets(stream: socket.socket) -> None:
    stream.sendall(LARGE)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def leaves_in_the_middle_of_a_message(stream: socket.socket) -> None:
    stream.sendall(ask(2, "ping")[:-5])


@pytest.mark.parametrize(
    "leave",
    [
        closes_for_writing,
        closes_for_reading,
        leaves_its_answers_unread,
        resets,
        leaves_in_the_middle_of_a_message,
    ],
    ids=lambda leave: leave.__name__,
)
def test_however_clients_leave_nothing_of_them_is_kept(
    home: Path, leave: Callable[[socket.socket], None]
) -> None:
    with tcp_daemon(home, "--allow-anonymous", token=None) as daemon:
        stays = daemon.connect()
        stays.call("session.list")
        before = descriptors(daemon)
        for _ in range(VISITS):
            with socket.create_connection(("localhost", daemon.port), BOUND_S) as stream:
                stream.sendall(ask(1, "connect"))
                assert stream.recv(1)
                leave(stream)
        for _ in range(LOOKS):
            assert stays.call("ping")["message"] == "pong"
            if descriptors(daemon) <= before:
                return
        raise AssertionError(f"{before} descriptors before, {descriptors(daemon)} now")


@pytest.mark.parametrize("most", [1, 1000], ids=["turned away", "taken"])
def test_strangers_that_reset_at_once_end_nothing(home: Path, most: int) -> None:
    bounds = {"CONNECTIONS": most}
    with tcp_daemon(home, "--allow-anonymous", token=None, bounds=bounds) as daemon:
        stays = daemon.connect()
        for number in range(STRANGERS):
            stream = socket.create_connection(("localhost", daemon.port), BOUND_S)
            if number % 2:
                stream.sendall(b"x")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()
        assert stays.call("ping")["message"] == "pong"


def descriptors(daemon: DaemonProcess) -> int:
    """How many the daemon has open."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))
