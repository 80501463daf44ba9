"""The write-ahead log has its full length early, and what stands in it is what SQLite wrote."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.store.base import ListQuery
from tertuliad.store.file import DatabaseFile
from tertuliad.store.log_file import LogFile
from tertuliad.store.pages import Image
from tertuliad.store.schema import FILE_NAME
from tertuliad.store.sqlite import SqliteStore
from tests.support.store_alone import done, event, loaded, log_of

pytestmark = pytest.mark.anyio


async def filled(store: SqliteStore, events: int) -> None:
    await done(store.create(event("s", 1)))
    for head in range(2, events + 1):
        await done(store.append(event("s", head)))
    await done(store.delete(["nobody"]))  # behind whatever was begun by then


async def test_a_process_that_stores_much_has_a_log_of_full_length(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await filled(store, limits.WAL_SHORT_CHANGES // 2)
    assert log_of(tmp_path).stat().st_size < limits.WAL_BYTES
    for head in range(limits.WAL_SHORT_CHANGES // 2 + 1, 2 * limits.WAL_SHORT_CHANGES):
        await done(store.append(event("s", head)))
    assert log_of(tmp_path).stat().st_size == limits.WAL_BYTES
    store.close()
    assert not log_of(tmp_path).exists()


async def test_what_a_killed_process_leaves_is_read_up_to_the_zeros(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "lives", asyncio.get_running_loop())
    await filled(store, 100)
    shutil.copytree(tmp_path / "lives", tmp_path / "killed")
    store.close()
    (tmp_path / "killed" / f"{FILE_NAME}-shm").unlink()  # SQLite makes it anew from the log
    data = log_of(tmp_path / "killed").read_bytes()
    assert not any(data[-500_000:]), "zeros are ahead of the log"
    image = Image(tmp_path / "killed" / FILE_NAME)
    db = sqlite3.connect(tmp_path / "killed" / FILE_NAME)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("SELECT count(*) FROM events").fetchone() == (100,)
    assert db.execute("PRAGMA page_count").fetchone() == (image.pages,)
    db.close()
    image.close()
    again = SqliteStore(tmp_path / "killed", asyncio.get_running_loop())
    log = await done(again.load("s"))
    assert log is not None
    assert log.row.head == 100
    again.close()


async def test_a_log_that_cannot_be_lengthened_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset > limits.WAL_BYTES // 2:
            raise OSError(errno.ENOSPC, "the disk is full")
        return write(fd, data[: limits.WAL_BYTES // 2], offset)

    monkeypatch.setattr(os, "pwrite", full)
    log_of(tmp_path).write_bytes(b"some")
    log = LogFile(tmp_path / FILE_NAME)
    with pytest.raises(OSError, match="full"):
        log.lengthen()
    log.close()
    assert log_of(tmp_path).read_bytes() == b"some"
    log_of(tmp_path).unlink()

    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await filled(store, 100)
    assert log_of(tmp_path).stat().st_size < limits.WAL_BYTES
    assert (await loaded(store, "s")).row.head == 100
    store.close()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
async def test_what_would_be_written_to_a_removed_file_is_refused(
    tmp_path: Path, suffix: str, how: str
) -> None:
    """It would be lost with the process, and who was answered would never know."""
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await filled(store, 3)
    removed = tmp_path / f"{FILE_NAME}{suffix}"
    elsewhere = removed.with_name("elsewhere")
    if how == "moved":
        removed.rename(elsewhere)
    else:
        removed.unlink()
    if how == "replaced":
        removed.write_bytes(b"")
    with pytest.raises(StoreFailed, match=f"{removed} was moved, removed or replaced"):
        await done(store.append(event("s", 4)))
    assert (await loaded(store, "s")).row.head == 3
    if how == "moved":
        elsewhere.rename(removed)
        await done(store.append(event("s", 4)))
        assert (await loaded(store, "s")).row.head == 4
    store.close()


@pytest.mark.parametrize("first", ["done", "refused"])
async def test_the_folder_of_a_new_log_is_synced_before_anything_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    synced: list[int] = []

    def refuse(file: DatabaseFile) -> None:
        raise StoreFailed("not now")

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    if first == "refused":
        with monkeypatch.context() as patch:
            patch.setattr(DatabaseFile, "check", refuse)
            with pytest.raises(StoreFailed):
                await done(store.create(event("s", 1)))
    await done(store.create(event("s", 1)))
    assert tmp_path.stat().st_ino in synced
    store.close()


@pytest.mark.parametrize("place", ["empty", "taken by another"])
async def test_who_reads_first_while_the_folder_is_away_begins_nothing_in_its_place(
    tmp_path: Path, place: str
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    store = SqliteStore(home, asyncio.get_running_loop())
    await done(store.create(event("s", 1)))
    home.rename(away)
    if place == "taken by another":
        other = SqliteStore(home, asyncio.get_running_loop())
        await done(other.create(event("other", 1)))
        other.close()
    for _ in range(2):
        with pytest.raises(StoreFailed, match="was moved, removed or replaced"):
            await done(store.rows(ListQuery()))
    assert home.exists() == (place == "taken by another")
    shutil.rmtree(home, ignore_errors=True)
    away.rename(home)
    assert [row.id for row in (await done(store.rows(ListQuery()))).rows] == ["s"]
    store.close()


async def test_a_database_that_is_a_link_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    elsewhere = tmp_path / "elsewhere.db"
    (tmp_path / "home" / FILE_NAME).symlink_to(elsewhere)
    store = SqliteStore(tmp_path / "home", asyncio.get_running_loop())
    with pytest.raises(StoreFailed, match="is a symbolic link"):
        await done(store.create(event("s", 1)))
    store.close()
    assert not elsewhere.exists()
