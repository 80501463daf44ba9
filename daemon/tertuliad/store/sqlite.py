"""The embedded store: SQLite under the data folder.

The rules of this file:
- One thread writes and one reads, each with its own connection; both are opened by the first call,
  so that starting the daemon never waits for the disk.
- The writer takes whatever waits as one transaction (group commit), with `synchronous=FULL`.
- A member of a group that is refused (its head moved, its id is taken) does not touch the others.
  A member that fails half-way sends the group back, and each member is tried alone.
- Futures are completed on the event loop's thread, a whole group in one call.
- SQL stands here and nowhere else.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.store.base import AlreadyThere, Append, HeadMoved, ListFilter, Log, Record, Row

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
Job = tuple[Work, "Future[Any]"]
Call = Callable[[Callable[[], None]], Any]
"""Runs a function on the event loop's thread, from any thread."""

FILE_NAME = "sessions.db"
APPLICATION_ID = 0x54455254  # "TERT"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE sessions (
    pk INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    head INTEGER NOT NULL,
    title TEXT,
    model TEXT,
    cwd TEXT,
    client_name TEXT,
    owner TEXT
);
CREATE INDEX sessions_by_modified ON sessions (modified_ms DESC);
CREATE TABLE events (
    session INTEGER NOT NULL REFERENCES sessions (pk),
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;
"""

_COLUMNS = Row.__struct_fields__
_ROW = ", ".join(_COLUMNS)
_INSERT = (
    f"INSERT INTO sessions ({_ROW}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"  # noqa: S608
    " ON CONFLICT (id) DO NOTHING RETURNING pk"
)
_FIXED = ("id", "created_ms")
_UPDATE = (
    f"UPDATE sessions SET {', '.join(f'{n} = :{n}' for n in _COLUMNS if n not in _FIXED)}"  # noqa: S608
    " WHERE id = :id AND head = :expected_head RETURNING pk"
)


class SqliteStore:
    """Outlives every connection and session; ends with the daemon."""

    def __init__(self, folder: Path, call_soon: Call) -> None:
        self._path = folder / FILE_NAME
        self._writes = _Worker("store-writer", self._path, call_soon, limits.COMMIT_BATCH)
        self._reads = _Worker("store-reader", self._path, call_soon, 1)

    def create(self, append: Append) -> Future[None]:
        return self._writes.submit(lambda db: _create(db, append))

    def append(self, append: Append) -> Future[None]:
        return self._writes.submit(lambda db: _append(db, append))

    def delete(self, session_id: str) -> Future[bool]:
        return self._writes.submit(lambda db: _delete(db, session_id))

    def load(self, session_id: str) -> Future[Log | None]:
        return self._reads.submit(lambda db: _load(db, session_id))

    def read(self, session_id: str, after: int, limit: int | None) -> Future[list[Record]]:
        return self._reads.submit(lambda db: _read(db, session_id, after, limit))

    def row(self, session_id: str) -> Future[Row | None]:
        return self._reads.submit(lambda db: _row(db, session_id))

    def rows(self, wanted: ListFilter) -> Future[list[Row]]:
        return self._reads.submit(lambda db: _rows(db, wanted))

    def last_id(self) -> Future[str | None]:
        return self._reads.submit(_last_id)

    def close(self) -> None:
        self._writes.close()
        self._reads.close()


class _Worker:
    """A thread with a connection of its own, started by the first job."""

    def __init__(self, name: str, path: Path, call_soon: Call, batch: int) -> None:
        self._name = name
        self._path = path
        self._call_soon = call_soon
        self._batch = batch
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(StoreFailed("The store is closed: the daemon is stopping."))
            return future
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """Do what was submitted, then end the thread."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(limits.SHUTDOWN_GRACE_S)

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        while True:
            group, last = self._next_group()
            if group:
                try:
                    db = db or open_database(self._path)
                    outcomes = self._do(db, group)
                except Exception as error:  # noqa: BLE001 - it goes to whoever waits
                    outcomes = [_failure(error)] * len(group)
                self._report(group, outcomes)
            if last:
                break
        if db is not None:
            db.close()

    def _next_group(self) -> tuple[list[Job], bool]:
        """The jobs to do together, and whether they are the last."""
        group: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) >= self._batch:
                return group, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _do(self, db: sqlite3.Connection, group: list[Job]) -> list[Any]:
        if self._batch == 1:
            return [_outcome(db, group[0][0])]
        try:
            return _commit(db, [work for work, _ in group])
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            if len(group) == 1 or _is_busy(error):
                return [_failure(error)] * len(group)
        outcomes = []
        for work, _ in group:
            try:
                outcomes += _commit(db, [work])
            except Exception as error:  # noqa: BLE001 - as above
                outcomes.append(_failure(error))
        return outcomes

    def _report(self, group: list[Job], outcomes: list[Any]) -> None:
        def complete() -> None:
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

        try:
            self._call_soon(complete)
        except RuntimeError:
            return  # the event loop is gone, and with it all who waited


