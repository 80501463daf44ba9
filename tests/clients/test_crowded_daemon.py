"""A daemon before which more clients wait than its socket holds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia import AsyncClient, Client, limits
from tertulia.errors import Timeout
from tertulia.streams import connected_now
from tests.clients.command import run
from tests.clients.conftest import BOUND_S, Served

HURRIED = """
import sys
from tertulia import limits
limits.CONNECT_TIMEOUT_S = 0.2
from tertulia.cli import main
sys.exit(main())
"""


@pytest.fixture
def crowded(served: Served) -> Iterator[Served]:
    """It is stopped, so that nobody of the crowd is let in; who leaves keeps the place."""
    os.kill(served.process.pid, signal.SIGSTOP)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                connected_now(served.address.removeprefix("unix:")).close()
        yield served
    finally:
        os.kill(served.process.pid, signal.SIGCONT)


def woken(crowded: Served, sleep: Any) -> Any:
    """`sleep`, with which whoever waits wakes the daemon."""

    def waking(seconds: float) -> Any:
        os.kill(crowded.process.pid, signal.SIGCONT)
        return sleep(seconds)

    return waking


def test_a_client_waits_for_its_turn(crowded: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", woken(crowded, time.sleep))
    with Client.connect(crowded.address) as client:
        assert client.ping("x") == "pong: x"


@pytest.mark.anyio
async def test_an_async_client_waits_for_its_turn(
    crowded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anyio, "sleep", woken(crowded, anyio.sleep))
    async with AsyncClient.connect(crowded.address) as client:
        assert await client.ping("x") == "pong: x"


SAID = (
    r"does not answer within 0.2 s \(it is stopped or very busy: try again, or end it and start"
    r" another\)"
)


def test_a_client_waits_no_longer_than_for_a_connection(
    crowded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(Timeout, match=SAID):
        Client.connect(crowded.address).start()


@pytest.mark.anyio
async def test_an_async_client_waits_no_longer_than_for_a_connection(
    crowded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(Timeout, match=SAID):
        async with AsyncClient.connect(crowded.address):
            pytest.fail("it is let in")


def test_the_command_starts_no_second_daemon(crowded: Served) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HURRIED, "send", "s1", "hello"],
        capture_output=True,
        text=True,
        env={**os.environ, "TERTULIAD": "/nowhere/tertuliad"},
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"tertulia: The daemon at {crowded.address} does not answer")


@pytest.mark.parametrize("back", [True, False], ids=["it stays", "it goes"])
def test_a_daemon_that_leaves_while_it_greets_is_asked_once_more(home: Path, back: bool) -> None:
    """One that goes is gone by then, and the command does without it."""
    path = home / "run" / "tertuliad.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(BOUND_S)

        def leave() -> None:
            for _ in range(1 + back):
                listener.accept()[0].close()
            listener.close()

        leaving = threading.Thread(target=leave)
        leaving.start()
        done = run("send", "s1", "[[say:hi]]")
        leaving.join(BOUND_S)
    if back:
        assert (done.returncode, done.stdout) == (1, "")
        assert "closed the connection" in done.stderr
    else:
        assert done.stdout == "hi\n"
