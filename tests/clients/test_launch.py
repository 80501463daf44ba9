"""Addresses, homes, tokens and the daemon's command: what is found where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tertulia import launch
from tertulia.errors import DaemonFailed, TertuliaError
from tertulia.launch import TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
        ("unix:///run/x.sock", UnixAddress("/run/x.sock")),
        ("localhost:8390", TcpAddress("localhost", 8390)),
        ("tcp://10.0.0.1:1", TcpAddress("10.0.0.1", 1)),
        ("tcp://[::1]:8390", TcpAddress("::1", 8390)),
        ("8390", TcpAddress("localhost", 8390)),
    ],
)
def test_an_address_is_read(text: str, address: launch.Address) -> None:
    assert launch.parse_address(text) == address
    assert launch.parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:x",
        "http://host:1",
        "host:" + "9" * 5000,
    ],
)
def test_what_is_no_address_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(TertuliaError, match="unix:/path"):
        launch.parse_address(text)


def test_a_user_at_home_in_the_root_folder_has_one_slash_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TERTULIA_HOME", "COPILOT_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr("sys.platform", "linux")
    assert str(launch.home_folder()) == "/.local/share/tertulia"


def test_the_home_is_named_or_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TERTULIA_HOME", str(tmp_path / "ours"))
    monkeypatch.setenv("COPILOT_HOME", str(tmp_path / "theirs"))
    assert launch.home_folder(tmp_path / "given") == tmp_path / "given"
    assert launch.home_folder() == tmp_path / "ours"
    monkeypatch.delenv("TERTULIA_HOME")
    assert launch.home_folder() == tmp_path / "theirs"
    monkeypatch.delenv("COPILOT_HOME")
    assert launch.home_folder().name == "tertulia"


def test_the_token_is_given_or_in_the_environment_or_in_the_daemons_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TERTULIA_TOKEN", raising=False)
    address = TcpAddress("127.0.0.1", 8390)
    assert launch.token_for(address, None, tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tcp-8390.token").write_text("from-file\n")
    assert launch.token_for(address, None, tmp_path) == "from-file"
    assert launch.token_for(UnixAddress("/x"), None, tmp_path) is None
    monkeypatch.setenv("TERTULIA_TOKEN", "from-environment")
    assert launch.token_for(address, None, tmp_path) == "from-environment"
    assert launch.token_for(address, "given", tmp_path) == "given"


def test_the_daemon_is_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "other-daemon"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("TERTULIAD", str(program))
    assert launch.daemon_command() == [str(program)]
    assert launch.daemon_command([sys.executable, "-m", "x"]) == [sys.executable, "-m", "x"]
    monkeypatch.setenv("TERTULIAD", str(tmp_path / "missing"))
    with pytest.raises(DaemonFailed, match="TERTULIAD"):
        launch.daemon_command()


def test_a_daemon_that_nobody_named_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERTULIAD", raising=False)
    monkeypatch.setenv("PATH", "")
    found = launch.daemon_command()
    assert found in (
        [str(Path(sys.executable).parent / "tertuliad")],
        [
            sys.executable,
            "-P",  # nothing that lies where the user is becomes part of the daemon
            "-m",
            "tertuliad",
        ],
    )
