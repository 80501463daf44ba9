"""A disk that is full, a folder that cannot be used, a damaged database: the error says what is
wrong, nothing that was acknowledged is lost, and the daemon serves what it can."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import unprivileged
from tests.support.daemon_process import TERTULIAD, DaemonProcess, stdio_daemon
from tests.support.damaged_home import (
    DATABASE,
    PAGE,
    change,
    copy,
    cut,
    filled,
    garbage,
    overwrite,
)
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Event, Wire, WireError, said, types


@contextlib.contextmanager
def full_disk(daemon: DaemonProcess) -> Iterator[None]:
    """No file of the daemon's can grow any more."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, unlimited)


@pytest.fixture
def bound(tmp_path: Path) -> Sequence[str]:
    """The daemon's command, bound by the rights of files, as everybody but root is."""
    if not unprivileged.is_bound(tmp_path):
        pytest.skip("this user may write to every folder, and cannot give that right up")
    return (*unprivileged.PROGRAM, str(TERTULIAD))


@contextlib.contextmanager
def only_read(home: Path) -> Iterator[None]:
    """Nothing in the folder may be written to."""
    rights = {path: path.stat().st_mode for path in (home, *home.rglob("*"))}
    for path in rights:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        for path, mode in rights.items():
            path.chmod(mode)


def contents(home: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(home)): path.read_bytes() if path.is_file() else None
        for path in home.rglob("*")
    }


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
        wire.call("session.send", sessionId=session, prompt="[[fake-held-n2]]")
        model.until_active(1)
        with full_disk(daemon):
            model.release()
            wire.event(session, "session.idle")
            error = wire.event(session, "session.error")
            assert error["data"]["errorType"] == "store"
        wire.call("session.send", sessionId=session, prompt="[[say:on we go]]", wait=True)
        log = wire.history(session)
        assert said(log) == ["on we go"]
        assert types(log).count("assistant.turn_end") == 2
        errors = [e["data"]["errorType"] for e in log if e["type"] == "session.error"]
        assert errors == ["turn_lost"]


def test_a_folder_that_may_only_be_read_is_named(home: Path, bound: Sequence[str]) -> None:
    home.mkdir()
    with only_read(home), stdio_daemon(home, program=bound) as daemon:
        error = daemon.wire.refused("session.create", sessionId="s")
        assert error.data["kind"] == "store_failed"
        assert "data folder" in error.message
        assert daemon.wire.call("ping", message="x")["message"]
        end(daemon)
    assert list(home.iterdir()) == []


def test_a_home_that_may_only_be_read_is_refused_with_advice_and_left_as_it_is(
    sound: Path, home: Path, bound: Sequence[str]
) -> None:
    copy(sound, home)
    (home / "run").mkdir(exist_ok=True)
    whole = contents(home)
    with only_read(home), stdio_daemon(home, program=bound) as daemon:
        for method, params in (
            ("session.list", {}),
            ("session.resume", {"sessionId": "one"}),
            ("session.create", {"sessionId": "new"}),
        ):
            error = daemon.wire.refused(method, **params)
            assert error.data["kind"] == "store_failed"
            assert "can be written" in error.message
        assert daemon.wire.call("ping", message="x")["message"]
        end(daemon)
    assert contents(home) == whole


def test_rights_that_are_taken_while_the_daemon_runs_lose_nothing(
    home: Path, bound: Sequence[str], model: ModelThread
) -> None:
    with stdio_daemon(home, program=bound) as daemon:
        wire = daemon.wire
        session = wire.create(model.provider())
        wire.turn(session, "[[say:before]]")
        log = wire.history(session)
        with only_read(home):
            assert wire.history(session) == log
            assert said(wire.turn(session, "[[say:on]]")) == ["on"], "its files are open"
            daemon.kill()
    with stdio_daemon(home) as daemon:
        daemon.wire.call("session.resume", sessionId=session, disableResume=True)
        assert said(daemon.wire.history(session)) == ["before", "on"]


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


