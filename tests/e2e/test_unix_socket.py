"""Unix sockets: for their user alone, one daemon each, and gone when it is."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "d.sock"


@pytest.fixture
def served(home: Path, path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(home, "--socket", str(path)) as daemon:
        assert str(path) in daemon.line()
        yield daemon


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_a_socket_serves_many_clients_without_a_token(served: DaemonProcess, path: Path) -> None:
    wires = [served.connect_unix(path) for _ in range(5)]
    for number, wire in enumerate(wires):
        assert wire.call("ping", message=str(number))["message"] == f"pong: {number}"


def test_a_socket_is_for_its_user_alone(served: DaemonProcess, path: Path) -> None:
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_clean_end_takes_the_socket_away(served: DaemonProcess, path: Path) -> None:
    assert served.terminate() == 0
    assert list(path.parent.iterdir()) == []


def test_a_second_daemon_on_the_same_socket_is_refused_and_harms_nothing(
    served: DaemonProcess, path: Path, tmp_path: Path
) -> None:
    wire = served.connect_unix(path)
    with DaemonProcess(tmp_path / "other", "--socket", str(path)) as second:
        assert second.wait() == 1
        assert str(path) in second.stderr
        assert "--socket" in second.stderr, "it says what to do"
        assert "Traceback" not in second.stderr
    assert wire.call("ping")["message"] == "pong"
    assert served.connect_unix(path).call("ping")["message"] == "pong"


def test_the_socket_of_a_killed_daemon_is_taken_over(
    served: DaemonProcess, path: Path, home: Path
) -> None:
    served.kill()
    assert path.exists(), "nobody was there to take it away"
    with DaemonProcess(home, "--socket", str(path)) as second:
        assert str(path) in second.line()
        assert second.connect_unix(path).call("ping")["message"] == "pong"
        assert mode(path) == 0o600


def test_a_path_that_is_too_long_is_refused_with_advice(home: Path, tmp_path: Path) -> None:
    with DaemonProcess(home, "--socket", str(tmp_path / ("x" * 120))) as daemon:
        assert daemon.wait() == 1
        assert "Choose a shorter --socket" in daemon.stderr


def test_a_file_in_the_sockets_place_is_left_alone(home: Path, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with DaemonProcess(home, "--socket", str(path)) as daemon:
        assert daemon.wait() == 1
        assert str(path) in daemon.stderr
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


def test_a_daemon_whose_socket_was_removed_leaves_alone_what_another_one_has_made_there(
    served: DaemonProcess, path: Path, home: Path
) -> None:
    shutil.rmtree(path.parent)
    with DaemonProcess(home, "--socket", str(path)) as second:
        assert str(path) in second.line()
        there = sorted(path.parent.iterdir())
        assert served.terminate() == 0
        assert sorted(path.parent.iterdir()) == there
        assert second.connect_unix(path).call("ping")["message"] == "pong"
