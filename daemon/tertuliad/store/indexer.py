"""Full-text indexing off the path of a turn: a while after something was stored, never before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.replies import settled
from tertuliad.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


class Indexer:
    """Has a task only while something waits. What the end of the daemon, or a store that fails,
    leaves over is indexed by the next search, or when something is stored again."""

    def __init__(
        self, store: SqliteStore, spawn: Spawn, *, pause_s: float = limits.INDEX_PAUSE_S
    ) -> None:
        self._store = store
        self._spawn = spawn
        self._pause_s = pause_s
        self._waiting = False

    def changed(self) -> None:
        """Something was stored."""
        if not self._waiting:
            self._waiting = True
            self._spawn(self._run)

    async def _run(self) -> None:
        try:
            await anyio.sleep(self._pause_s)
        finally:
            self._waiting = False  # what is stored from here on may be too late for this one
        try:
            while await settled(self._store.index()):
                pass
        except StoreFailed as error:
            log.warning("what was said is not indexed: %s", error)
