"""Syncing: what is answered is on the disk. By the kernel: told when it is done, told why not, and
done without it where it is not offered."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tertulia_protocol.errors import StoreFailed
from tertuliad.store import kernel_sync
from tertuliad.store.kernel_sync import Done, KernelSync, offered
from tertuliad.store.schema import FILE_NAME
from tertuliad.store.sqlite import SqliteStore
from tests.support.store_alone import done, event

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


@pytest.mark.parametrize("end", [0, 1], ids=["to read", "to write"])
async def test_what_the_kernel_is_asked_for_is_a_sync(kernel: KernelSync, end: int) -> None:
    """A pipe is polled, read and written, and never synced: the kernel refuses nothing else."""
    pipe = os.pipe()
    try:
        os.write(pipe[1], b"x")
        with pytest.raises(OSError) as refused:
            kernel.sync(pipe[end], lambda _: None)
        assert refused.value.errno == errno.EINVAL
    finally:
        for each in pipe:
            os.close(each)


async def test_who_is_woken_for_nothing_does_not_wait_for_an_outcome(kernel: KernelSync) -> None:
    told: list[OSError | None] = []
    kernel._done = told.append  # as if a sync were under way
    kernel._ready()
    assert told == []
    kernel._done = None


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
    await done(store.create(event("first", 1)))  # by the thread, which opens the file
    faults = [OSError(errno.EIO, "the disk is broken")]
    sync = KernelSync.sync

    def failing(self: KernelSync, file: int, done: Done) -> None:
        fault = faults.pop() if faults else None
        sync(self, file, lambda error: done(fault or error))

    monkeypatch.setattr(KernelSync, "sync", failing)
    with pytest.raises(StoreFailed, match="the disk is broken"):
        await done(store.create(event("second", 1)))
    log = tmp_path / f"{FILE_NAME}-wal"
    before = log.stat().st_size
    await done(store.create(event("third", 1)))
    assert log.stat().st_size < before, "the log, which may have a hole, was begun anew"
    await done(store.create(event("fourth", 1)))
    store.close()


@pytest.mark.parametrize("numbers", [{}, {"x86_64": (9999,) * 4, "aarch64": (9999,) * 4}])
async def test_without_it_a_thread_makes_changes_durable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, numbers: dict[str, tuple[int, ...]]
) -> None:
    monkeypatch.setattr(kernel_sync, "_NUMBERS", numbers)
    assert offered(asyncio.get_running_loop()) is None
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    for number in range(5):
        await done(store.create(event(f"s{number}", 1)))
    assert "store-writer" in {thread.name for thread in threading.enumerate()}
    store.close()


# What is answered is on the disk: that it was synced cannot be seen by killing a process


class Disk:
    """Holds back each sync that was done. All but `sync` is for the event loop's thread."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._loop = asyncio.get_running_loop()
        self._held = anyio.Event()
        self._release: Callable[[], None] = lambda: None
        self.synced: list[tuple[bool, int]] = []
        """For each sync: was it one of the write-ahead log; how many events were written before."""

    def note(self, fd: int) -> None:
        """A sync of `fd` begins."""
        log = os.stat(f"{self._file}-wal")
        db = sqlite3.connect(self._file)
        (events,) = db.execute("SELECT count(*) FROM events").fetchone()
        db.close()
        self.synced.append((os.path.samestat(os.fstat(fd), log), events))

    def hold(self, release: Callable[[], None]) -> None:
        """A sync is done, and would be told by `release`."""
        self._release = release
        self._held.set()

    def sync(self, fd: int) -> None:
        """In the place of the C library's function, on the writer's thread."""
        os.fsync(fd)
        self.note(fd)
        told = threading.Event()
        self._loop.call_soon_threadsafe(self.hold, told.set)
        assert told.wait(20)

    async def answers_only_after_its_sync(self, asked: Future[None]) -> None:
        with anyio.fail_after(20):
            await self._held.wait()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not asked.done(), "answered before its sync was done"
            self._held = anyio.Event()
            self._release()
            await asyncio.wrap_future(asked)


async def test_what_the_kernel_syncs_is_answered_after_a_sync_of_the_write_ahead_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: KernelSync
) -> None:
    store, disk = SqliteStore(tmp_path, asyncio.get_running_loop()), Disk(tmp_path)
    await done(store.create(event("first", 1)))  # by the thread, which opens the file
    sync = KernelSync.sync

    def holding(self: KernelSync, file: int, done: Done) -> None:
        disk.note(file)
        sync(self, file, lambda error: disk.hold(partial(done, error)))

    monkeypatch.setattr(KernelSync, "sync", holding)
    await disk.answers_only_after_its_sync(store.create(event("second", 1)))
    await disk.answers_only_after_its_sync(store.append(event("second", 2)))
    await disk.answers_only_after_its_sync(store.append(event("first", 2)))
    assert disk.synced == [(True, 2), (True, 3), (True, 4)]
    store.close()


async def test_what_the_thread_syncs_is_answered_after_a_sync_of_the_write_ahead_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernel_sync, "_NUMBERS", {})
    store, disk = SqliteStore(tmp_path, asyncio.get_running_loop()), Disk(tmp_path)
    monkeypatch.setattr(os, "fdatasync", disk.sync, raising=False)
    await disk.answers_only_after_its_sync(store.create(event("first", 1)))  # the thread's whole
    await disk.answers_only_after_its_sync(store.create(event("second", 1)))
    await disk.answers_only_after_its_sync(store.append(event("second", 2)))
    assert disk.synced == [(True, 1), (True, 2), (True, 3)]
    store.close()


async def test_a_disk_that_fails_under_the_thread_is_told_to_who_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernel_sync, "_NUMBERS", {})
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await done(store.create(event("first", 1)))

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing, raising=False)
        with pytest.raises(StoreFailed, match="the disk is broken"), anyio.fail_after(20):
            await asyncio.wrap_future(store.append(event("first", 2)))
    await done(store.create(event("second", 1)))
    store.close()
