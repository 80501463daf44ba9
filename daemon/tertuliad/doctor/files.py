"""The files of a data folder: who may read them, and which of them a dead process has left."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tertulia_protocol import layout
from tertuliad import limits
from tertuliad.doctor.findings import Finding, finding
from tertuliad.store.owners import SUFFIX, is_held, nobody_holds
from tertuliad.store.schema import FILE_NAME

SET_ASIDE = "set-aside"
FRESH = f"{FILE_NAME}.new"
"""What a repair makes, until it is whole."""
JOURNAL = f"{FILE_NAME}-journal"
PARTS = ("", "-wal", "-shm", "-journal")
"""What SQLite puts behind the name of a database."""


def database_files(home: Path, name: str = FILE_NAME) -> list[Path]:
    """The files of a database that are there."""
    return [path for part in PARTS if (path := home / (name + part)).is_file()]


def is_home(home: Path) -> bool:
    """Whether anything is there that a home is known by. What cannot be looked at may be that."""
    run = layout.run_folder(home)
    socket = layout.shared_socket(home)
    names = {*layout.SIGNS, *(name + part for name in (FILE_NAME, FRESH) for part in PARTS)}
    return (
        any(_may_exist(path) for path in (*map(home.joinpath, names), socket, _lock_of(socket)))
        or any(run.glob(f"*{SUFFIX}"))
        or any(run.glob("tcp-*.token"))
        or any((home / SET_ASIDE).glob(f"*/{FILE_NAME}"))
    )


def _may_exist(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def findings(home: Path) -> list[Finding]:
    """All that is to be said about the files; nothing is opened but locks."""
    return [*_obstacles(home), *_too_open(home), *_dead(home), *_space(home)]


def _obstacles(home: Path) -> Iterator[Finding]:
    run = layout.run_folder(home)
    folders = [path for path in run.iterdir() if path.is_dir()] if run.is_dir() else []
    if os.path.lexists(run) and not run.is_dir():
        yield finding("in_the_way", "it is no folder", where=_under(home, run))
    for path in sorted([*folders, *beside_the_database(home)]):
        yield finding("in_the_way", "it is no file", where=_under(home, path))


def beside_the_database(home: Path) -> list[Path]:
    """What SQLite cannot open the database beside: in the places of its own files, and none."""
    places = [home / (FILE_NAME + part) for part in PARTS if part]
    return [path for path in places if os.path.lexists(path) and not path.is_file()]


def has_journal(home: Path) -> bool:
    """Whether SQLite will look into a rollback journal before it reads the database."""
    path = home / JOURNAL
    if not path.is_file():
        return False
    with path.open("rb") as journal:
        return journal.read(1) not in (b"", b"\0")


def _mine(home: Path) -> Iterator[Path]:
    run = layout.run_folder(home)
    yield home
    yield from database_files(home)
    if run.is_dir():
        yield run
        yield from sorted(run.iterdir())


def _too_open(home: Path) -> Iterator[Finding]:
    for path in open_to_others(home):
        mode = _mode(path) or 0
        # Who may write to a home may put files in place of those that are there.
        kind = "home_visible" if path == home and not mode & 0o022 else "mode_too_open"
        yield finding(kind, f"its mode is {mode:04o}", where=_under(home, path))


def open_to_others(home: Path) -> list[Path]:
    """What somebody else than the user has a right to."""
    return [path for path in _mine(home) if (_mode(path) or 0) & 0o077]


def _mode(path: Path) -> int | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return None if stat.S_ISLNK(found.st_mode) else stat.S_IMODE(found.st_mode)


def close_to_others(path: Path) -> None:
    mode = _mode(path)
    if mode is not None:
        path.chmod(mode & ~0o077)


def _dead(home: Path) -> Iterator[Finding]:
    for path in dead_files(home):
        yield finding("dead_file", "nobody uses it", where=_under(home, path))


def dead_files(home: Path) -> list[Path]:
    """Marks, tokens and sockets whose lock nobody holds, and what a repair did not come to end."""
    run = layout.run_folder(home)
    dead = [path for path in _locked(run) if nobody_holds(path)]
    sockets = [path for path in run.glob("*.sock") if not path.is_dir()]
    dead += [path for path in sockets if nobody_holds(_lock_of(path))]
    return sorted(dead + database_files(home, FRESH))


def someone_lives(home: Path) -> bool:
    """Whether a process holds a mark, a token or a socket of the home. Raises `OSError` where that
    cannot be told."""
    return any(is_held(path) for path in _locked(layout.run_folder(home)))


def _locked(run: Path) -> list[Path]:
    found = (*run.glob(f"*{SUFFIX}"), *run.glob("*.token"), *run.glob("*.lock"))
    return [path for path in found if not path.is_dir()]


def _lock_of(socket: Path) -> Path:
    return socket.with_name(socket.name + ".lock")


def _space(home: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(home).free
    if free < limits.FREE_BYTES:
        yield finding("space_short", f"{free // limits.MIB} MiB are free")


def _under(home: Path, path: Path) -> str:
    return os.path.relpath(path, home)
