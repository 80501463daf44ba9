"""Syncing by the kernel: told when it is done, told why not, and done without it where it is not
offered."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from tertulia_protocol.errors import StoreFailed
from tertuliad.store import kernel_sync
from tertuliad.store.base import Append, Record, Row
from tertuliad.store.kernel_sync import Done, KernelSync, offered
from tertuliad.store.schema import FILE_NAME
from tertuliad.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kernel() -> AsyncIterator[KernelSync]:
    given = offered(asyncio.get_running_loop())
    if given is None:
        pytest.skip("this kernel offers no asynchronous sync")
    yield given
    given.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


async def test_each_sync_is_told_once_on_the_loops_thread(kernel: KernelSync, file: int) -> None:
    told: list[tuple[OSError | None, int]] = []

    def tell(done: anyio.Event, error: OSError | None) -> None:
        told.append((error, threading.get_ident()))
        done.set()

    for number in range(1, 11):
        os.write(file, b"x" * 10_000)
        done = anyio.Event()
        kernel.sync(file, partial(tell, done))
        with anyio.fail_after(20):
            await done.wait()
        assert told == [(None, threading.get_ident())] * number


async def test_what_cannot_be_synced_is_said(kernel: KernelSync, file: int) -> None:
    closed = os.dup(file)
    os.close(closed)
    with pytest.raises(OSError) as refused:
        kernel.sync(closed, lambda _: None)
    assert refused.value.errno == errno.EBADF
    done = anyio.Event()
    kernel.sync(file, lambda _: done.set())
    with anyio.fail_after(20):
        await done.wait()


async def test_closing_waits_for_what_is_under_way(file: int) -> None:
    kernel = offered(asyncio.get_running_loop())
    if kernel is None:
        pytest.skip("this kernel offers no asynchronous sync")
    told: list[OSError | None] = []
    os.write(file, b"x" * 1_000_000)
    kernel.sync(file, told.append)
    kernel.close()
    assert told == [None]


async def test_a_disk_that_fails_is_told_to_who_waits_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: KernelSync
) -> None:
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await created(store, "first")  # by the thread, which opens the file
    faults = [OSError(errno.EIO, "the disk is broken")]
    sync = KernelSync.sync

    def failing(self: KernelSync, file: int, done: Done) -> None:
        fault = faults.pop() if faults else None
        sync(self, file, lambda error: done(fault or error))

    monkeypatch.setattr(KernelSync, "sync", failing)
    with pytest.raises(StoreFailed, match="the disk is broken"):
        await created(store, "second")
    log = tmp_path / f"{FILE_NAME}-wal"
    before = log.stat().st_size
    await created(store, "third")
    assert log.stat().st_size < before, "the log, which may have a hole, was begun anew"
    await created(store, "fourth")
    store.close()


async def created(store: SqliteStore, session_id: str) -> None:
    row = Row(id=session_id, created_ms=1, modified_ms=1, head=1)
    with anyio.fail_after(20):
        await asyncio.wrap_future(store.create(Append(0, row, (Record(1, "type", b"{}"),))))


@pytest.mark.parametrize("numbers", [{}, {"x86_64": (9999,) * 4, "aarch64": (9999,) * 4}])
async def test_without_it_a_thread_makes_changes_durable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, numbers: dict[str, tuple[int, ...]]
) -> None:
    monkeypatch.setattr(kernel_sync, "_NUMBERS", numbers)
    assert offered(asyncio.get_running_loop()) is None
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    for number in range(5):
        await created(store, f"s{number}")
    assert "store-writer" in {thread.name for thread in threading.enumerate()}
    store.close()
