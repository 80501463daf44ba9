"""The command `tertuliad` itself: what it takes, and what it says where it takes it not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.daemon_process import SDK_FLAGS, TERTULIAD, DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, said


def shell(before: str, behind: str = "") -> list[str]:
    """The daemon, started as somebody else by a shell."""
    return ["sh", "-c", f'{before} exec "$0" "$@" {behind}', str(TERTULIAD)]


IN_A_FOLDER_THAT_IS_GONE = shell("mkdir gone && cd gone && rmdir ../gone &&")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--nonexistent-flag-for-testing",), "--nonexistent-flag-for-testing"),
        ((*SDK_FLAGS, "--stdio", "--nonexistent-flag-for-testing"), "nonexistent"),
        (("--port", "70000"), "65535"),
        (("--port", "many"), "--port"),
        (("--log-level", "loud"), "loud"),
        (("--max-body", "1"), "--max-body"),
    ],
)
def test_a_flag_that_is_off_ends_it_and_is_named(
    home: Path, args: tuple[str, ...], word: str
) -> None:
    with DaemonProcess(home, *args) as daemon:
        assert daemon.wait() != 0
        assert word in daemon.stderr
        assert "Traceback" not in daemon.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--log-level", "none"),
        ("--log-level", "all", "--auth-token-env", "COPILOT_SDK_AUTH_TOKEN"),
        ("--session-idle-timeout", "30", "--remote", "--yolo"),
        ("--server",),
    ],
)
def test_the_flags_of_the_sdks_are_taken(home: Path, flags: tuple[str, ...]) -> None:
    with stdio_daemon(home, *flags) as daemon:
        result = daemon.wire.call("connect")
        assert (result["ok"], result["protocolVersion"]) == (True, 3)
        assert isinstance(result["version"], str)


def test_a_configuration_that_is_wrong_is_explained_in_a_line(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[providers.mine\n")
    with DaemonProcess(home, "--port", "0") as daemon:
        assert daemon.wait() == 1
        assert "config.toml" in daemon.stderr
        assert "Traceback" not in daemon.stderr


def test_without_a_model_the_daemon_starts_and_says_what_is_missing(home: Path) -> None:
    with stdio_daemon(home) as daemon:
        error = daemon.wire.refused("session.create", model="no/such-model")
        assert error.data["kind"] == "model_unavailable"
        assert "provider" in error.message


@pytest.mark.parametrize("variable", ["TERTULIA_HOME", "COPILOT_HOME"])
def test_the_data_folder_is_where_the_environment_says(
    home: Path, tmp_path: Path, variable: str
) -> None:
    other = tmp_path / "elsewhere"
    env = {"TERTULIA_HOME": "", variable: str(other)}
    with stdio_daemon(home, env=env) as daemon:
        daemon.wire.call("session.list")
    assert other.is_dir()
    assert list(home.iterdir()) == []


def test_a_daemon_works_on_where_its_folder_was_removed(home: Path) -> None:
    with stdio_daemon(home, program=IN_A_FOLDER_THAT_IS_GONE) as daemon:
        session = daemon.wire.create({"type": "openai", "baseUrl": "http://127.0.0.1:9/v1"})
        found = daemon.wire.call("session.metadata.snapshot", sessionId=session)
        assert found["workingDirectory"] == os.sep


def test_a_home_in_a_folder_that_was_removed_is_refused_in_words(home: Path) -> None:
    there = {"TERTULIA_HOME": "in/here"}
    with DaemonProcess(home, env=there, program=IN_A_FOLDER_THAT_IS_GONE) as daemon:
        assert daemon.wait() == 2
        assert "'in/here'" in daemon.stderr
        assert "--home" in daemon.stderr
        assert "Traceback" not in daemon.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_a_daemon_whose_client_has_closed_a_stream_ends_cleanly(home: Path, closed: str) -> None:
    program = shell("", closed)
    with DaemonProcess(home, "--stdio", stdin=subprocess.PIPE, program=program) as daemon:
        assert daemon.process.stdin is not None
        daemon.process.stdin.close()
        assert daemon.wait() == 0
        assert daemon.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_other_file_gets_the_place_of_a_closed_standard_error(home: Path) -> None:
    with stdio_daemon(home, program=shell("", "2>&-")) as daemon:
        daemon.wire.create({"type": "openai", "baseUrl": "http://127.0.0.1:9/v1"})
        assert os.readlink(f"/proc/{daemon.pid}/fd/2") == os.devnull
        daemon.wire.close()
        assert daemon.wait() == 0


@pytest.mark.parametrize("told", ["on the line", "in the file"])
def test_an_idle_session_leaves_memory_after_the_time_that_the_daemon_was_told(
    home: Path, model: ModelThread, told: str
) -> None:
    options = ["--log-level", "debug"]
    if told == "on the line":
        options += ["--session-idle-timeout", "0.05"]
    else:
        home.mkdir()
        (home / "config.toml").write_text("session_idle_timeout = 0.05\n")
    with stdio_daemon(home, *options) as daemon:
        session = daemon.wire.create(model.provider())
        given_up = time.monotonic() + BOUND_S
        while f"{session} left memory" not in daemon.stderr:
            daemon.wire.call("ping")
            assert time.monotonic() < given_up
        assert said(daemon.wire.turn(session, "[[say:back again]]")) == ["back again"]
