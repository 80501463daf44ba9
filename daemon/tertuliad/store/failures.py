"""What is told of a store that fails, and the outcomes that are no failures."""

from __future__ import annotations

from tertulia_protocol.errors import InvalidParams, StoreFailed
from tertuliad import limits, open_files
from tertuliad.store.base import AlreadyThere, HeadMoved, NotThere

REFUSALS = (HeadMoved, AlreadyThere, NotThere, InvalidParams)
"""Raised by work before it has changed anything."""


SQLITE_FILES = 3
"""What SQLite opens of a database: the file, its log and the log's index."""


def failure(error: Exception, where: object = None) -> Exception:
    """`error` as it goes to whoever waits."""
    import sqlite3

    if not isinstance(error, sqlite3.Error | OSError):
        return error
    at = f" at {where}" if where is not None else ""
    advice, retry_ms = _advice(str(error)), None
    if _is_held(str(error)):
        retry_ms = limits.STORE_RETRY_MS
    elif _files_are_short(error):
        advice, retry_ms = open_files.told(), limits.CONNECTIONS_RETRY_MS
    return StoreFailed(f"The session store{at} failed: {error}. {advice}", retry_ms=retry_ms)


def _files_are_short(error: Exception) -> bool:
    """SQLite does not say why it cannot open a file; by then it has closed what it had opened."""
    if "unable to open" in str(error):
        return not open_files.can_open(SQLITE_FILES)
    return open_files.are_short(error)


def _is_held(text: str) -> bool:
    return "locked" in text or "busy" in text


def _advice(text: str) -> str:
    if _is_held(text):
        return "Another process holds it; try again."
    if any(sign in text for sign in ("malformed", "not a database", "decode to UTF-8")):
        return "The file is damaged; it was left as it is. `tertulia doctor` looks into it."
    if "full" in text:
        return "Free some disk space and try again."
    return "Check that the data folder exists and can be written; `tertulia doctor` looks into it."