# Damaged files


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("sound") / "home")


@pytest.fixture(scope="module")
def before(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Event]]:
    """What a daemon tells of each session while nothing is damaged."""
    with stdio_daemon(copy(sound, tmp_path_factory.mktemp("whole") / "home")) as daemon:
        listed = [row["sessionId"] for row in daemon.wire.call("session.list")["sessions"]]
        return {name: told(daemon.wire, name) for name in listed}


def told(wire: Wire, session: str) -> list[Event]:
    """The session's stored events, without those of being resumed."""
    wire.call("session.resume", sessionId=session, provider={"baseUrl": "http://127.0.0.1:9"})
    return [event for event in wire.history(session) if event["type"] != "session.resume"]


def refusals(wire: Wire, before: dict[str, list[Event]]) -> dict[str, str]:
    """Ask for every session: those that are told are whole, the others are refused with words that
    help, by session."""
    refused: dict[str, str] = {}
    for name, log in before.items():
        try:
            shown = told(wire, name)
        except WireError as error:
            refused[name] = f"{error.data['kind']}: {error.message}"
        else:
            assert shown == log, "a part of a log was told as if it were all of it"
    for words in refused.values():
        assert words.startswith("store_failed: "), words
        assert "doctor" in words, words
    assert wire.call("ping", message="x")["message"], "the daemon lives"
    return refused


def end(daemon: DaemonProcess) -> None:
    """Let it end, and look at what it has said."""
    assert daemon.process.stdin is not None
    daemon.process.stdin.close()
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.stderr


def doctored(home: Path, *args: str) -> int:
    command = [sys.executable, "-m", "tertuliad.doctor", "--home", str(home), *args]
    return subprocess.run(command, capture_output=True, timeout=BOUND_S, check=False).returncode


def served_after_repair(home: Path, model: ModelThread) -> int:
    """Repair, and have a turn in every session that is left; how many there are."""
    home.chmod(0o700)
    assert doctored(home, "--repair") == 0
    assert doctored(home) == 0
    with stdio_daemon(home) as daemon:
        listed = [row["sessionId"] for row in daemon.wire.call("session.list")["sessions"]]
        for name in listed:
            daemon.wire.call("session.resume", sessionId=name, provider=model.provider())
            assert said(daemon.wire.turn(name, f"[[say:on in {name}]]")) == [f"on in {name}"]
            assert daemon.wire.call("sessions.search", text=f"on in {name}")["hits"]
    return len(listed)


@pytest.mark.parametrize("size", [2, 100, 4095, 4097, 20_480, 0.5, 0.9, -4096])
def test_a_cut_database_is_refused_and_left_as_it_is(
    sound: Path, before: dict[str, list[Event]], home: Path, model: ModelThread, size: float
) -> None:
    file = copy(sound, home) / DATABASE
    whole = file.stat().st_size
    cut(file, int(size if size >= 1 else size * whole if size > 0 else whole + size))
    data = file.read_bytes()
    with stdio_daemon(home) as daemon:
        assert refusals(daemon.wire, before).keys() == before.keys()
        error = daemon.wire.refused("session.create", sessionId="new")
        assert "doctor" in error.message
        end(daemon)
    assert file.read_bytes() == data
    assert doctored(home) == 1
    served_after_repair(home, model)


