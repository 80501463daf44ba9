"""What is said of a daemon that listens and does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tertulia import AsyncClient, Client, limits
from tertulia.errors import Timeout
from tests.clients.command import TERTULIA, run
from tests.clients.conftest import BOUND_S, Served

PATIENCE_S = 0.2


@pytest.fixture
def frozen(served: Served) -> Iterator[Served]:
    os.kill(served.process.pid, signal.SIGSTOP)
    yield served
    os.kill(served.process.pid, signal.SIGCONT)


def test_the_command_names_a_frozen_daemon_and_what_wakes_it(frozen: Served) -> None:
    done = run("list")
    pid = frozen.process.pid
    assert done.returncode == 1
    assert done.stderr == (
        f"tertulia: The daemon at {frozen.address}, process {pid}, does not answer within"
        f" {limits.ANSWER_S:g} s (it is stopped: `kill -CONT {pid}` lets it go on)\n"
    )


def test_ctrl_c_leaves_a_daemon_that_froze_in_an_answer(served: Served) -> None:
    """Nothing more is asked of it: neither an abort's answer nor a farewell is waited for."""
    with subprocess.Popen(
        [*TERTULIA, "send", "s1", "[[fake-n100000-d20]]"], stdout=subprocess.PIPE
    ) as send:
        assert send.stdout is not None
        assert send.stdout.read(2) == b"w0"
        os.kill(served.process.pid, signal.SIGSTOP)
        try:
            assert _interrupted(send) == 130
        finally:
            os.kill(served.process.pid, signal.SIGCONT)
            send.kill()


def _interrupted(process: subprocess.Popen[bytes]) -> int:
    """The exit code after Ctrl-C, again and again: two that come at once are one."""
    for _ in range(int(BOUND_S / 2)):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=1.0)
    raise AssertionError("it does not end")


def test_a_client_waits_as_long_as_it_is_told(frozen: Served) -> None:
    with pytest.raises(Timeout, match=f"process {frozen.process.pid}, .* within 0.2 s"):
        Client.connect(frozen.address, patience=PATIENCE_S).start()


@pytest.mark.anyio
async def test_an_async_client_waits_as_long_as_it_is_told(frozen: Served) -> None:
    with pytest.raises(Timeout, match=f"process {frozen.process.pid}, .* within 0.2 s"):
        async with AsyncClient.connect(frozen.address, patience=PATIENCE_S):
            pytest.fail("it greets")


def test_behind_a_tcp_port_the_address_is_all_that_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Timeout, match=f"The daemon at {address} does not .*try again"):
            Client.connect(address, patience=PATIENCE_S).start()
