"""A disk that is full, a folder that cannot be used, a damaged database: the error says what is
wrong, nothing that was acknowledged is lost, and the daemon serves what it can."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire, said, types

DATABASE = "sessions.db"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def model() -> Iterator[ModelThread]:
    with ModelThread() as model:
        yield model


@contextlib.contextmanager
def full_disk(daemon: DaemonProcess) -> Iterator[None]:
    """No file of the daemon's can grow any more."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, unlimited)


def refused_write(wire: Wire, session: str) -> str:
    """The words that refuse a message which cannot be stored."""
    error = wire.refused("session.send", sessionId=session, prompt="[[say:never]]")
    assert error.data["kind"] == "store_failed", error.data
    return error.message


def test_a_full_disk_refuses_messages_and_keeps_all_that_was_acknowledged(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        wire = daemon.wire
        session = wire.create(model.provider())
        wire.turn(session, "[[say:before]]")
        before = wire.history(session)
        with full_disk(daemon):
            assert "store" in refused_write(wire, session)
            assert wire.history(session) == before, "what is there can be read"
            assert len(wire.call("session.list")["sessions"]) == 1
        assert said(wire.turn(session, "[[say:after]]")) == ["after"]
        after = wire.history(session)
        assert after[: len(before)] == before
        assert said(after) == ["before", "after"]


def test_a_turn_whose_end_cannot_be_stored_ends_for_those_who_watch(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        wire = daemon.wire
        session = wire.create(model.provider(), streaming=True)
        wire.call("session.send", sessionId=session, prompt="[[fake-slowstart700-n2]]")
        model.until_active(1)
        with full_disk(daemon):
            wire.event(session, "session.idle")
            error = wire.event(session, "session.error")
            assert error["data"]["errorType"] == "store"
        wire.call("session.send", sessionId=session, prompt="[[say:on we go]]", wait=True)
        log = wire.history(session)
        assert said(log) == ["on we go"]
        assert types(log).count("assistant.turn_end") == 2
        errors = [e["data"]["errorType"] for e in log if e["type"] == "session.error"]
        assert errors == ["interrupted"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_that_may_only_be_read_is_named(home: Path) -> None:
    home.mkdir()
    home.chmod(0o500)
    try:
        with stdio_daemon(home) as daemon:
            error = daemon.wire.refused("session.create", sessionId="s")
            assert error.data["kind"] == "store_failed"
            assert "data folder" in error.message
            assert daemon.wire.call("ping", message="x")["message"]
    finally:
        home.chmod(0o700)


def test_a_database_that_cannot_be_opened_is_told_and_the_daemon_lives(home: Path) -> None:
    (home / DATABASE).mkdir(parents=True)
    with stdio_daemon(home) as daemon:
        for _ in range(2):
            error = daemon.wire.refused("session.create", sessionId="s")
            assert error.data["kind"] == "store_failed"
            assert "data folder" in error.message
        assert daemon.wire.call("ping", message="x")["message"]
        (home / DATABASE).rmdir()
        assert daemon.wire.call("session.create", sessionId="s")["sessionId"] == "s"


def test_a_file_that_is_no_database_is_left_as_it_is(home: Path) -> None:
    home.mkdir()
    (home / DATABASE).write_bytes(b"something of somebody's\n" * 400)
    with stdio_daemon(home) as daemon:
        error = daemon.wire.refused("session.list")
        assert error.data["kind"] == "store_failed"
        assert "damaged" in error.message
        assert daemon.wire.call("ping", message="x")["message"]
    assert (home / DATABASE).read_bytes() == b"something of somebody's\n" * 400


def test_a_truncated_database_is_told_and_what_can_be_read_is_served(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        sessions = [daemon.wire.create(model.provider()) for _ in range(5)]
        for session in sessions:
            daemon.wire.turn(session, f"[[say:of {session}]] " + "padding " * 4000)
        daemon.wire.call("runtime.shutdown")
        daemon.process.stdin.close()  # type: ignore[union-attr]
        daemon.wait()
    file = home / DATABASE
    os.truncate(file, file.stat().st_size // 2)
    for rest in home.glob(f"{DATABASE}-*"):
        rest.unlink()
    with stdio_daemon(home) as daemon:
        told = 0
        for session in sessions:
            answer = daemon.wire.answer(
                daemon.wire.ask(
                    "session.resume", {"sessionId": session, "provider": model.provider()}
                )
            )
            if "error" in answer:
                told += 1
                assert answer["error"]["data"]["kind"] in ("store_failed", "session_not_found")
                assert "Traceback" not in answer["error"]["message"]
        assert told, "half of the file is gone, and nobody noticed"
        assert daemon.wire.call("ping", message="x")["message"]
