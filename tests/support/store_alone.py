"""A store without an engine: what its futures give, and the smallest thing to put into it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import anyio

from tertuliad.store.base import Append, Log, Record, Row, Store
from tertuliad.store.schema import FILE_NAME
from tests.support.in_process_model import PATIENCE_S

T = TypeVar("T")


async def done(future: Future[T]) -> T:
    """What a store's future gives, within a bound."""
    with anyio.fail_after(PATIENCE_S):
        return await asyncio.wrap_future(future)


async def loaded(store: Store, session_id: str) -> Log:
    """A log that has to be there."""
    found = await done(store.load(session_id))
    assert found is not None, f"there is no {session_id}"
    return found


def event(session_id: str, head: int) -> Append:
    """The next event of a log, which is `head` events long then."""
    row = Row(id=session_id, created_ms=1, modified_ms=1, head=head)
    return Append(head - 1, row, (Record(head, "type", b"{}"),))


def log_of(folder: Path) -> Path:
    """The write-ahead log."""
    return folder / f"{FILE_NAME}-wal"
