"""Promises 1 and 8 where the system lets the process open no more files and connections."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemon_process import TERTULIAD, DaemonProcess, stdio_daemon, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire, said

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another's limit is Linux's to set")

Listening = tuple[DaemonProcess, Callable[..., Wire]]
"""A daemon that takes clients, and what connects one."""
PROMPT = {"ACCEPT_PAUSE_S": 0.001}
TOO_FEW = ("sh", "-c", 'ulimit -n 20; exec "$@"', "sh", str(TERTULIAD))


@contextlib.contextmanager
def files_left(daemon: DaemonProcess, spare: int) -> Iterator[None]:
    """Meanwhile it may open `spare` more."""
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{daemon.pid}/fd")}
    free = (number for number in itertools.count() if number not in taken)
    *_, limit = itertools.islice(free, spare + 1)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_low_limit_of_files_is_raised_as_far_as_the_system_allows(home: Path) -> None:
    low = ("sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", str(TERTULIAD))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > 64
    with stdio_daemon(home, program=low) as daemon:
        daemon.wire.call("status.get")  # greeted it may be before it has started
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_start_with_too_few_files_says_so(home: Path) -> None:
    with DaemonProcess(home, "--port", "0", program=TOO_FEW) as daemon:
        assert daemon.wait() == 1
        (line,) = daemon.stderr.splitlines()
        assert "its limit is 20" in line
        assert "ulimit -n" in line


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize("sessions", [0, 1])
def test_without_a_file_every_request_is_answered_and_with_files_all_goes_on(
    home: Path, model: ModelThread, sessions: int, spare: int
) -> None:
    with stdio_daemon(home, "--turn-retries", "0") as daemon:
        wire = daemon.wire
        wire.call("status.get")  # greeted it may be before it has started
        known = [wire.create(model.provider()) for _ in range(sessions)]
        with files_left(daemon, spare):
            asked = [wire.ask(method) for method in ("session.list", "models.list", "ping")]
            asked += [wire.ask("session.create", {"provider": model.provider()}) for _ in range(3)]
            asked += [wire.ask("session.getMetadata", {"sessionId": name}) for name in known]
            answers = [wire.answer(number) for number in asked]
        for error in [answer["error"] for answer in answers if "error" in answer]:
            assert error["data"]["kind"] in ("overloaded", "store_failed"), error
            assert error["data"]["retryMs"] > 0
            assert "ulimit -n" in error["message"]
        for session in [*known, wire.create(model.provider())]:
            assert said(wire.turn(session, "[[say:fine]]")) == ["fine"]


def test_a_turn_without_a_file_for_its_call_ends_and_says_so(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home, "--turn-retries", "0") as daemon:
        wire = daemon.wire
        busy, fresh = wire.create(model.provider()), wire.create(model.provider())
        wire.turn(fresh, "[[say:first]]")
        wire.call("session.send", sessionId=busy, prompt="[[fake-hang]]")
        model.until_active(1)  # over the one connection to the model that there is
        with files_left(daemon, 0):
            wire.turn(fresh, "[[say:never]]")
        assert "ulimit -n" in wire.event(fresh, "session.error")["data"]["message"]
        assert said(wire.turn(fresh, "[[say:fine]]"))[-1] == "fine"


@contextlib.contextmanager
def over_tcp(home: Path) -> Iterator[Listening]:
    with tcp_daemon(home, "--allow-anonymous", token=None, bounds=PROMPT) as daemon:
        yield daemon, daemon.connect


@contextlib.contextmanager
def over_unix(home: Path) -> Iterator[Listening]:
    path = home / "s.sock"
    with DaemonProcess(home, "--socket", str(path), bounds=PROMPT) as daemon:
        assert str(path) in daemon.line()
        yield daemon, partial(daemon.connect_unix, path)


@pytest.mark.parametrize("listening", [over_tcp, over_unix])
def test_clients_beyond_the_limit_hurt_nobody_and_come_in_later(
    home: Path,
    model: ModelThread,
    listening: Callable[[Path], contextlib.AbstractContextManager[Listening]],
) -> None:
    with listening(home) as (daemon, connect):
        wire = connect()
        session = wire.create(model.provider())
        wire.turn(session, "[[say:first]]")
        with files_left(daemon, 8):
            crowd = [connect(handshake=False) for _ in range(20)]
            for _ in range(100):
                assert wire.call("ping")["message"] == "pong"
            assert said(wire.turn(session, "[[say:on]]"))[-1] == "on"
            for each in crowd:
                each.close()
            assert connect().call("ping")["message"] == "pong"
        assert daemon.terminate() == 0
        (told,) = re.findall("accepting a client failed: (.*)", daemon.stderr)
        assert os.strerror(errno.EMFILE) in told, "told once, not each time"
