"""The engine: the store and what stands on it, wired. Built when somebody needs it, once.

A daemon answers the handshake without it (`daemon`), and it needs no connection to work. Nothing of
it is on disk until a session is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from tertulia_protocol import layout
from tertulia_protocol.errors import SessionNotFound, StoreFailed
from tertulia_protocol.events import LifecycleType
from tertuliad import limits
from tertuliad.askers import NOBODY, asker
from tertuliad.audience import Audience
from tertuliad.connection import Connection
from tertuliad.follow import Hub
from tertuliad.garbage import made_to_stay
from tertuliad.handlers import table
from tertuliad.handlers.arrivals import Arrivals
from tertuliad.handlers.context import Context
from tertuliad.models import Models
from tertuliad.named_files import NamedFiles
from tertuliad.others import Others
from tertuliad.replies import Reply, all_settled
from tertuliad.rpc import Handler
from tertuliad.sessions import left_over, state
from tertuliad.sessions.credentials import Credentials, RequestHeaders
from tertuliad.sessions.registry import Sessions
from tertuliad.sessions.retry import TurnLimits
from tertuliad.sessions.world import World
from tertuliad.store.base import Row
from tertuliad.store.indexer import Indexer
from tertuliad.store.owners import Owners
from tertuliad.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from tertuliad.tasks import Spawn

log = logging.getLogger(__name__)

STOPPED = "The daemon was stopped while this turn ran; its answer is lost. Send the message again."


class Engine:
    """One for each daemon; outlives every connection. It is made on the event loop's thread."""

    def __init__(
        self,
        home: Path,
        *,
        models: Models,
        turn_limits: TurnLimits,
        session_idle_s: float = limits.SESSION_IDLE_S,
        leave_waiting: bool = False,
        connections: set[Connection],
        audience: set[Connection],
        spawn: Spawn,
        draining: Callable[[], bool],
    ) -> None:
        """`audience` are those of the `connections` that have said something; `spawn` starts a task
        that outlives every connection; `draining`: no turn begins."""
        spawn = _for_all(spawn)
        self.models = models
        self.owners = Owners(layout.run_folder(home))
        self.store = SqliteStore(home, asyncio.get_running_loop())
        self.hub = Hub(self.store, lambda session_id: self.sessions.running(session_id))
        self.world = World(
            store=self.store,
            owners=self.owners,
            resolve=models.resolve,
            publish=self.hub.publish,
            lifecycle=self._changed,
            spawn=spawn,
            credentials=Credentials(),
            request_headers=RequestHeaders(),
            turn_limits=turn_limits,
            draining=draining,
            leave_waiting=leave_waiting,
        )
        self.sessions = Sessions(self.world, idle_s=session_idle_s)
        self._audience = Audience(audience)
        self._indexer = Indexer(self.store, spawn)
        self.others = Others(
            self.store,
            self.hub,
            self.sessions,
            self.owners,
            changed=lambda row: self._audience.tell_changed("session.updated", row),
            deleted=self._deleted,
            spawn=spawn,
        )
        self._spawn = spawn
        self._arrivals = Arrivals()
        self._warmed = False
        self._opened = 0.0
        self.handlers: dict[str, Handler] = table.Bound(
            Context(
                world=self.world,
                sessions=self.sessions,
                hub=self.hub,
                models=models,
                arrivals=self._arrivals,
                files=NamedFiles(),
                opened=self._session_opened,
                deleted=self._deleted,
                look_at=self.others.look_at,
            )
        )
        for connection in connections:
            self.adopt(connection)

    def adopt(self, connection: Connection) -> None:
        """A client has come."""
        connection.on_low = lambda: self.hub.on_low(connection)
        connection.on_end = lambda: self.hub.end_waits(connection)

    async def take_up(self, stopping: Callable[[], bool]) -> None:
        """Go on with what an earlier process left waiting."""
        try:
            await left_over.take_up(self.store, self.sessions, stopping)
        except* StoreFailed as group:
            log.error("what was left waiting cannot be read: %s", group.exceptions[0])

    def _changed(self, kind: LifecycleType, row: Row) -> None:
        """Something of a session was stored."""
        self._audience.tell_changed(kind, row)
        self._indexer.changed()

    def _deleted(self, session_id: str, *, ran: bool = False) -> None:
        """A session is gone, with all that is kept in memory for it. `ran`: a turn of it did, and
        those who follow it do not know yet that it is over."""
        self.world.credentials.forget(session_id)
        self.world.request_headers.forget_session(session_id)
        self._arrivals.give_up(session_id, SessionNotFound.of(session_id))
        followers = self.hub.close_room(session_id, ran=ran)
        self._audience.tell_deleted(session_id, followers)

    def _session_opened(self) -> None:
        """What turns and sessions that come back need is made ready, once no more are opened for a
        moment: it takes the interpreter from whoever asks meanwhile."""
        self.others.watch()
        self._opened = anyio.current_time()
        if not self._warmed:
            self._warmed = True
            self._spawn(self._warm_up)

    async def _warm_up(self) -> None:
        while (quiet := self._opened + limits.WARM_PAUSE_S) > anyio.current_time():  # noqa: ASYNC110
            await anyio.sleep_until(quiet)
        with made_to_stay():
            await self.models.warm()
            await anyio.to_thread.run_sync(state.make_decoders)
            await anyio.to_thread.run_sync(table.read_all)

    # The end

    def turns_ended(self) -> Reply:
        """Settled when the turns that run now, and what is taken up behind them, have ended."""
        return all_settled([self.sessions.when_quiet(each) for each in self.world.running])

    def interrupt(self) -> Reply:
        """End every turn with an event that says so; settled when all have."""
        self.hub.keep_nothing_back()
        return all_settled(self.sessions.interrupt_all(STOPPED))

    async def aclose(self) -> None:
        """Let the models and the store go."""
        with anyio.move_on_after(limits.SHUTDOWN_GRACE_S, shield=True):
            await self.models.aclose()
        self.close()

    def close(self) -> None:
        """Let the store go."""
        self.store.close()
        self.owners.close()


def _for_all(spawn: Spawn) -> Spawn:
    """Whoever asks, what the engine begins is for all."""
    context = copy_context()
    context.run(asker.set, NOBODY)

    def spawned(work: Callable[[], Coroutine[Any, Any, None]]) -> object:
        return context.run(spawn, work)

    return spawned
