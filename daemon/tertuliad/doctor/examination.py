"""The whole look at a home: its files, its database, each session. It changes nothing.

It runs beside a daemon as well: the database is read as of the last commit, session by session.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from tertulia_protocol import layout
from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.doctor import files
from tertuliad.doctor.findings import Finding, counted, finding
from tertuliad.doctor.sessions import check, findings_of
from tertuliad.store.examination import Database, Listed, NotOpened, Unreadable
from tertuliad.store.failures import is_full
from tertuliad.store.hold import Hold
from tertuliad.store.owners import Owners
from tertuliad.store.pages import lost_commits
from tertuliad.store.schema import EMPTY_BYTES, FILE_NAME, SCHEMA_VERSION


class CannotCheck(Exception):
    """The home cannot be looked at; the message says why, and what to do."""


class Examined(msgspec.Struct, frozen=True):
    """`findings` are sorted; `sessions` counts those that were looked into."""

    findings: list[Finding]
    sessions: int = 0

    @property
    def faults(self) -> list[Finding]:
        return [found for found in self.findings if found.is_fault]


def examine(home: Path) -> Examined:
    """Raises `CannotCheck`, also where the folder is no home."""
    refuse_no_home(home)
    return look(home)


def refuse_no_home(home: Path) -> None:
    """Raise `CannotCheck` where nothing is there, or nothing of a home: it is not to be changed."""
    if files.is_home(home):
        return
    found = "No sessions are kept in" if home.is_dir() else "There is no folder"
    raise CannotCheck(f"{found} {home}. Name the right one with --home.")


def look(home: Path, *, alone: bool = False) -> Examined:
    """As `examine`, of a home that may have lost everything by now. `alone`: the caller has the
    folder for itself."""
    try:
        if files.beside_the_database(home):
            return Examined(sorted(files.findings(home)))
        left = set(files.database_files(home))
        lost = _lost(home, alone=alone)
        hold = Hold(home)
        try:
            if not alone:
                hold.take()  # nobody tidies up meanwhile what is looked at
            found, sessions = _of_database(home)
        finally:
            hold.release()
            _tidy(home, left, alone=alone)
        return Examined(sorted([*lost, *found, *files.findings(home)]), sessions)
    except StoreFailed as error:
        raise CannotCheck(str(error)) from error
    except (OSError, NotOpened) as error:
        advice = "Reading its database takes the right to write into the folder, too."
        if is_full(error) or is_full(error.__cause__):
            advice = "Free some disk space and try again."
        raise CannotCheck(f"{home} cannot be looked at: {error}. {advice}") from error


def _lost(home: Path, *, alone: bool) -> list[Finding]:
    """What no daemon finds any more. Beside one, it looks the same as what is being written: it is
    looked for only where there is none, before and after. Meanwhile one may come."""
    log = home / f"{FILE_NAME}-wal"
    before = _stamp(log)
    if not (alone or _nobody_is_there(home)):
        return []
    commits = lost_commits(home / FILE_NAME)
    if not (alone or (_nobody_is_there(home) and _stamp(log) == before)):
        return []
    words = f"{counted(commits, 'commit')} behind a damaged place"
    return [finding("changes_lost", words, where=log.name)] if commits else []


def _stamp(path: Path) -> tuple[int, int] | None:
    """By which a file that was written to is known."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _nobody_is_there(home: Path) -> bool:
    hold = Hold(home)
    try:
        return hold.take_alone()
    finally:
        hold.release()


def _tidy(home: Path, before: set[Path], *, alone: bool) -> None:
    """Remove the working files that SQLite has left of the look, unless somebody else uses them."""
    hold = Hold(home)
    if not alone and not hold.take_alone():
        return
    try:
        new = [path for path in files.database_files(home) if path not in before]
        if all(path.name.endswith("-shm") or not path.stat().st_size for path in new):
            for path in new:
                path.unlink(missing_ok=True)
    finally:
        hold.release()


