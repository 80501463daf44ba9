"""What is told of a store that fails: by the error's code, never by words that may be a path's."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.store.failures import failure, is_held


def told(error: Exception) -> StoreFailed:
    found = failure(error, "/home/busybee")
    assert isinstance(found, StoreFailed)
    return found


@pytest.mark.parametrize("path", ["/home/busybee/data", "/srv/locked", "/full/of/malformed"])
def test_words_of_a_path_say_nothing(path: str) -> None:
    found = told(PermissionError(errno.EACCES, "Permission denied", path))
    assert "can be written" in found.message
    assert "retryMs" not in (found.data or {})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_that(code: int) -> None:
    assert "Free some disk space" in told(OSError(code, "no room")).message


def of_sqlite(tmp_path: Path, work: str) -> Exception:
    """What SQLite itself raises."""
    path = tmp_path / "x.db"
    if work == "damaged":
        path.write_bytes(b"no database at all, whatever else it is" * 100)
    db, other = (sqlite3.connect(path, isolation_level=None, timeout=0) for _ in range(2))
    try:
        if work == "held":
            other.execute("BEGIN IMMEDIATE")
        db.execute("PRAGMA max_page_count = 1")
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (zeroblob(100000))")
    except sqlite3.Error as error:
        return error
    finally:
        db.close()
        other.close()
    raise AssertionError("nothing failed")


@pytest.mark.parametrize(
    ("work", "advice"),
    [
        ("held", "Another process holds it"),
        ("damaged", "`tertulia doctor` looks into it"),
        ("full", "Free some disk space"),
    ],
)
def test_what_sqlite_says_is_told_with_what_to_do(tmp_path: Path, work: str, advice: str) -> None:
    error = of_sqlite(tmp_path, work)
    found = told(error)
    assert advice in found.message
    assert is_held(error) == (work == "held")
    assert (found.data or {}).get("retryMs") == (limits.STORE_RETRY_MS if work == "held" else None)


def test_a_disk_without_room_for_the_logs_index_is_told_as_full() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert "Free some disk space" in told(error).message


def test_what_is_no_failure_of_the_store_passes() -> None:
    error = ValueError("x")
    assert failure(error) is error