@pytest.mark.parametrize("share", [0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("what", ["zeros", "garbage"])
def test_a_page_that_was_overwritten_takes_nobody_else_along(
    sound: Path,
    before: dict[str, list[Event]],
    home: Path,
    model: ModelThread,
    share: float,
    what: str,
) -> None:
    file = copy(sound, home) / DATABASE
    page = int(share * file.stat().st_size) // PAGE
    overwrite(file, page * PAGE, bytes(PAGE) if what == "zeros" else garbage(PAGE))
    with stdio_daemon(home) as daemon:
        refused = refusals(daemon.wire, before)
        end(daemon)
    assert not refused or doctored(home) == 1
    assert served_after_repair(home, model) >= len(before) - 2


def test_the_damage_of_one_log_stops_no_other_session_and_no_search(
    sound: Path, before: dict[str, list[Event]], home: Path, model: ModelThread
) -> None:
    copy(sound, home)
    log = "(SELECT segment << 31 FROM sessions WHERE id = 'three')"
    change(
        home,
        f"UPDATE events SET body = x'7b22ff' WHERE id = {log} + 9",
        "INSERT INTO said (said) VALUES ('delete-all')",
        "UPDATE segments SET indexed = 0",
    )
    with stdio_daemon(home) as daemon:
        wire = daemon.wire
        assert refusals(wire, before).keys() == {"three"}
        wire.call("session.resume", sessionId="one", provider=model.provider())
        assert said(wire.turn("one", "[[say:a word that is found]]")) == ["a word that is found"]
        hits = wire.call("sessions.search", text="a word that is found")["hits"]
        assert {hit["session"]["sessionId"] for hit in hits} == {"one"}
        assert len(wire.call("session.list")["sessions"]) == len(before)
        end(daemon)


def header(pragma: str) -> Callable[[Path], None]:
    def change_it(home: Path) -> None:
        with contextlib.closing(sqlite3.connect(home / DATABASE)) as db:
            db.execute(pragma)

    return change_it


def someone_elses(home: Path) -> None:
    (home / DATABASE).unlink()
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as db:
        db.execute("CREATE TABLE recipes (title TEXT)")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (header("PRAGMA user_version = 99"), "newer version"),
        (header("PRAGMA application_id = 7"), "something else"),
        (someone_elses, "something else"),
    ],
    ids=["newer", "other program's", "other tables"],
)
def test_a_database_that_is_not_for_this_version_is_left_as_it_is(
    sound: Path, home: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(copy(sound, home))
    data = (home / DATABASE).read_bytes()
    with stdio_daemon(home) as daemon:
        for method in ("session.list", "session.create"):
            error = daemon.wire.refused(method)
            assert error.data["kind"] == "store_failed"
            assert words in error.message
            assert "Nothing was changed" in error.message
        end(daemon)
    assert (home / DATABASE).read_bytes() == data
    assert doctored(home) == 2


def test_a_write_ahead_log_without_its_database_is_kept_and_brought_back(
    home: Path, model: ModelThread
) -> None:
    filled(home, cleanly=False)
    (home / DATABASE).unlink()
    data = (home / f"{DATABASE}-wal").read_bytes()
    with stdio_daemon(home) as daemon:
        error = daemon.wire.refused("session.list")
        assert error.data["kind"] == "store_failed"
        assert "doctor" in error.message
        end(daemon)
    assert (home / f"{DATABASE}-wal").read_bytes() == data
    assert not (home / DATABASE).exists()
    assert doctored(home) == 1
    served_after_repair(home, model)


def test_a_database_that_is_taken_away_while_the_daemon_runs_takes_no_more_messages(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        wire = daemon.wire
        session = wire.create(model.provider())
        wire.turn(session, "[[say:before]]")
        log = wire.history(session)
        (home / DATABASE).rename(home / "away.db")
        message = refused_write(wire, session)
        assert "removed" in message
        assert "doctor" in message
        assert wire.history(session) == log, "what is there can be read"
        (home / DATABASE).write_bytes(b"")
        assert "replaced" in refused_write(wire, session)
        (home / "away.db").rename(home / DATABASE)
        assert said(wire.turn(session, "[[say:after]]")) == ["after"]
        end(daemon)
    assert doctored(home) in (0, 1)


def test_an_empty_file_is_a_new_home(home: Path) -> None:
    home.mkdir()
    (home / DATABASE).touch()
    with stdio_daemon(home) as daemon:
        assert daemon.wire.call("session.list")["sessions"] == []
        assert daemon.wire.call("session.create", sessionId="s")["sessionId"] == "s"
        end(daemon)
