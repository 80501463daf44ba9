"""The database file: its tables, and how it is opened.

An event's row id is its segment and its seq in one number, so that a segment's events lie together
and full-text search can point at them. `said` indexes the words of messages without a copy of
them, up to the seq `indexed` of each segment; where that is behind `head`, the indexer has work.
Pages are small: a change touches some ten of them, whatever their size, and all of them are synced.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tertulia_protocol import layout
from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.store.base import MAX_SEQ
from tertuliad.store.failures import failure, is_held

if TYPE_CHECKING:
    import sqlite3

FILE_NAME = layout.DATABASE_FILE
APPLICATION_ID = 0x54455254  # "TERT"
SCHEMA_VERSION = 1
PAGE_BYTES = 1024
EMPTY_BYTES = 1  # SQLite takes a file of one byte for an empty one, and writes to it
SEQ_BITS = MAX_SEQ.bit_length()
MAX_SEGMENT = (1 << (63 - SEQ_BITS)) - 1
"""The last that events can be of: their row ids are signed numbers of 64 bits."""
GIVEN_UP = -1
"""As the `head` of a segment: no log leads through it, and its rows are being removed."""

SAID_TYPES = ("user.message", "assistant.message")

_SCHEMA = f"""
CREATE TABLE sessions (
    pk INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    segment INTEGER NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    head INTEGER NOT NULL,
    title TEXT,
    named INTEGER NOT NULL,
    model TEXT,
    cwd TEXT,
    client_name TEXT,
    owner TEXT,
    archived INTEGER NOT NULL,
    metadata TEXT,
    parent TEXT,
    pending INTEGER NOT NULL
);
CREATE INDEX sessions_by_modified ON sessions (archived, modified_ms, pk);
CREATE INDEX sessions_by_created ON sessions (created_ms, pk);
CREATE INDEX sessions_with_pending ON sessions (pk) WHERE pending > 0;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER,
    parent_seq INTEGER,
    head INTEGER NOT NULL,
    indexed INTEGER NOT NULL
);
CREATE INDEX segments_to_index ON segments (id) WHERE indexed < head;
CREATE INDEX segments_by_parent ON segments (parent) WHERE parent IS NOT NULL;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE snapshots (
    segment INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE VIEW spoken AS
    SELECT id, json_extract(CAST(body AS TEXT), '$.data.content') AS text FROM events;
CREATE VIRTUAL TABLE said USING fts5 (
    text, content = 'spoken', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""  # noqa: S608 - constants

_opening = threading.Lock()


def open_database(path: Path) -> sqlite3.Connection:
    """A connection to the database at `path`, made if need be. Raises `StoreFailed`."""
    import sqlite3  # by the thread that needs it: the start does not

    try:
        with _opening:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _keep_what_was_lost(path)
            _make_file(path)
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
        raise failure(error, path) from error
    return db


def _make_file(path: Path) -> None:
    """A new file for the user alone. One that is there is not touched: closing any descriptor of it
    drops the locks of this process's connections, and who closes the database next, believing to
    be the last, removes its write-ahead log."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _make_ready(db: sqlite3.Connection, path: Path) -> None:
    version = _known_version(db, path)  # before anything is written
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file
    _use_write_ahead_log(db)
    db.execute("PRAGMA synchronous = NORMAL")  # the writer syncs the log itself
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute(f"PRAGMA journal_size_limit = {limits.WAL_BYTES}")
    db.execute(f"PRAGMA cache_size = -{limits.STORE_CACHE_KIB}")
    if version < SCHEMA_VERSION:
        _prepare(db)


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Two openers of a new file get in each other's way here, and SQLite does not wait for it."""
    import sqlite3

    until = time.monotonic() + limits.STORE_BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_held(error) or time.monotonic() > until:
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
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        (things,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version or things:
            raise StoreFailed(
                f"{path} is a database of something else. Nothing was changed; name another --home."
            )
    return version


def _keep_what_was_lost(path: Path) -> None:
    """SQLite begins anew where the file is missing or empty, and removes the log of the old one,
    which may be all that is left. Raises `StoreFailed`."""
    log = path.with_name(path.name + "-wal")
    if _size(path) <= EMPTY_BYTES and _size(log) > 0:
        raise StoreFailed(
            f"{path} is gone or empty, and its write-ahead log is still there. Nothing was changed."
            " Put the file back, or have `tertulia doctor --repair` bring back what the log has."
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing. Beside a daemon it sees what was committed."""
    import sqlite3

    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=limits.STORE_BUSY_TIMEOUT_S,
        isolation_level=None,
    )


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def event_id(segment: int, seq: int) -> int:
    """The row id of an event."""
    return segment << SEQ_BITS | seq


def seq_of(row_id: int) -> int:
    return row_id & ((1 << SEQ_BITS) - 1)


def segment_of(row_id: int) -> int:
    return row_id >> SEQ_BITS