def open_database(path: Path) -> sqlite3.Connection:
    """A connection to the database at `path`, made if need be. Raises `StoreFailed`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            path,
            timeout=limits.STORE_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _make_ready(db, path)
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise _failure(error, path) from error
    return db


def _make_ready(db: sqlite3.Connection, path: Path) -> None:
    version = _known_version(db, path)  # before anything is written
    _use_write_ahead_log(db)
    db.execute("PRAGMA synchronous = FULL")
    if version < SCHEMA_VERSION:
        _prepare(db)


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Two openers of a new file get in each other's way here, and SQLite does not wait for it."""
    until = time.monotonic() + limits.STORE_BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _known_version(db: sqlite3.Connection, path: Path) -> int:
    """The format of the file, 0 of a new one. Raises `StoreFailed` for a newer one."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StoreFailed(
            f"{path} was written by a newer version of Tertulia (format {version}, this one reads"
            f" {SCHEMA_VERSION}). Nothing was changed; update Tertulia or name another --home."
        )
    return version


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _failure(error: Exception, path: Path | None = None) -> Exception:
    """`error` as it goes to whoever waits."""
    if isinstance(error, sqlite3.Error | OSError):
        where = f" at {path}" if path is not None else ""
        return StoreFailed(f"The session store{where} failed: {error}. {_advice(error)}")
    return error


def _is_busy(error: Exception) -> bool:
    """Whether another process held the write lock to the end of our patience: nobody of a group
    has to wait for as long again."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _advice(error: Exception) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return "Another process holds it; try again."
    if "malformed" in text or "not a database" in text:
        return "The file is damaged; it was left as it is."
    if "full" in text:
        return "Free some disk space and try again."
    return "Check that the data folder exists and can be written."


def _commit(db: sqlite3.Connection, works: list[Work]) -> list[Any]:
    """Do `works` in one transaction; what it raises has undone all of them."""
    db.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_outcome(db, work) for work in works]
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return outcomes


def _outcome(db: sqlite3.Connection, work: Work) -> Any:
    """The result of `work`, or the refusal that it raised before it changed anything."""
    try:
        return work(db)
    except (HeadMoved, AlreadyThere) as refusal:
        return refusal


def _insert_records(db: sqlite3.Connection, pk: int, records: tuple[Record, ...]) -> None:
    db.executemany(
        "INSERT INTO events (session, seq, type, body) VALUES (?, ?, ?, ?)",
        [(pk, record.seq, record.type, record.body) for record in records],
    )


def _create(db: sqlite3.Connection, append: Append) -> None:
    made = db.execute(_INSERT, msgspec.structs.asdict(append.row)).fetchall()
    if not made:
        raise AlreadyThere(append.row.id)
    _insert_records(db, made[0][0], append.records)


def _append(db: sqlite3.Connection, append: Append) -> None:
    known = {**msgspec.structs.asdict(append.row), "expected_head": append.expected_head}
    found = db.execute(_UPDATE, known).fetchall()
    if not found:
        raise HeadMoved(append.row.id)
    _insert_records(db, found[0][0], append.records)


def _delete(db: sqlite3.Connection, session_id: str) -> bool:
    found = db.execute("SELECT pk FROM sessions WHERE id = ?", (session_id,)).fetchone()
    if found is None:
        return False
    db.execute("DELETE FROM events WHERE session = ?", found)
    db.execute("DELETE FROM sessions WHERE pk = ?", found)
    return True


def _load(db: sqlite3.Connection, session_id: str) -> Log | None:
    db.execute("BEGIN")  # one moment for the row and its log
    try:
        row = _row(db, session_id)
        return None if row is None else Log(row, _read(db, session_id, 0, None))
    finally:
        db.execute("COMMIT")


def _read(db: sqlite3.Connection, session_id: str, after: int, limit: int | None) -> list[Record]:
    found = db.execute(
        "SELECT seq, type, body FROM events WHERE session ="
        " (SELECT pk FROM sessions WHERE id = ?) AND seq > ? ORDER BY seq LIMIT ?",
        (session_id, after, -1 if limit is None else limit),
    )
    return [Record(seq, kind, body) for seq, kind, body in found]


def _row(db: sqlite3.Connection, session_id: str) -> Row | None:
    found = db.execute(
        f"SELECT {_ROW} FROM sessions WHERE id = ?",  # noqa: S608
        (session_id,),
    ).fetchone()
    return None if found is None else _made_row(found)


def _rows(db: sqlite3.Connection, wanted: ListFilter) -> list[Row]:
    found = db.execute(
        f"SELECT {_ROW} FROM sessions WHERE ?1 IS NULL OR cwd = ?1"  # noqa: S608
        " ORDER BY modified_ms DESC, pk DESC",
        (wanted.cwd,),
    )
    return [_made_row(values) for values in found]


def _made_row(values: tuple[Any, ...]) -> Row:
    return Row(**dict(zip(_COLUMNS, values, strict=True)))


def _last_id(db: sqlite3.Connection) -> str | None:
    found = db.execute("SELECT id FROM sessions ORDER BY modified_ms DESC, pk DESC LIMIT 1")
    row = found.fetchone()
    return None if row is None else str(row[0])
