"""The repair of a home: it never destroys what might be read.

Where something of a log is lost, the database is copied aside before, as it is, into a folder
whose name says when and why. A file that SQLite cannot read whole is not written to: what `salvage`
finds in it goes into a new file, which takes its place once it is whole. Then each log is mended,
and what is derived from the logs is made anew. A repair has the folder alone, from its beginning to
its end.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.doctor import files
from tertuliad.doctor.examination import CannotCheck, Examined, look, refuse_no_home
from tertuliad.doctor.mending import index, mend, remove_all
from tertuliad.store.durable import sync_folder
from tertuliad.store.examination import NotOpened, Unreadable
from tertuliad.store.hold import Hold
from tertuliad.store.mending import MendableDatabase
from tertuliad.store.salvage import salvage
from tertuliad.store.schema import FILE_NAME

Tell = Callable[[str], None]

_ANEW = {"database_damaged", "database_missing"}
_LOSES = {
    *_ANEW,
    "changes_lost",
    "id_unusable",
    "log_damaged",
    "log_lost",
    "segment_orphaned",
    "segment_unknown",
}
"""After these something is not in the database any more that was there before."""
_IN_DATABASE = {*_LOSES, "row_differs", "snapshot_differs", "index_damaged", "index_behind"}


def repair(home: Path, tell: Tell) -> Examined:
    """Repair what is found, say what was done, and look again. Raises `CannotCheck`, also where
    the folder is no home."""
    refuse_no_home(home)
    with _alone(home):
        examined = look(home, alone=True)
        if not examined.findings:
            return examined
        try:
            if files.has_journal(home):
                _take_back(home, tell)
                examined = look(home, alone=True)
            kinds = {found.kind for found in examined.findings}
            _repair_database(home, kinds, tell)
            _repair_files(home, tell)
            if "space_unused" in kinds:
                _pack(home / FILE_NAME, tell)
        except (OSError, StoreFailed, Unreadable, NotOpened) as error:
            raise CannotCheck(f"The repair of {home} did not come to its end: {error}") from error
    return look(home)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    hold = Hold(home)
    try:
        if _is_worked_on(home, hold):
            raise CannotCheck(
                f"A daemon works on {home}. End it (SIGTERM lets its turns end), then repair."
            )
        yield
    finally:
        hold.release()


def _is_worked_on(home: Path, hold: Hold) -> bool:
    try:
        return not hold.take_alone() or files.someone_lives(home)
    except OSError as error:
        raise CannotCheck(
            f"Whether a daemon works on {home} cannot be told: {error}. Repair it as the user whose"
            " folder it is."
        ) from error


def _take_back(home: Path, tell: Tell) -> None:
    """Let SQLite do with the journal what it would do for a daemon."""
    _copy_aside(home, "journal_left", tell)
    MendableDatabase.opened(home / FILE_NAME).close()
    tell(f"{files.JOURNAL} was removed.")


def _repair_database(home: Path, kinds: set[str], tell: Tell) -> None:
    path, set_aside = home / FILE_NAME, ""
    if kinds & _LOSES:
        set_aside = _copy_aside(home, sorted(kinds & _LOSES)[0], tell)
    if kinds & _ANEW:
        fresh = home / files.FRESH
        _remove(files.database_files(home, files.FRESH))
        if not salvage(path, fresh):
            tell("What was deleted cannot be told apart any more: some of it may be listed again.")
        _mended(fresh, set_aside, tell, adopt=True, index_anew=True)
        _put_in_place(home, fresh)
        tell("A new database has what could be read.")
    elif kinds & _IN_DATABASE:
        index_anew = bool(kinds & {*_LOSES, "index_damaged"})
        _mended(path, set_aside, tell, adopt=False, index_anew=index_anew)


def _mended(path: Path, set_aside: str, tell: Tell, *, adopt: bool, index_anew: bool) -> None:
    db = MendableDatabase.opened(path)
    try:
        mend(db, set_aside, tell, adopt=adopt, index_anew=index_anew)
    finally:
        db.close()


def _copy_aside(home: Path, why: str, tell: Tell) -> str:
    """Copy the files of the database; the copy's path under the home."""
    found = files.database_files(home)
    _need_space(home, 2 * sum(path.stat().st_size for path in found))
    when = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = home / files.SET_ASIDE / f"{when}-{why.replace('_', '-')}"
    folder.mkdir(parents=True, mode=0o700)
    for path in found:
        _copy(path, folder / path.name)
    sync_folder(folder)
    name = f"{files.SET_ASIDE}/{folder.name}"
    tell(f"The database was copied to {name}.")
    return name


def _copy(source: Path, target: Path) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb") as old, os.fdopen(fd, "wb") as new:
        shutil.copyfileobj(old, new, limits.MIB)
        new.flush()
        os.fsync(fd)


def _need_space(home: Path, size: int) -> None:
    free = shutil.disk_usage(home).free
    if free < size:
        raise CannotCheck(
            f"The repair needs {size // limits.MIB + 1} MiB for a copy of the database and for the"
            f" new one, and {free // limits.MIB} MiB are free in {home}. Nothing was changed."
        )


def _put_in_place(home: Path, fresh: Path) -> None:
    """The old write-ahead log would be played into the new file: it goes first. All of the old is
    in the copy."""
    _remove([path for path in files.database_files(home) if path.name != FILE_NAME])
    os.replace(fresh, home / FILE_NAME)
    _remove(files.database_files(home, files.FRESH))
    sync_folder(home)


def _repair_files(home: Path, tell: Tell) -> None:
    for path in files.dead_files(home):
        path.unlink(missing_ok=True)
        tell(f"{os.path.relpath(path, home)} was removed.")
    for path in files.open_to_others(home):
        files.close_to_others(path)
        tell(f"{os.path.relpath(path, home)} is closed to others now.")


def _pack(path: Path, tell: Tell) -> None:
    db = MendableDatabase.opened(path)
    try:
        before, unused = db.size()
        takes, free = 2 * (before - unused), shutil.disk_usage(path.parent).free
        if free < takes:
            tell(
                f"{FILE_NAME} keeps its size: to write it anew takes {takes // limits.MIB + 1} MiB,"
                f" and {free // limits.MIB} MiB are free."
            )
            return
        remove_all(db)
        index(db, tell, anew=True)
        db.pack()
        after, _ = db.size()
        tell(
            f"{FILE_NAME} has {after // limits.MIB + 1} MiB now; it had {before // limits.MIB + 1}."
        )
    finally:
        db.close()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
