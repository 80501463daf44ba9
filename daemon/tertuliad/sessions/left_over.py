"""Messages that an earlier process accepted and did not come to: their turns begin at the start.

A message whose model needs a key from a client waits for it; so does one whose queue is paused, or
whose session another process works on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from tertulia_protocol.errors import RpcError
from tertuliad import limits
from tertuliad.replies import settled
from tertuliad.sessions.registry import Sessions
from tertuliad.store.base import ListQuery, Store

log = logging.getLogger(__name__)


async def take_up(store: Store, sessions: Sessions, stopping: Callable[[], bool]) -> None:
    """Begin what was left over, so many turns at once. Ends when the last one has."""
    room = anyio.Semaphore(limits.LEFT_OVER_TURNS)

    async def finish(session_id: str) -> None:
        try:
            await sessions.go_on(session_id).settled()
            await sessions.when_quiet(session_id).settled()
        except RpcError as error:
            log.info("what waits in session %s is left to others: %s", session_id, error)
        finally:
            room.release()

    after: str | None = None
    async with anyio.create_task_group() as tasks:
        while not stopping():
            wanted = ListQuery(pending=True, limit=limits.LEFT_OVER_TURNS, after=after)
            page = await settled(store.rows(wanted))
            for row in page.rows:
                await room.acquire()
                if not stopping():
                    tasks.start_soon(finish, row.id)
            after = page.cursor
            if after is None:
                return
