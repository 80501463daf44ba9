"""What is said of a daemon that listens and does not answer."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tertulia import AsyncClient, Client, limits
from tertulia.errors import Timeout
from tests.clients.command import run
from tests.clients.conftest import Served

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
