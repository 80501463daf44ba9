"""The write-ahead log is kept at its length, however much is written, and whoever writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tertuliad import limits
from tertuliad.store.base import Append, Record, Row
from tertuliad.store.sqlite import SqliteStore
from tests.support.store_alone import done, event, loaded, log_of

pytestmark = pytest.mark.anyio

LENGTH = 256 * limits.KIB


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAL_BYTES", LENGTH)
    monkeypatch.setattr(limits, "WAL_CUT_BYTES", 4 * LENGTH)


async def until(store: SqliteStore, condition: Callable[[], bool]) -> None:
    """Wait for something that happens on the store's threads."""
    with anyio.fail_after(20):
        while not condition():
            await done(store.row("s"))


async def test_changes_that_never_pause_do_not_let_it_grow(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await done(store.create(event("s", 1)))
    longest = 0

    async def write(name: str) -> None:
        nonlocal longest
        await done(store.create(event(name, 1)))
        for head in range(2, 200):
            await done(store.append(event(name, head)))
            longest = max(longest, log_of(tmp_path).stat().st_size)

    async with anyio.create_task_group() as tasks:
        for writer in range(8):
            tasks.start_soon(write, f"s{writer}")
    assert longest < 6 * LENGTH
    for writer in range(8):
        assert (await loaded(store, f"s{writer}")).row.head == 199
    store.close()


async def test_what_is_far_too_long_is_cut_off_though_nothing_comes_after(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, asyncio.get_running_loop())
    await done(store.create(event("s", 1)))
    row = Row(id="large", created_ms=1, modified_ms=1, head=1)
    body = b'"' + b"x" * (20 * LENGTH) + b'"'
    await done(store.create(Append(0, row, (Record(1, "type", body),))))
    await until(store, lambda: log_of(tmp_path).stat().st_size <= LENGTH)
    whole = await done(store.whole("large"))
    assert whole is not None
    assert whole.records[0].body == body
    store.close()


async def test_many_that_write_a_little_each_do_not_let_it_grow(tmp_path: Path) -> None:
    stays = SqliteStore(tmp_path, asyncio.get_running_loop())
    await done(stays.create(event("s", 1)))
    sizes = []
    for number in range(60):
        store = SqliteStore(tmp_path, asyncio.get_running_loop())
        await done(store.create(event(f"s{number}", 1)))
        for head in range(2, 6):
            await done(store.append(event(f"s{number}", head)))
        store.close()
        sizes.append(log_of(tmp_path).stat().st_size)
    assert max(sizes) < 3 * LENGTH
    stored = await done(stays.sizes())
    assert len(stored) == 61
    stays.close()
