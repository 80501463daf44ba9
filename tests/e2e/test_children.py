"""The embedded model's process belongs to the daemon: it is reaped when it ends, and ends with it
however the daemon ends. These tests need the model installed."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from tertuliad.providers import embedded_probe
from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.wire import BOUND_S, Wire, said

missing = embedded_probe.problem()
pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(missing is not None, reason=missing or ""),
]
MODEL = "local/smollm2-135m-instruct"


def family(parent: int) -> dict[int, str]:
    """The children of a process, zombies included: their state by their id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, of = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue  # ended meanwhile
        if int(of) == parent:
            found[int(folder.name)] = state
    return found


def only_child(daemon: DaemonProcess) -> int:
    (child,) = family(daemon.pid)
    return child


def answered(wire: Wire, session: str) -> bool:
    """Whether a turn had an answer."""
    return said(wire.turn(session, "Say hello.")) != []


def test_a_killed_engine_is_reaped_and_another_one_takes_its_place(home: Path) -> None:
    with stdio_daemon(home) as daemon:
        session = daemon.wire.create(model=MODEL)
        assert answered(daemon.wire, session)
        first = only_child(daemon)
        os.kill(first, signal.SIGKILL)
        assert any(answered(daemon.wire, session) for _ in range(3)), "no other one takes its place"
        assert first not in family(daemon.pid), "it is a zombie"
        assert only_child(daemon) != first


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_engine_outlives_its_daemon(home: Path, end: signal.Signals) -> None:
    with stdio_daemon(home) as daemon:
        assert answered(daemon.wire, daemon.wire.create(model=MODEL))
        engine = os.pidfd_open(only_child(daemon))
        daemon.process.send_signal(end)
        daemon.wait()
        ready, _, _ = select.select([engine], [], [], BOUND_S)
        os.close(engine)
        assert ready, "the engine is still there"
