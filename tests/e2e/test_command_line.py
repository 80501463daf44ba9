"""The command `tertuliad` itself: what it takes, and what it says where it takes it not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon_process import SDK_FLAGS, DaemonProcess, stdio_daemon


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
