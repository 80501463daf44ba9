"""What is said of a daemon that listens and does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tertulia import AsyncClient, Client, limits
from tertulia.calls import Call
from tertulia.errors import Timeout
from tests.clients.command import TERTULIA, run, running
from tests.clients.conftest import BOUND_S, Counted, Served, wait_until_gone

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


def test_ctrl_c_again_and_again_leaves_no_daemon_of_its_own_that_froze(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, said = tmp_path / "daemon", tmp_path / "pid"
    program.write_text(f'#!/bin/sh\necho $$ > "{said}"\nexec {sys.executable} -m tertuliad "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("TERTULIAD", str(program))
    with running("send", "s1", "[[fake-n100000-d20]]") as send:
        assert send.stdout is not None
        assert send.stderr is not None
        assert send.stdout.read(2) == b"w0"
        os.kill(pid := int(said.read_text()), signal.SIGSTOP)
        assert _interrupted(send) == 130
        assert send.stderr.read() == b""
    wait_until_gone(pid)


def test_nor_does_ctrl_c_while_the_program_ends(home: Path, counted: Counted) -> None:
    """The daemon was left to be ended with it."""
    program = f"""
import os, signal
from tertulia import Client, limits
limits.EOF_GRACE_S = limits.TERM_GRACE_S = 1.0
from tertulia.process import DaemonProcess
client = Client.spawn(home={str(home)!r}, command={counted.command!r})
client.start()
os.kill(client._link.stream.pid, signal.SIGSTOP)
hang_up = DaemonProcess.hang_up
DaemonProcess.hang_up = lambda process: (print("ends", flush=True), hang_up(process))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ends:
        assert ends.stdout is not None
        assert ends.stderr is not None
        assert ends.stdout.readline() == b"ends\n"
        _interrupted(ends)
        assert ends.stderr.read() == b""
    wait_until_gone(counted.pids[0])


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


def stop_behind(served: Served, client: Client, method: str, patch: pytest.MonkeyPatch) -> None:
    """Let the daemon stop once it has answered that method."""
    do = client.do

    def stopping(call: Call[Any]) -> Any:
        result = do(call)
        if call.method == method:
            os.kill(served.process.pid, signal.SIGSTOP)
        return result

    patch.setattr(client, "do", stopping)


SENDING = r"did not end within 0.2 s \(the message was being sent\)"


def test_a_turn_is_waited_for_no_longer_than_told_though_nothing_is_answered(
    served: Served,
) -> None:
    with Client.connect(served.address) as client:
        session = client.create_session("s")
        os.kill(served.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Timeout, match=SENDING):
                session.send_and_wait("hello", PATIENCE_S)
            with pytest.raises(Timeout, match=SENDING):
                session.stream("hello", timeout=PATIENCE_S)
        finally:
            os.kill(served.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("method", ["session.send", "session.eventLog.read"])
def test_nor_where_it_is_asked_what_became_of_a_key(
    served: Served, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client.connect(served.address) as client:
        session = client.create_session("s", "fake-hang")
        session.send("one")
        session.send("two", idempotency_key="k")
        stop_behind(served, client, method, monkeypatch)
        try:
            with pytest.raises(Timeout, match="The turn did not end within 1 s"):
                session.send_and_wait("two", 1.0, idempotency_key="k")
        finally:
            os.kill(served.process.pid, signal.SIGCONT)


@pytest.mark.anyio
async def test_an_async_turn_is_waited_for_no_longer_than_told(served: Served) -> None:
    async with AsyncClient.connect(served.address) as client:
        session = await client.create_session("s")
        os.kill(served.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Timeout, match=SENDING):
                await session.send_and_wait("hello", PATIENCE_S)
        finally:
            os.kill(served.process.pid, signal.SIGCONT)


def test_behind_a_tcp_port_the_address_is_all_that_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Timeout, match=f"The daemon at {address} does not .*try again"):
            Client.connect(address, patience=PATIENCE_S).start()
