"""The doctor over homes that real daemons have filled, and that real bytes have damaged: it finds
what is wrong, repairs without destroying what might be read, and finds nothing afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tertuliad import limits
from tertuliad.doctor import command, examination, files
from tertuliad.doctor.examination import CannotCheck, examine
from tertuliad.doctor.findings import KINDS, Finding, counted
from tertuliad.doctor.repair import repair
from tertuliad.store import logs as store_logs
from tertuliad.store import pages, sqlite
from tertuliad.store.hold import Hold
from tertuliad.store.schema import open_database
from tests.support import unprivileged
from tests.support.daemon_process import environment, stdio_daemon, tcp_daemon
from tests.support.damaged_home import (
    DATABASE,
    PAGE,
    change,
    copy,
    cut,
    filled,
    garbage,
    logs,
    overwrite,
)
from tests.support.model_thread import ModelThread
from tests.support.store_alone import log_of
from tests.support.wire import BOUND_S, said


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose daemon ended well, with its index up to date."""
    home = filled(tmp_path_factory.mktemp("sound") / "home")
    assert repair(home, lambda _: None).findings == []
    return home


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose daemon was killed: much of it is in the write-ahead log."""
    home = filled(tmp_path_factory.mktemp("killed") / "home", cleanly=False)
    assert (home / f"{DATABASE}-wal").stat().st_size
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    return copy(sound, tmp_path / "home")


def doctor(home: Path, *args: str, program: Sequence[str] = ()) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of the command as a process."""
    done = subprocess.run(
        [*program, sys.executable, "-m", "tertuliad.doctor", "--home", str(home), *args],
        env=environment(home.parent / "elsewhere"),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def kinds(home: Path) -> list[str]:
    return [found.kind for found in examine(home).findings]


def repaired(home: Path) -> list[str]:
    """What a repair has done; it leaves nothing to be found."""
    done: list[str] = []
    assert repair(home, done.append).findings == []
    assert examine(home).findings == []
    return done


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# A sound home


def test_a_sound_home_has_no_findings_and_a_look_changes_nothing(home: Path) -> None:
    before, there = (home / DATABASE).read_bytes(), names(home)
    status, out, err = doctor(home)
    assert (status, err) == (0, "")
    assert out == f"{home}: no fault, 5 sessions looked into.\n"
    assert (home / DATABASE).read_bytes() == before
    assert names(home) == there


def test_a_look_at_what_a_kill_has_left_changes_nothing(killed: Path, tmp_path: Path) -> None:
    home = copy(killed, tmp_path / "home")
    before = {path.name: path.read_bytes() for path in files.database_files(home)}
    assert set(kinds(home)) <= {"index_behind", "dead_file"}
    for part in ("", "-wal"):
        assert (home / (DATABASE + part)).read_bytes() == before[DATABASE + part]


def test_what_is_lost_with_a_damaged_log_is_told_and_copied_aside(
    killed: Path, tmp_path: Path
) -> None:
    home = copy(killed, tmp_path / "home")
    log = home / f"{DATABASE}-wal"
    data = bytearray(log.read_bytes())
    place = 32 + 20 * (24 + PAGE) + 100
    data[place : place + 200] = bytes(byte ^ 0xFF for byte in data[place : place + 200])
    log.write_bytes(data)
    assert "changes_lost" in kinds(home)
    assert log.read_bytes() == data
    status, out, _ = doctor(home, "--repair")
    assert "copied to set-aside/" in out
    (aside,) = (home / "set-aside").iterdir()
    assert (aside / f"{DATABASE}-wal").read_bytes() == data
    assert "changes_lost" not in kinds(home)
    assert status == 0


def test_what_a_commit_that_was_cut_has_left_is_no_loss(killed: Path, tmp_path: Path) -> None:
    home = copy(killed, tmp_path / "home")
    log = home / f"{DATABASE}-wal"
    data = log.read_bytes()
    with log.open("rb") as wal:
        end = pages._committed(wal)[3]
    cut_short = (7).to_bytes(4, "big") + bytes(4) + data[16:24] + bytes(8 + PAGE)
    log.write_bytes(data[:end] + 3 * cut_short + data[end + 3 * len(cut_short) :])
    assert "changes_lost" not in kinds(home)


def test_a_home_that_was_never_used_is_sound(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").touch(0o600)
    assert doctor(home)[0] == 0
    assert names(home) == {"config.toml"}
    (home / DATABASE).touch(0o600)
    assert kinds(home) == ["database_empty"]
    change_header(home, "PRAGMA journal_mode = WAL")
    assert kinds(home) == ["database_empty"]
    assert doctor(home)[0] == 0


def test_a_look_beside_a_running_turn_finds_no_fault_and_a_repair_is_refused(home: Path) -> None:
    with ModelThread() as model, stdio_daemon(home) as daemon:
        session = daemon.wire.create(model.provider())
        daemon.wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        model.until_active(1)
        status, out, _ = doctor(home)
        assert status == 0, out
        assert "turn_left_open" not in out
        before = logs(home)
        status, out, err = doctor(home, "--repair")
        assert (status, out) == (2, "")
        assert "A daemon works on" in err
        assert logs(home) == before
        daemon.wire.call("session.abort", sessionId=session)
        daemon.wire.event(session, "session.idle")
        assert said(daemon.wire.turn(session, "[[say:on]]")) == ["on"]


def test_a_daemon_without_a_turn_keeps_a_repair_away_too(home: Path) -> None:
    with stdio_daemon(home) as daemon:
        daemon.wire.call("session.list")
        with pytest.raises(CannotCheck, match="A daemon works"):
            repair(home, print)
    assert repair(home, print).findings == []


def test_a_daemon_that_only_listens_keeps_a_repair_away_too(home: Path) -> None:
    with tcp_daemon(home, token=None):
        assert kinds(home) == []
        with pytest.raises(CannotCheck, match="A daemon works"):
            repair(home, print)


def test_a_daemon_waits_for_the_end_of_a_repair(home: Path) -> None:
    hold = Hold(home)
    assert hold.take_alone()
    with stdio_daemon(home) as daemon:
        error = daemon.wire.refused("session.list")
        assert error.data["kind"] == "store_failed"
        assert "doctor" in error.message
        hold.release()
        assert len(daemon.wire.call("session.list")["sessions"]) == 5


def test_a_daemon_waits_while_somebody_looks_at_its_home(home: Path) -> None:
    hold = Hold(home)
    assert hold.take_alone()
    with stdio_daemon(home, bounds={"LOOKED_AT_S": BOUND_S}) as daemon:
        listing = daemon.wire.ask("session.list")
        daemon.wire.call("ping")
        hold.release()
        assert len(daemon.wire.answer(listing)["result"]["sessions"]) == 5


def test_a_look_at_a_long_log_keeps_no_daemon_from_its_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(database: Path) -> int:
        hold = Hold(home)
        hold.take()
        hold.release()
        return 3

    monkeypatch.setattr(examination, "lost_commits", looked)
    assert "changes_lost" in kinds(home)


def test_nobody_tidies_up_what_somebody_looks_at(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another doctor does when it has looked."""
    alone: list[bool] = []
    real = examination._of_database

    def looked(home: Path) -> tuple[list[Finding], int]:
        hold = Hold(home)
        alone.append(hold.take_alone())
        hold.release()
        return real(home)

    monkeypatch.setattr(examination, "_of_database", looked)
    assert kinds(home) == []
    assert alone == [False]


def test_what_is_written_during_the_look_is_not_taken_for_damage(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(database: Path) -> int:
        log_of(home).write_bytes(b"by a daemon that came and went")
        return 3

    monkeypatch.setattr(examination, "lost_commits", looked)
    monkeypatch.setattr(examination, "_of_database", lambda _: ([], 0))
    assert "changes_lost" not in {found.kind for found in examination.examine(home).findings}


def test_a_turn_whose_process_was_killed_is_told_and_no_fault(home: Path) -> None:
    with ModelThread() as model, stdio_daemon(home) as daemon:
        session = daemon.wire.create(model.provider())
        daemon.wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        model.until_active(1)
        daemon.kill()
    assert "turn_left_open" in kinds(home)
    os.unlink(*(home / "run").glob("*.owner"))
    status, out, _ = doctor(home, "--json")
    assert status == 0
    found = {one["kind"]: one for one in json.loads(out)["findings"]}
    assert found["turn_left_open"]["session"] == session
    assert found["turn_left_open"]["level"] == "note"


# What cannot be checked


def of_a_newer_version(home: Path) -> None:
    change_header(home, "PRAGMA user_version = 99")


def of_something_else(home: Path) -> None:
    change_header(home, "PRAGMA application_id = 7")


def a_folder(home: Path) -> None:
    (home / DATABASE).unlink()
    (home / DATABASE).mkdir()


def no_home(home: Path) -> None:
    shutil.rmtree(home)


def change_header(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / DATABASE)) as db:
        db.executescript(statement)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_a_newer_version, "newer version"),
        (of_something_else, "something else"),
        (a_folder, "is a folder"),
        (no_home, "no folder"),
    ],
)
@pytest.mark.parametrize("args", [(), ("--repair",)])
def test_what_cannot_be_checked_is_told_and_left(
    home: Path, spoil: Callable[[Path], None], words: str, args: tuple[str, ...]
) -> None:
    spoil(home)
    file = home / DATABASE
    before = file.read_bytes() if file.is_file() else None
    status, out, err = doctor(home, *args)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    if before is not None:
        assert file.read_bytes() == before
        assert not (home / files.SET_ASIDE).exists()


@pytest.mark.parametrize("args", [(), ("--repair",)])
@pytest.mark.parametrize("there", ["", "letter.txt", "run/other.pid", "log/run.owner"])
def test_a_folder_that_is_no_home_is_told_and_keeps_its_rights(
    tmp_path: Path, there: str, args: tuple[str, ...]
) -> None:
    folder = tmp_path / "folder"
    (folder / there).parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if there:
        (folder / there).touch()
    tree = [folder, *folder.rglob("*")]
    for path in tree:
        path.chmod(0o755)
    status, out, err = doctor(folder, *args)
    assert (status, out) == (2, "")
    assert err == f"No sessions are kept in {folder}. Name the right one with --home.\n"
    assert [folder, *folder.rglob("*")] == tree
    assert {path.stat().st_mode & 0o777 for path in tree} == {0o755}


@pytest.mark.parametrize(
    "left",
    [
        "config.toml",
        "sessions.db",
        "sessions.db-wal",
        "sessions.db-shm",
        "sessions.db-journal",
        "sessions.db.new",
        "run/tertuliad.sock.lock",
        "run/tcp-1.token",
        "run/0123.owner",
        "set-aside/20260101T000000.000000Z-log-damaged/sessions.db",
    ],
)
def test_a_home_that_has_lost_all_but_one_file_is_repaired(tmp_path: Path, left: str) -> None:
    home = tmp_path / "home"
    (home / left).parent.mkdir(parents=True)
    (home / left).touch(0o600)
    home.chmod(0o777)
    assert "mode_too_open" in kinds(home)
    done: list[str] = []
    assert not repair(home, done.append).faults
    assert ". is closed to others now." in done
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_may_only_be_read_cannot_be_checked(home: Path, tmp_path: Path) -> None:
    if not unprivileged.is_bound(tmp_path):
        pytest.skip("this user may write to every folder, and cannot give that right up")
    home.chmod(0o500)
    try:
        status, out, err = doctor(home, program=unprivileged.PROGRAM)
    finally:
        home.chmod(0o700)
    assert (status, out) == (2, "")
    assert "right to write" in err


def test_a_dead_mark_in_a_folder_that_may_only_be_read_is_no_daemon(
    home: Path, tmp_path: Path
) -> None:
    if not unprivileged.is_bound(tmp_path):
        pytest.skip("this user may write to every folder, and cannot give that right up")
    dead_owner(home)
    (home / "run" / "0123.owner").chmod(0o400)
    home.chmod(0o500)
    try:
        status, out, err = doctor(home, "--repair", program=unprivileged.PROGRAM)
    finally:
        home.chmod(0o700)
    assert (status, out) == (2, "")
    assert "daemon works" not in err
    assert "right to write" in err


def test_a_mark_that_cannot_be_looked_at_is_told_and_nothing_is_repaired(home: Path) -> None:
    (home / "run" / "0123.owner").symlink_to("0123.owner")
    status, out, err = doctor(home, "--repair")
    assert (status, out) == (2, "")
    assert "cannot be told" in err
    assert "0123.owner" in err


# Each kind of finding, by its damage

OWN = "(SELECT segment << 31 FROM sessions WHERE id = 'three')"


def dead_owner(home: Path) -> None:
    (home / "run" / "0123.owner").touch(0o600)


def dead_socket(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        old = os.umask(0o177)
        bound.bind(str(home / "run" / "x.sock"))
        os.umask(old)


def dead_token(home: Path) -> None:
    (home / "run" / "tcp-1.token").touch(0o600)


def cut_repair(home: Path) -> None:
    (home / files.FRESH).touch(0o600)


def no_database(home: Path) -> None:
    (home / f"{DATABASE}-wal").write_bytes(b"what a log may have")
    (home / f"{DATABASE}-wal").chmod(0o600)
    (home / DATABASE).unlink()


def lost_words(home: Path) -> None:
    change(home, "DELETE FROM said_docsize WHERE id = (SELECT min(id) FROM said_docsize)")


def unused_space(home: Path) -> None:
    change(home, f"CREATE TABLE much AS SELECT zeroblob({limits.UNUSED_BYTES})", "DROP TABLE much")


def out_of_the_schema(home: Path, *gone: str) -> None:
    """As if its row on the first page were damaged."""
    with closing(sqlite3.connect(home / DATABASE)) as db:
        db.execute("PRAGMA writable_schema = ON")
        for name in gone:
            assert db.execute("DELETE FROM sqlite_schema WHERE name = ?", (name,)).rowcount
        db.commit()


def a_journal(home: Path) -> None:
    (home / files.JOURNAL).touch(0o600)
    (home / files.JOURNAL).write_bytes(garbage(3000))


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no database at all": ("database_damaged", lambda h: overwrite(h / DATABASE, 0, garbage(99))),
    "only its log": ("database_missing", no_database),
    "a cut file": ("database_damaged", lambda h: cut(h / DATABASE, 5 * PAGE + 77)),
    "no format": ("database_damaged", lambda h: change_header(h, "PRAGMA user_version = 0")),
    "a format that never was": (
        "database_damaged",
        lambda h: change_header(h, "PRAGMA user_version = -7"),
    ),
    "no index at all": ("database_damaged", lambda h: change_header(h, "DROP TABLE said")),
    "half an index": ("database_damaged", lambda h: out_of_the_schema(h, "said_data")),
    "an index without its view": (
        "database_damaged",
        lambda h: change_header(h, "DROP VIEW spoken"),
    ),
    "a view of something else": (
        "database_damaged",
        lambda h: change_header(h, "DROP VIEW spoken; CREATE VIEW spoken AS SELECT 1 AS id"),
    ),
    "no snapshots": ("database_damaged", lambda h: change_header(h, "DROP TABLE snapshots")),
    "no events": ("database_damaged", lambda h: out_of_the_schema(h, "events")),
    "no segments": ("database_damaged", lambda h: out_of_the_schema(h, "segments")),
    "no sessions": ("database_damaged", lambda h: out_of_the_schema(h, "sessions")),
    "no numbers": ("database_damaged", lambda h: out_of_the_schema(h, "sqlite_sequence")),
    "a title": ("row_differs", lambda h: change(h, "UPDATE sessions SET title = 'other'")),
    "a title that is no text": (
        "row_differs",
        lambda h: change(h, "UPDATE sessions SET title = x'00', pending = 1.5"),
    ),
    "a parent": ("row_differs", lambda h: change(h, "UPDATE sessions SET parent = 'x'")),
    "a snapshot": (
        "snapshot_differs",
        lambda h: change(
            h,
            "UPDATE snapshots SET body = CAST(replace(CAST(body AS TEXT), 'fake', 'fakf') AS BLOB)",
        ),
    ),
    "a snapshot of half an event": (
        "snapshot_differs",
        lambda h: change(h, "UPDATE snapshots SET seq = seq - 0.5"),
    ),
    "an id that is none": (
        "id_unusable",
        lambda h: change(h, "UPDATE sessions SET id = '../../x y' WHERE id = 'three'"),
    ),
    "a segment too many": (
        "segment_orphaned",
        lambda h: change(h, "DELETE FROM sessions WHERE id = 'three'"),
    ),
    "a segment behind itself": (
        "database_damaged",
        lambda h: change(h, f"UPDATE segments SET parent = id WHERE id << 31 = {OWN}"),
    ),
    "a segment too far": (
        "database_damaged",
        lambda h: change(h, f"UPDATE segments SET id = 1 << 40 WHERE id << 31 = {OWN}"),
    ),
    "a next segment too far": (
        "database_damaged",
        lambda h: change(h, "UPDATE sqlite_sequence SET seq = 1 << 40 WHERE name = 'segments'"),
    ),
    "a segment too few": (
        "segment_unknown",
        lambda h: change(h, "DELETE FROM segments WHERE id << 31 = " + OWN),
    ),
    "a missing event": (
        "log_damaged",
        lambda h: change(h, f"DELETE FROM events WHERE id = {OWN} + 9"),
    ),
    "missing last events": (
        "log_damaged",
        lambda h: change(h, f"DELETE FROM events WHERE id > {OWN} + 9 AND id < {OWN} + 999"),
    ),
    "an event that is text": (
        "log_damaged",
        lambda h: change(h, f"UPDATE events SET body = 'text' WHERE id = {OWN} + 9"),
    ),
    "an event that is a number": (
        "log_damaged",
        lambda h: change(h, f"UPDATE events SET body = 12345 WHERE id = {OWN} + 9"),
    ),
    "an event of a type that is no text": (
        "log_damaged",
        lambda h: change(h, f"UPDATE events SET type = CAST(x'ff' AS TEXT) WHERE id = {OWN} + 9"),
    ),
    "an event that is no JSON": (
        "log_damaged",
        lambda h: change(h, f"UPDATE events SET body = x'7b' WHERE id = {OWN} + 9"),
    ),
    "no event at all": (
        "log_lost",
        lambda h: change(
            h,
            f"DELETE FROM events WHERE id > {OWN} AND id < {OWN} + 999",
            "UPDATE sessions SET head = 0 WHERE id = 'three'",
        ),
    ),
    "no first event": ("log_lost", lambda h: change(h, f"DELETE FROM events WHERE id = {OWN} + 1")),
    "an index without a message": ("index_damaged", lost_words),
    "an index that is broken": (
        "index_damaged",
        lambda h: change(h, "UPDATE said_data SET block = x'00ff00ff' WHERE id > 99"),
    ),
    "an index without its sums": (
        "index_damaged",
        lambda h: change(h, "DELETE FROM said_data WHERE id = 1"),
    ),
    "an index that is behind": (
        "index_behind",
        lambda h: change(
            h,
            "INSERT INTO said (said) VALUES ('delete-all')",
            "UPDATE segments SET indexed = 0",
        ),
    ),
    "a journal": ("journal_left", a_journal),
    "an owner's mark": ("dead_file", dead_owner),
    "a socket": ("dead_file", dead_socket),
    "a token": ("dead_file", dead_token),
    "a repair that was cut": ("dead_file", cut_repair),
    "a database for everybody": ("mode_too_open", lambda h: (h / DATABASE).chmod(0o644)),
    "a home for everybody": ("mode_too_open", lambda h: h.chmod(0o777)),
    "a home that others may look into": ("home_visible", lambda h: h.chmod(0o755)),
    "what was deleted": ("space_unused", unused_space),
}
LOSES = {"database_damaged", "database_missing", "journal_left", "log_damaged", "log_lost"}
LOSES |= {"id_unusable", "segment_orphaned", "segment_unknown"}


@pytest.mark.parametrize(("kind", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damage_is_found_and_repaired_and_not_found_again(
    home: Path, kind: str, damage: Callable[[Path], object]
) -> None:
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    damage(home)
    damaged = {path.name: path.read_bytes() for path in files.database_files(home)}
    assert kind in kinds(home)
    status, out, _ = doctor(home)
    assert status == (1 if KINDS[kind].level == "fault" else 0)
    assert kind in out
    assert repaired(home)
    aside = list((home / files.SET_ASIDE).glob("*")) if kind in LOSES else []
    assert len(aside) == (kind in LOSES)
    for folder in aside:
        assert kind.split("_")[0] in folder.name, "its name says why"
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert kept == {name: kept.get(name) for name in damaged}
        assert kept.get(DATABASE) == damaged.get(DATABASE)
        assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("body", ["12345", "'text'", "x'00'"])
def test_a_snapshot_that_is_none_is_passed_over(home: Path, body: str) -> None:
    change(home, f"UPDATE snapshots SET body = {body}")
    assert kinds(home) == []
    with ModelThread() as model, stdio_daemon(home) as daemon:
        daemon.wire.call("session.resume", sessionId="long", provider=model.provider())
        assert said(daemon.wire.turn("long", "[[say:on]]")) == ["on"]


def test_an_index_without_its_sums_is_made_anew_where_it_is_behind_too(home: Path) -> None:
    change(
        home,
        "INSERT INTO said (said) VALUES ('delete-all')",
        "UPDATE segments SET indexed = 0",
        "DELETE FROM said_data WHERE id = 1",
    )
    assert repaired(home)
    with stdio_daemon(home) as daemon:
        assert daemon.wire.call("sessions.search", text="padding")["hits"]


def test_what_is_being_removed_is_no_fault_and_does_not_come_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REMOVED_BYTES", limits.KIB)
    with closing(open_database(home / DATABASE)) as db:
        _, left = sqlite._delete(db, ["three"])
    assert left
    kept = logs(home)
    assert kinds(home) == []
    lost_words(home)
    assert kinds(home) == ["index_damaged"]
    assert repaired(home)
    assert kinds(home) == []
    assert logs(home) == kept
    overwrite(home / DATABASE, 0, garbage(99))
    assert "database_damaged" in kinds(home)
    assert repaired(home)
    assert logs(home) == kept
    with closing(open_database(home / DATABASE)) as db:
        assert store_logs.given_up(db) == left
        while left:
            left = store_logs.remove(db, left)
    assert kinds(home) == []


def test_too_little_space_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", shutil.disk_usage(home).total + 1)
    assert kinds(home) == ["space_short"]


def test_a_repair_gives_back_what_deleted_sessions_have_left(home: Path) -> None:
    before, there = logs(home), names(home)
    size = (home / DATABASE).stat().st_size
    unused_space(home)
    assert (home / DATABASE).stat().st_size > limits.UNUSED_BYTES
    assert repaired(home)[-1] == "sessions.db has 1 MiB now; it had 17."
    assert (home / DATABASE).stat().st_size <= size
    assert names(home) == there
    assert logs(home) == before


def test_a_repair_leaves_nothing_of_deleted_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNUSED_BYTES", 64 * limits.KIB)
    before = logs(home)
    with ModelThread() as model, stdio_daemon(home) as daemon:
        wire = daemon.wire
        wire.create(model.provider(), sessionId="gone")
        wire.turn("gone", "[[say:quuxhunter]] " + " ".join(f"w{n:x}" for n in range(50_000)))
        assert len(wire.call("sessions.search", text="quuxhunter")["hits"]) > 0
        wire.call("session.delete", sessionId="gone")
        assert daemon.terminate() == 0
    assert b"quuxhunter" in (home / DATABASE).read_bytes()
    assert "space_unused" in kinds(home)
    repaired(home)
    assert b"quuxhunter" not in (home / DATABASE).read_bytes()
    assert logs(home) == before


def test_a_disk_without_room_for_it_keeps_the_file_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused_space(home)
    before = (home / DATABASE).read_bytes()
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    usage = shutil.disk_usage(home)._replace(free=limits.KIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    done: list[str] = []
    assert [found.kind for found in repair(home, done.append).findings] == ["space_unused"]
    assert done == ["sessions.db keeps its size: to write it anew takes 1 MiB, and 0 MiB are free."]
    assert (home / DATABASE).read_bytes() == before


@pytest.mark.parametrize(
    "place",
    [
        "sessions.db-wal",
        "sessions.db-shm",
        "sessions.db-journal",
        "run/tertuliad.sock",
        "run/tertuliad.sock.lock",
        "run/0123.owner",
    ],
)
def test_a_folder_in_the_place_of_a_file_is_told_and_left(home: Path, place: str) -> None:
    (home / place).mkdir(mode=0o700, parents=True)
    for args in ((), ("--repair",)):
        status, out, err = doctor(home, *args)
        assert (status, err) == (1, "")
        assert f"in_the_way {place}: it is no file" in out
        assert "Move away" in out
    (home / place).rmdir()
    assert kinds(home) == []


def test_a_file_in_the_place_of_a_folder_is_told_and_the_rest_is_repaired(home: Path) -> None:
    shutil.rmtree(home / "run", ignore_errors=True)
    (home / "run").write_text("x")
    lost_words(home)
    assert kinds(home) == ["in_the_way", "index_damaged"]
    assert [found.kind for found in repair(home, lambda _: None).findings] == ["in_the_way"]
    assert (home / "run").read_text() == "x"


def test_what_a_journal_has_hidden_is_repaired_with_it(home: Path) -> None:
    change(home, f"DELETE FROM events WHERE id = {OWN} + 9")
    a_journal(home)
    assert kinds(home) == ["journal_left"]
    done = repaired(home)
    assert any("three ends at event 8" in line for line in done)
    folders = sorted((home / files.SET_ASIDE).iterdir())
    assert (folders[0] / files.JOURNAL).read_bytes() == garbage(3000)


def test_every_kind_of_finding_is_put_to_the_test() -> None:
    tested = {kind for kind, _ in DAMAGES.values()}
    alone = {"changes_lost", "database_empty", "in_the_way", "space_short", "turn_left_open"}
    assert tested | alone == set(KINDS)


def test_the_document_says_what_was_found_and_what_was_done(home: Path) -> None:
    change(home, f"DELETE FROM events WHERE id = {OWN} + 9")
    status, out, _ = doctor(home, "--json")
    document: dict[str, Any] = json.loads(out)
    assert status == 1
    assert document["sessions"] == 5
    (found,) = (one for one in document["findings"] if one["kind"] == "log_damaged")
    assert found["session"] == "three"
    assert "event 9 is missing" in found["detail"]
    assert found["repair"]
    status, out, _ = doctor(home, "--json", "--repair")
    document = json.loads(out)
    assert (status, document["findings"]) == (0, [])
    assert any("three" in line for line in document["done"])


# What a repair keeps


def is_beginning(kept: dict[int, bytes], before: dict[int, bytes]) -> bool:
    """Whether `kept` has the first events of `before`, byte for byte, and behind them at most what
    the repair says."""
    own = {seq for seq, body in kept.items() if body != before.get(seq)}
    first = min((seq for seq in before if kept.get(seq) != before[seq]), default=None)
    cut_off = set() if first is None else {seq for seq in before if seq >= first}
    return not cut_off & kept.keys() - own and all(seq > max(before, default=0) for seq in own)


@pytest.mark.parametrize("damage", ["body = x'ff'", "body = 12345", "type = CAST(x'ff' AS TEXT)"])
def test_a_log_is_cut_at_its_last_sound_event_and_the_session_says_so_and_goes_on(
    home: Path, damage: str
) -> None:
    before = logs(home)
    change(home, f"UPDATE events SET {damage} WHERE id = {OWN} + 9")
    repaired(home)
    after = logs(home)
    assert {n: after[n] for n in after if n != "three"} == {
        n: before[n] for n in before if n != "three"
    }
    assert is_beginning(after["three"], before["three"])
    assert [seq for seq in after["three"] if seq <= max(before["three"])] == list(range(1, 9))
    with ModelThread() as model, stdio_daemon(home) as daemon:
        wire = daemon.wire
        wire.call("session.resume", sessionId="three", provider=model.provider())
        errors = [e["data"] for e in wire.history("three") if e["type"] == "session.error"]
        assert errors[-1]["errorType"] == "log_damaged"
        assert files.SET_ASIDE in errors[-1]["message"]
        assert said(wire.turn("three", "[[say:on]]")) == ["on"]
        daemon.kill()
    assert not examine(home).faults


def test_damage_of_a_shared_beginning_cuts_the_fork_too_and_it_stays_a_fork(home: Path) -> None:
    shared = "(SELECT segment << 31 FROM sessions WHERE id = 'one')"
    fork = next(name for name in logs(home) if name not in ("one", "two", "three", "long"))
    change(home, f"DELETE FROM events WHERE id = {shared} + 6")
    assert kinds(home).count("log_damaged") == 2
    repaired(home)
    after = logs(home)
    for name in ("one", fork):
        assert [seq for seq in after[name] if seq <= 6] == [1, 2, 3, 4, 5]
    with ModelThread() as model, stdio_daemon(home) as daemon:
        for name in ("one", fork):
            daemon.wire.call("session.resume", sessionId=name, provider=model.provider())
            assert said(daemon.wire.turn(name, "[[say:on]]")) == ["on"]


def test_damage_behind_a_fork_leaves_the_fork_alone(home: Path) -> None:
    before = logs(home)
    change(
        home,
        "DELETE FROM events WHERE id = (SELECT segment << 31 | head FROM sessions"
        " WHERE id = 'one')",
    )
    assert kinds(home) == ["index_damaged", "log_damaged"] or kinds(home) == ["log_damaged"]
    repaired(home)
    after = logs(home)
    assert after["one"] != before["one"]
    assert {n: after[n] for n in after if n != "one"} == {
        n: before[n] for n in before if n != "one"
    }


def test_pieces_of_logs_in_a_circle_are_put_in_order_and_lose_nothing(home: Path) -> None:
    before = logs(home)
    change(
        home,
        "UPDATE segments SET parent = (SELECT id FROM segments WHERE parent = s.segment),"
        " parent_seq = 3 FROM sessions s WHERE s.segment = segments.id AND s.id = 'one'",
        f"UPDATE segments SET parent = id, parent_seq = 3 WHERE id << 31 = {OWN}",
    )
    assert kinds(home) == ["database_damaged", "database_damaged"]
    repaired(home)
    assert logs(home) == before


@pytest.mark.parametrize(
    "gone",
    [
        ["snapshots"],
        ["spoken"],
        ["said"],
        ["said", "said_data", "said_idx", "said_docsize", "said_config"],
        ["events"],
        ["segments"],
        ["sqlite_sequence"],
    ],
    ids=" ".join,
)
def test_a_table_that_is_gone_takes_no_session_along_and_is_there_again(
    home: Path, gone: list[str]
) -> None:
    before = logs(home)
    out_of_the_schema(home, *gone)
    assert "log_lost" not in kinds(home)
    repaired(home)
    assert logs(home) == before
    with ModelThread() as model, stdio_daemon(home) as daemon:
        wire = daemon.wire
        for name in before:
            wire.call("session.resume", sessionId=name, provider=model.provider())
            assert said(wire.turn(name, f"[[say:quux in {name}]]")) == [f"quux in {name}"]
        assert len(wire.call("sessions.search", text="quux in")["hits"]) >= len(before)


@pytest.mark.parametrize("name", ["one", "two", "three"])
@pytest.mark.parametrize("slow_ms", [0, 2000])
def test_a_row_that_leads_nowhere_is_brought_together_with_its_log(
    home: Path, name: str, slow_ms: int
) -> None:
    """On a slow machine a session is made some time before its first event."""
    before = logs(home)
    made = f"created_ms = created_ms - {slow_ms}"
    change(home, f"UPDATE sessions SET segment = 4242, {made} WHERE id = '{name}'")
    assert "log_lost" in kinds(home)
    done = repaired(home)
    assert f"Session {name} has its log again." in done
    assert logs(home) == before
    assert repair(home, done.append).findings == []


@pytest.mark.parametrize("far", [1 << 31, 1 << 32, 1 << 40, 1 << 62])
def test_a_segment_whose_number_no_event_can_have_takes_no_other_session_along(
    home: Path, far: int
) -> None:
    before = logs(home)
    change(home, f"UPDATE segments SET id = {far} WHERE id << 31 = {OWN}")
    assert repaired(home)
    assert logs(home) == before
    change(home, f"UPDATE sessions SET segment = {far} WHERE id = 'three'")
    assert repaired(home)
    assert logs(home) == before
    with ModelThread() as model, stdio_daemon(home) as daemon:
        session = daemon.wire.create(model.provider())
        assert said(daemon.wire.turn(session, "[[say:on]]")) == ["on"]


def test_an_event_that_is_far_away_moves_no_later_session_out_of_reach(home: Path) -> None:
    """What follows on it is brought back by the next repair too."""
    change(home, f"UPDATE events SET id = id | (1 << 62) WHERE id = {OWN} + 9")
    assert repaired(home)
    with ModelThread() as model, stdio_daemon(home) as daemon:
        session = daemon.wire.create(model.provider())
        assert said(daemon.wire.turn(session, "[[say:on]]")) == ["on"]
    before = logs(home)
    change_header(home, "DROP TABLE snapshots")
    assert repaired(home)
    assert logs(home) == before


def test_a_row_that_leads_nowhere_gets_no_log_that_is_damaged_or_somebody_elses(
    home: Path,
) -> None:
    before = logs(home)
    change(
        home,
        f"UPDATE events SET body = 7 WHERE id = {OWN} + 1",
        "UPDATE sessions SET segment = 4242 WHERE id = 'three'",
        "UPDATE sessions SET segment = 4243 WHERE parent = 'one'",
    )
    repaired(home)
    assert logs(home) == {name: before[name] for name in ("one", "two", "long")}


@pytest.mark.parametrize(
    "value", ["head = 'x'", "id = x'ff'", "segment = 'x'", "modified_ms = 1.5"]
)
def test_a_row_with_a_value_of_a_wrong_kind_is_made_anew_from_its_log(
    home: Path, value: str
) -> None:
    before = logs(home)
    change_header(home, f"UPDATE sessions SET {value} WHERE id = 'three'")
    assert kinds(home) == ["database_damaged"]
    assert repaired(home)
    assert logs(home) == before


@pytest.mark.parametrize("name", ["one", "two", "three"])
@pytest.mark.parametrize("bit", [30, 31, 62])
def test_a_row_whose_end_no_log_can_reach_takes_nothing_from_its_log_or_others(
    home: Path, name: str, bit: int
) -> None:
    before = logs(home)
    change(home, f"UPDATE sessions SET head = head | (1 << {bit}) WHERE id = '{name}'")
    assert repaired(home)
    after = logs(home)
    assert {n: after[n] for n in after if n != name} == {n: before[n] for n in before if n != name}
    assert before[name].items() < after[name].items()
    assert max(after[name]) < max(before[name]) + 9
    with ModelThread() as model, stdio_daemon(home) as daemon:
        daemon.wire.call("session.resume", sessionId=name, provider=model.provider())
        assert said(daemon.wire.turn(name, "[[say:on]]")) == ["on"]


def test_a_session_whose_id_is_none_is_named_by_its_log_or_anew(home: Path) -> None:
    before = logs(home)
    fork = next(name for name in before if name not in ("one", "two", "three", "long"))
    change(
        home,
        "UPDATE sessions SET id = '../../x y' WHERE id = 'three'",
        f"UPDATE sessions SET id = '' WHERE id = '{fork}'",
    )
    assert kinds(home) == ["id_unusable", "id_unusable"]
    repaired(home)
    after = logs(home)
    (new,) = after.keys() - before.keys()
    assert new.startswith("recovered-")
    assert after == {new if name == fork else name: log for name, log in before.items()}


def test_a_format_that_is_lost_comes_back_and_all_sessions_stay(home: Path) -> None:
    before = logs(home)
    change_header(home, "PRAGMA user_version = 0")
    repaired(home)
    assert logs(home) == before
    with stdio_daemon(home) as daemon:
        assert len(daemon.wire.call("session.list")["sessions"]) == len(before)


def test_sessions_whose_rows_are_lost_come_back_from_their_logs(home: Path) -> None:
    before = logs(home)
    with closing(sqlite3.connect(home / DATABASE)) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sessions'"
        ).fetchone()
    overwrite(home / DATABASE, (page - 1) * PAGE, bytes(PAGE))
    repaired(home)
    after = logs(home)
    assert {n: after[n] for n in ("one", "two", "three", "long") if n in after} == {
        n: before[n] for n in ("one", "two", "three", "long")
    }
    assert len(after) == len(before), "the fork has a new name"


def test_what_was_only_in_the_write_ahead_log_is_carried_along(
    killed: Path, tmp_path: Path
) -> None:
    home, whole = copy(killed, tmp_path / "home"), copy(killed, tmp_path / "whole")
    overwrite(home / DATABASE, 3 * PAGE, garbage(64))
    cut(home / DATABASE, (home / DATABASE).stat().st_size - 1)
    repair(home, print)
    assert "long" in logs(home)
    assert max(logs(home)["long"]) >= max(logs(whole)["long"])


def test_a_repair_without_room_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(home / DATABASE, 5 * PAGE)
    before = (home / DATABASE).read_bytes()

    class Full:
        free = 1

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Full)
    with pytest.raises(CannotCheck, match="Nothing was changed"):
        repair(home, print)
    assert (home / DATABASE).read_bytes() == before
    assert not (home / files.SET_ASIDE).exists()


# Any damage


@contextlib.contextmanager
def a_copy(home: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield copy(home, Path(folder) / "home")


class _Refused(Exception):
    """The file says that it is none of ours."""


def put_to_the_test(home: Path, before: dict[str, dict[int, bytes]]) -> None:
    """Whatever happened to it: looked at, repaired, nothing is left to be found, and what it has
    is what it had."""
    try:
        examine(home)
    except CannotCheck as refusal:
        # The damage has hit the few bytes that say whose file it is, and of which format.
        if re.search("newer version|something else", str(refusal)):
            raise _Refused from refusal
        raise
    assert not repair(home, lambda _: None).faults
    assert examine(home).faults == []
    for name, log in logs(home).items():
        if name in before:
            assert is_beginning(log, before[name]), name


ANY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@ANY
@given(share=st.floats(0, 1, exclude_max=True))
@pytest.mark.parametrize("which", ["sound", "killed"])
def test_a_file_cut_anywhere_is_repaired(
    which: str, request: pytest.FixtureRequest, share: float
) -> None:
    template: Path = request.getfixturevalue(which)
    with a_copy(template) as whole, a_copy(template) as home:
        before = logs(whole)
        cut(home / DATABASE, 2 + int(share * (home / DATABASE).stat().st_size))
        put_to_the_test(home, before)


@ANY
@given(share=st.floats(0, 1, exclude_max=True), inside=st.integers(0, PAGE - 1), data=st.data())
@pytest.mark.parametrize("which", ["sound", "killed"])
def test_a_file_overwritten_anywhere_is_repaired(
    which: str, request: pytest.FixtureRequest, share: float, inside: int, data: st.DataObject
) -> None:
    template: Path = request.getfixturevalue(which)
    with a_copy(template) as whole, a_copy(template) as home:
        before = logs(whole)
        file = home / data.draw(st.sampled_from([p.name for p in files.database_files(home)]))
        page = int(share * file.stat().st_size) // PAGE
        size, at = data.draw(st.sampled_from([(PAGE, 0), (2 * PAGE, 0), (64, inside)]))
        bad = data.draw(st.sampled_from([bytes(size), garbage(size), b"\r" * size]))
        overwrite(file, page * PAGE + at, bad[: max(file.stat().st_size - page * PAGE - at, 0)])
        with contextlib.suppress(_Refused):
            put_to_the_test(home, before)


# The command


def test_the_command_takes_its_home_from_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERTULIA_HOME", str(home))
    assert command.main([]) == 0
    assert str(home) in capsys.readouterr().out
    assert command.main(["--home", str(home / "nowhere"), "--json"]) == 2
    assert "no folder" in json.loads(capsys.readouterr().out)["error"]


WITHOUT_READER = """
import os, sys
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""


def shell(script: str) -> list[str]:
    return ["bash", "-c", script, "bash"]


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (shell('exec "$@" >&-'), ""),
        ([sys.executable, "-c", WITHOUT_READER], ""),
        (shell('exec "$@" > /dev/full'), "stdout cannot be written: No space left on device\n"),
    ],
    ids=["closed", "left", "full"],
)
def test_the_exit_status_holds_where_nobody_reads_and_tells_of_a_full_disk(
    home: Path, program: list[str], complaint: str
) -> None:
    sound = 1 if complaint else 0
    assert doctor(home, program=program) == (sound, "", complaint)
    assert doctor(home, "--json", program=program) == (sound, "", complaint)
    (home / "sessions.db").chmod(0o644)
    assert doctor(home, program=program) == (1, "", complaint)


def test_a_home_whose_path_is_no_text_is_named_in_the_document(home: Path) -> None:
    odd = home.rename(home.parent / os.fsdecode(b"h\xff"))
    code, out, err = doctor(odd, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["home"] == str(home.parent / "h?")


def test_a_lock_that_is_held_is_no_dead_file(home: Path) -> None:
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    mark = home / "run" / "0123.owner"
    fd = os.open(mark, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert kinds(home) == []
    finally:
        os.close(fd)
    assert kinds(home) == ["dead_file"]


def test_one_is_said_in_the_singular() -> None:
    assert [counted(number, "fault") for number in (0, 1, 2)] == ["0 faults", "1 fault", "2 faults"]
