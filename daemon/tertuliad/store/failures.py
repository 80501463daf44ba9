"""What is told of a store that fails, and the outcomes that are no failures."""

from __future__ import annotations

import errno

from tertulia_protocol.errors import InvalidParams, StoreFailed
from tertuliad import limits, open_files
from tertuliad.store.base import AlreadyThere, HeadMoved, LogFull, NotThere

REFUSALS = (HeadMoved, AlreadyThere, NotThere, LogFull, InvalidParams)
"""Raised by work before it has changed anything."""


SQLITE_FILES = 3
"""What SQLite opens of a database: the file, its log and the log's index."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNREADABLE = "decode to UTF-8"  # said by Python's module of a column's text


def failure(error: Exception, where: object = None) -> Exception:
    """`error` as it goes to whoever waits."""
    import sqlite3

    if not isinstance(error, sqlite3.Error | OSError):
        return error
    at = f" at {where}" if where is not None else ""
    advice, retry_ms = _advice(error)
    return StoreFailed(f"The session store{at} failed: {error}. {advice}", retry_ms=retry_ms)


def is_held(error: Exception) -> bool:
    """Whether another process holds the database."""
    import sqlite3

    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_full(error: BaseException | None) -> bool:
    """Whether the disk has no room: that of the log's index is told as an error of the disk."""
    import sqlite3

    code = getattr(error, "sqlite_errorcode", None)
    full = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
    return code in full or getattr(error, "errno", None) in _FULL


def _code(error: Exception) -> int | None:
    """SQLite's own, without what it says more closely; the module's own errors have none."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _advice(error: Exception) -> tuple[str, int | None]:
    """What to do, and when to try again, if that helps."""
    import sqlite3

    code = _code(error)
    if is_held(error):
        return "Another process holds it; try again.", limits.STORE_RETRY_MS
    if _files_are_short(error, code == sqlite3.SQLITE_CANTOPEN):
        return open_files.told(), limits.CONNECTIONS_RETRY_MS
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _UNREADABLE in str(error):
        return "The file is damaged; it was left as it is. `tertulia doctor` looks into it.", None
    if is_full(error):
        return "Free some disk space and try again.", None
    return (
        "Check that the data folder exists and can be written; `tertulia doctor` looks into it.",
        None,
    )


def _files_are_short(error: Exception, cannot_open: bool) -> bool:
    """SQLite does not say why it cannot open a file; by then it has closed what it had opened."""
    if cannot_open:
        return not open_files.can_open(SQLITE_FILES)
    return open_files.are_short(error)