def _of_database(home: Path) -> tuple[list[Finding], int]:
    path = home / FILE_NAME
    if path.is_dir():
        raise CannotCheck(f"{path} is a folder, and the database should be there. Move it away.")
    size = path.stat().st_size if path.exists() else 0
    log = path.with_name(path.name + "-wal")
    if size <= EMPTY_BYTES and log.exists() and log.stat().st_size:
        return [finding("database_missing", "it is gone or empty", where=log.name)], 0
    if not path.exists():
        return [], 0
    if size <= EMPTY_BYTES:
        return [_empty()], 0
    if files.has_journal(home):
        return [finding("journal_left", "it may be half of a change", where=files.JOURNAL)], 0
    try:
        return _looked_into(home, Database.opened(path))
    except Unreadable as error:
        return [_damaged(str(error))], 0


def _empty() -> Finding:
    return finding("database_empty", "nothing is in it", where=FILE_NAME)


def _damaged(words: str) -> Finding:
    return finding("database_damaged", " ".join(words.split()), where=FILE_NAME)


def _looked_into(home: Path, db: Database) -> tuple[list[Finding], int]:
    try:
        version = _refuse_others(home / FILE_NAME, db.version())
        found = [_damaged(words) for words in db.faults()]
        if version == 0 and db.is_empty():
            return found or [_empty()], 0
        if version < SCHEMA_VERSION:
            found.append(_damaged(f"it is said to have the format {version}"))
        if missing := db.missing():
            return [*found, _damaged(", ".join(missing))], 0
        if mixed_up := db.mixed_up():
            return [*found, _damaged(f"values of a wrong kind in {', '.join(mixed_up)}")], 0
        found += [
            _damaged(f"segment {segment} goes on from one that is not older")
            for segment in db.misplaced()
        ]
        found += [
            _damaged(f"segment {segment} has a number that no event can be of")
            for segment in db.out_of_range()
        ]
        sessions = 0
        try:
            for some in _of_sessions(home, db):
                sessions += 1
                found += some
            found += _of_segments(db)
            found += _of_size(db)
        except Unreadable as error:
            if not found:
                found.append(_damaged(str(error)))
        return found, sessions
    finally:
        db.close()


def _of_size(db: Database) -> Iterator[Finding]:
    size, unused = db.size()
    if unused >= limits.UNUSED_BYTES and unused >= size / 2:
        words = f"{unused // limits.MIB} of {size // limits.MIB} MiB"
        yield finding("space_unused", words, where=FILE_NAME)


def _refuse_others(path: Path, version: int | None) -> int:
    if version is None:
        raise CannotCheck(f"{path} is a database of something else. It was left as it is.")
    if version > SCHEMA_VERSION:
        raise CannotCheck(
            f"{path} was written by a newer version of Tertulia (format {version}, this one reads"
            f" {SCHEMA_VERSION}). Nothing was changed; update Tertulia."
        )
    return version


def _of_sessions(home: Path, db: Database) -> Iterator[list[Finding]]:
    owners = Owners(layout.run_folder(home))
    for listed in db.sessions():
        with db.one_moment():
            now = db.again(listed.row.id)
            if now is not None:  # it was not deleted meanwhile
                yield findings_of(check(db, now), _is_gone(owners, now))


def _is_gone(owners: Owners, listed: Listed) -> bool:
    return listed.row.owner is None or not owners.alive(listed.row.owner)


def _of_segments(db: Database) -> Iterator[Finding]:
    for segment in db.orphans():
        yield finding("segment_orphaned", f"segment {segment}")
    for segment in db.strays():
        yield finding("segment_unknown", f"segment {segment}")
    if fault := db.index_fault():
        yield finding("index_damaged", fault)
    elif waiting := db.to_index():
        yield finding("index_behind", f"{counted(waiting, 'piece')} of logs not indexed yet")
