"""Who gets in over TCP: whoever knows the token, and nobody else."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, tcp_daemon
from tests.support.wire import BOUND_S


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("given", [{}, {"token": ""}, {"token": "wrong"}, {"token": "a-tokeN"}])
def test_without_the_right_token_nobody_gets_in(home: Path, given: dict[str, str]) -> None:
    with tcp_daemon(home, token="a-token") as daemon:
        wire = daemon.connect(handshake=False)
        assert "AUTHENTICATION_FAILED" in wire.refused("connect", **given).message
        for method in ("ping", "session.list", "runtime.shutdown", "rpc.discover"):
            assert wire.refused(method).data["kind"] == "not_authenticated"
        assert wire.call("connect", token="a-token")["ok"] is True
        assert wire.call("session.list") == {"sessions": []}


def test_a_client_that_was_not_let_in_learns_nothing_of_the_others(home: Path) -> None:
    with tcp_daemon(home, token="a-token") as daemon:
        outside = daemon.connect(handshake=False)
        outside.refused("connect")
        inside = daemon.connect("a-token")
        base = "http://127.0.0.1:9/v1"
        inside.create({"type": "openai", "baseUrl": base})
        inside.call("session.list")
        outside.refused("ping")
        assert [f for f in outside.frames if "method" in f] == []
        assert inside.notes("session.lifecycle") != []


def test_a_daemon_makes_a_token_that_only_its_user_can_read_and_takes_it_away(home: Path) -> None:
    with DaemonProcess(home, "--port", "0") as daemon:
        line = daemon.line()
        found = re.fullmatch(r".* listening on port (\d+) \(the token is in (.*)\)", line)
        assert found, line
        daemon.port, path = int(found[1]), Path(found[2])
        assert (mode(path), mode(path.parent)) == (0o600, 0o700)
        token = path.read_text().strip()
        assert len(token) >= 32
        assert token not in line
        wire = daemon.connect(handshake=False)
        assert "AUTHENTICATION_FAILED" in wire.refused("connect").message
        assert wire.call("connect", token=token)["ok"] is True
        assert daemon.terminate() == 0
        assert not path.exists()
        assert token not in daemon.stderr


def test_anyone_gets_in_where_the_daemon_was_told_so(shared: DaemonProcess) -> None:
    wire = shared.connect(handshake=False)
    assert wire.call("ping")["message"] == "pong"
    assert wire.call("connect", token="any")["ok"] is True


@pytest.mark.parametrize(
    ("arguments", "is_open"),
    [
        (["--host", "0.0.0.0", "--allow-anonymous"], True),
        (["--host", "127.0.0.2", "--allow-anonymous"], False),
        (["--host", "0.0.0.0"], False),
    ],
)
def test_a_port_that_any_machine_reaches_without_a_token_is_warned_of_once(
    home: Path, arguments: list[str], is_open: bool
) -> None:
    with DaemonProcess(home, "--port", "0", *arguments) as daemon:
        daemon.line()
        daemon.terminate()
        assert daemon.stderr.count("anyone who reaches this machine") == is_open


def test_a_web_page_gets_no_answer_and_keeps_nobody_else_waiting(shared: DaemonProcess) -> None:
    with socket.create_connection(("localhost", shared.port), BOUND_S) as page:
        page.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        page.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while data := page.recv(4096):
                answer += data
        except ConnectionResetError:
            pass
    assert answer == b""
    assert shared.connect().call("ping")["message"] == "pong"


def test_the_port_is_open_to_this_machine_alone(shared: DaemonProcess) -> None:
    """What the kernel says: no listening socket of that port on an address of the network."""
    port = f":{shared.port:04X}"
    bound = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        fields = [line.split() for line in lines]
        bound += [f[1].removesuffix(port) for f in fields if f[3] == "0A" and f[1].endswith(port)]
    assert bound
    assert set(bound) <= {"0100007F", "00000000000000000000000001000000"}


def test_a_port_that_is_taken_is_said_in_one_line(home: Path, shared: DaemonProcess) -> None:
    with DaemonProcess(home, "--port", str(shared.port)) as second:
        assert second.wait() == 1
        assert str(shared.port) in second.stderr
        assert "--port" in second.stderr, "it says what to do"
        assert "Traceback" not in second.stderr


def test_a_host_that_is_not_there_is_named(home: Path) -> None:
    with DaemonProcess(home, "--port", "0", "--host", "nowhere.invalid") as daemon:
        assert daemon.wait() == 1
        assert "There is no host 'nowhere.invalid'" in daemon.stderr
