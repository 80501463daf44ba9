"""Full-text indexing off the path of a turn: once nothing was stored for a while, or when it has
waited for long. A search indexes what is new itself: it never has to wait for this."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.replies import settled
from tertuliad.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from tertuliad.tasks import Spawn

log = logging.getLogger(__name__)


class Indexer:
    """Has a task only while something waits. What the end of the daemon, or a store that fails,
    leaves over is indexed by the next search, or when something is stored again."""

    def __init__(
        self,
        store: SqliteStore,
        spawn: Spawn,
        *,
        pause_s: float = limits.INDEX_PAUSE_S,
        late_s: float = limits.INDEX_LATE_S,
    ) -> None:
        self._store = store
        self._spawn = spawn
        self._pause_s = pause_s
        self._late_s = late_s
        self._waiting = False
        self._since = self._last = 0.0
        """When the first and the latest of what waits was stored."""

    def changed(self) -> None:
        """Something was stored."""
        self._last = time.monotonic()
        if not self._waiting:
            self._waiting = True
            self._since = self._last
            self._spawn(self._run)

    @property
    def due_s(self) -> float:
        """When what waits is to be indexed, by the monotonic clock."""
        return min(self._last + self._pause_s, self._since + self._late_s)

    async def _run(self) -> None:
        try:
            while (wait := self.due_s - time.monotonic()) > 0:  # noqa: ASYNC110
                await anyio.sleep(wait)
        finally:
            self._waiting = False  # what is stored from here on may be too late for this one
        try:
            while await settled(self._store.index()):
                pass
        except StoreFailed as error:
            log.warning("what was said is not indexed: %s", error)
