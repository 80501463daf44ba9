"""Homes of any name, under any umask; and those that cannot be, which is said in a line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.daemon_process import TERTULIAD, DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import said

NO_TEXT = os.fsdecode(b"caf\xe9")
"""As a folder's name: bytes that are no UTF-8."""
NOBODY = "~nobody-has-this-name/home"


def masked(umask: str) -> tuple[str, ...]:
    return ("sh", "-c", f'umask {umask}; exec "$@"', "sh", str(TERTULIAD))


@pytest.mark.parametrize("umask", ["000", "022", "277", "777"])
def test_whatever_the_umask_what_is_made_is_its_users_alone(
    home: Path, model: ModelThread, umask: str
) -> None:
    made = home / "a"
    flags = ("--home", str(made / "b" / "home"), "--socket", str(made / "run" / "s"), "--port", "0")
    with stdio_daemon(home, *flags, program=masked(umask)) as daemon:
        session = daemon.wire.create(model.provider())
        assert said(daemon.wire.turn(session, "[[say:x]]")) == ["x"]
        modes = {path: os.lstat(path).st_mode for path in (made, *made.rglob("*"))}
    assert {"sessions.db", "sessions.db-wal", "s", "run"} <= {path.name for path in modes}
    assert any(path.suffix == ".token" for path in modes)
    for path, mode in modes.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path


@pytest.mark.parametrize("name", ["two words", "ni\u00f1o \u65e5", "two\nlines", NO_TEXT])
def test_a_home_may_have_any_name(tmp_path: Path, model: ModelThread, name: str) -> None:
    path = tmp_path / name / "s"
    with DaemonProcess(tmp_path / name, "--socket", str(path), "--port", "0") as daemon:
        assert daemon.process.stdout is not None
        told = b""
        while b"(the token is in " not in told or not told.endswith(b".token)\n"):
            told += daemon.process.stdout.read(1)
        assert told.startswith(b"tertuliad listening on " + os.fsencode(path) + b"\n")
        wire = daemon.connect_unix(path)
        session = wire.create(model.provider())
        assert said(wire.turn(session, "[[say:here]]")) == ["here"]


@pytest.mark.parametrize("flags", [("--port", "0"), ("--socket", "nowhere/s")])
def test_a_home_that_cannot_be_made_ends_the_start_with_a_reason(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "nowhere").symlink_to("elsewhere")
    with DaemonProcess(tmp_path, "--home", "nowhere", *flags) as daemon:
        assert daemon.wait() == 1
        (line,) = daemon.stderr.splitlines()
        assert "nowhere" in line
        assert "--home" in line


def test_a_refusal_with_a_name_that_is_no_text_is_answered(tmp_path: Path) -> None:
    (tmp_path / NO_TEXT).symlink_to("elsewhere")
    with stdio_daemon(tmp_path / "x", "--home", str(tmp_path / NO_TEXT)) as daemon:
        refused = daemon.wire.refused("session.create", model="m", provider={"type": "openai"})
        assert refused.data["kind"] in ("store_failed", "invalid_params")
        assert daemon.wire.refused("session.getLastId").data["kind"] == "store_failed"


def test_the_home_of_a_user_whom_nobody_knows_is_not_made_here(home: Path) -> None:
    with DaemonProcess(home, "--home", NOBODY) as daemon:
        assert daemon.wait() == 2
        assert f"The folder {NOBODY} cannot be found" in daemon.stderr
    assert list(home.iterdir()) == []


def test_settings_that_come_after_the_start_are_for_the_next_one(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        assert daemon.wire.call("ping")["message"] == "pong"
        (home / "config.toml").write_text("this is = = no TOML")
        assert daemon.wire.create(model.provider())
