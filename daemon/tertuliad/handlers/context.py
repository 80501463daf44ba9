"""What handlers work with: the daemon's parts, and the connection that asks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from tertulia_protocol.config import SessionConfig
from tertulia_protocol.envelope import sayable
from tertulia_protocol.errors import Draining, Overloaded, SessionNotFound, StoreFailed
from tertulia_protocol.provider_config import SessionProviders
from tertuliad import limits
from tertuliad.askers import asker, asking
from tertuliad.follow import Hub, Outlet
from tertuliad.handlers.arrivals import Arrivals
from tertuliad.models import Models
from tertuliad.named_files import NamedFiles
from tertuliad.replies import Reply, mapped
from tertuliad.sessions.decide import Decide
from tertuliad.sessions.registry import Sessions
from tertuliad.sessions.world import World
from tertuliad.store.base import NotThere, Range, Record, Row


def working_directory() -> str:
    """Where the daemon works; the root, once that folder was removed."""
    try:
        return sayable(os.getcwd())
    except FileNotFoundError:
        return os.sep


class Caller(Outlet, Protocol):
    """The connection that a request came from."""

    @property
    def authenticated(self) -> bool: ...

    def let_in(self) -> None:
        """It has said the token."""

    ending: bool
    """It asks no more, and waits only for answers."""

    @property
    def is_over(self) -> bool:
        """Nothing more comes or leaves."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The engine, for those handlers that need it. Outlives every connection."""

    world: World
    sessions: Sessions
    hub: Hub
    models: Models
    arrivals: Arrivals
    files: NamedFiles
    opened: Callable[[], None]
    """Have ready what the first turn will need, without waiting for it, and look for what others
    write."""
    deleted: Callable[[str], None]
    """Forget what is kept in memory for a session that is gone, and tell everybody."""
    look_at: Callable[[str], Awaitable[None]]
    """Find out whether a session that is minded here is still there, and let go of it if not."""

    def keep_providers(self, session_id: str, config: SessionConfig) -> None:
        """Keep in memory the endpoints and keys among the settings that a session has just taken.
        Where there are none, what was kept before stays."""
        if given := SessionProviders(config.provider, config.providers):
            created_ms = self.sessions.just_told(session_id).created_ms
            self.world.credentials.keep(session_id, created_ms, given)

    def delete(self, session_id: str, known: Row | None = None) -> Reply:
        """Remove a session with all that is kept in memory for it, if it is as `known`, and tell
        everybody; answers the bytes it had, None: there was none, or it stays."""

        def forget(freed: int | None) -> int | None:
            if freed is not None:
                self.deleted(session_id)
            elif known is None:
                self.forget_others(session_id, 0)  # it went before, and that was not heard of
            return freed

        return mapped(self.sessions.delete(session_id, known), forget)

    def forget_others(self, session_id: str, created_ms: int) -> None:
        """Let go of what is kept here for an earlier session of this id than the one made at
        `created_ms`, or with 0 for any. Another daemon has deleted it, and that was not heard of
        yet."""
        followed = self.hub.known(session_id)
        kept_ms = self.world.credentials.created_ms(session_id)
        is_other = followed is not None and followed.created_ms != created_ms
        if is_other or kept_ms not in (0, created_ms):
            self.deleted(session_id)

    def after_a_look(self, session_id: str, make: Callable[[], Reply]) -> Reply:
        """What `make` gives, which makes or takes up a session. Where something of that id is under
        way here, the store is looked into first: it may be of a session that is gone."""
        if not self.sessions.works(session_id):
            return make()
        final = Reply()

        async def run() -> None:
            try:
                with contextlib.suppress(StoreFailed):  # the command finds out what that means
                    await self.look_at(session_id)
                make().add_done_callback(final.follow)
            except Exception as error:  # noqa: BLE001 - the gate maps it
                final.fail(error)
            except BaseException:
                final.fail(Draining.of("opens no more sessions"))
                raise

        self.spawn(run)
        return final

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that goes on for whoever asks now, and may outlive it."""
        who = asker.get()

        async def run() -> None:
            with asking(who):
                await work()

        self.world.spawn(run)

    def need_room(self, caller: Caller, session_id: str) -> None:
        """Raise `Overloaded` where the caller follows as many other sessions as it may."""
        if self.hub.follows(caller, session_id):
            return
        if self.hub.followed(caller) >= limits.FOLLOWED_SESSIONS:
            raise Overloaded(
                f"This connection follows {limits.FOLLOWED_SESSIONS} sessions, and it may follow no"
                " more. Let some go with session.detach first, or open another connection."
            )

    def need_turn(self, caller: Caller) -> None:
        """Raise `Overloaded` where few turns are left, and most of those that run are of sessions
        that the caller follows: the rest is for others."""
        running = self.world.running
        if len(running) < limits.TURNS_SHARE * limits.TURNS_AT_ONCE:
            return
        own = sum(self.hub.follows(caller, session_id) for session_id in running)
        if own > len(running) / 2:
            raise Overloaded(
                f"{own} turns run in this connection's sessions, and what is left of the"
                f" {limits.TURNS_AT_ONCE} of this daemon is for others, until one ends; try again.",
                retry_ms=limits.TURN_RETRY_MS,
            )

    def need_attached(self, caller: Caller, session_id: str) -> int:
        """When the session was made that the caller is attached to: another one may have its id by
        now. Raises `SessionNotFound` where it neither created nor resumed one."""
        followed = self.hub.known(session_id)
        if followed is None or not self.hub.follows(caller, session_id):
            raise SessionNotFound.of(session_id)
        return followed.created_ms

    def post(
        self, caller: Caller, session_id: str, command: Decide, *, first: bool = False
    ) -> Reply:
        """Have `command` done by the session that the caller is attached to."""
        created_ms = self.need_attached(caller, session_id)
        return self.sessions.post(session_id, command, first=first, created_ms=created_ms)

    def row(self, caller: Caller, session_id: str) -> Future[Row]:
        """The list row of the session that the caller is attached to."""
        created_ms = self.need_attached(caller, session_id)

        def known(row: Row | None) -> Row:
            if row is None or created_ms not in (0, row.created_ms):
                raise SessionNotFound.of(session_id)
            return row

        return mapped(self.world.store.row(session_id), known)

    def read(self, session_id: str, wanted: Range) -> Future[list[Record]]:
        """What is wanted of a session's log; fails with `SessionNotFound` where the session that is
        meant is gone."""
        final = Reply()

        def found(done: Future[list[Record]]) -> None:
            if isinstance(done.exception(), NotThere):
                final.fail(SessionNotFound.of(session_id))
            else:
                final.follow(done)

        self.world.store.read(session_id, wanted).add_done_callback(found)
        return final


def on_success(reply: Reply, act: Callable[[], object]) -> Reply:
    """Have `act` done when the reply has its result, before anybody sees it."""

    def check(done: Future[Any]) -> None:
        if done.exception() is None:
            act()

    reply.add_done_callback(check)
    return reply
