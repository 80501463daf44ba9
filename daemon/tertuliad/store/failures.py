"""What is told of a store that fails, and the outcomes that are no failures."""

from __future__ import annotations

from tertulia_protocol.errors import InvalidParams, StoreFailed
from tertuliad import limits
from tertuliad.store.base import AlreadyThere, HeadMoved, NotThere

REFUSALS = (HeadMoved, AlreadyThere, NotThere, InvalidParams)
"""Raised by work before it has changed anything."""


def failure(error: Exception, where: object = None) -> Exception:
    """`error` as it goes to whoever waits."""
    import sqlite3

    if isinstance(error, sqlite3.Error | OSError):
        at = f" at {where}" if where is not None else ""
        return StoreFailed(
            f"The session store{at} failed: {error}. {_advice(str(error))}",
            retry_ms=limits.STORE_RETRY_MS if _is_held(str(error)) else None,
        )
    return error


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
