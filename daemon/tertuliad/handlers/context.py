"""What handlers work with: the daemon's parts, and the connection that asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from tertulia_protocol.config import SessionConfig
from tertulia_protocol.envelope import sayable
from tertulia_protocol.errors import Overloaded, SessionNotFound
from tertulia_protocol.provider_config import SessionProviders
from tertuliad import limits
from tertuliad.askers import asker, asking
from tertuliad.follow import Hub, Outlet
from tertuliad.handlers.arrivals import Arrivals
from tertuliad.models import Models
from tertuliad.named_files import NamedFiles
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions.registry import Sessions
from tertuliad.sessions.world import World
from tertuliad.store.base import Row


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

    def keep_providers(self, session_id: str, config: SessionConfig) -> None:
        """Keep in memory what the settings of a session, which has just taken them, say of
        endpoints and keys; nothing said changes nothing."""
        if given := SessionProviders(config.provider, config.providers):
            created_ms = self.sessions.created_ms(session_id)
            self.world.credentials.keep(session_id, created_ms, given)

    def delete(self, session_id: str, known: Row | None = None) -> Reply:
        """Remove a session with all that is kept in memory for it, if it is as `known`, and tell
        everybody; answers the bytes it had, None: there was none, or it stays."""

        def forget(freed: int | None) -> int | None:
            if freed is not None:
                self.deleted(session_id)
            return freed

        return mapped(self.sessions.delete(session_id, known), forget)

    def forget_another(self, session_id: str) -> None:
        """There is no session of that id, or a new one that nobody follows yet: whoever follows it
        follows another one, which another daemon has deleted, and that was not heard of yet."""
        if self.hub.followers(session_id) or session_id in self.world.credentials:
            self.deleted(session_id)

    async def make_way(self, session_id: str) -> None:
        """The same, before a session is made that clients can attach to as soon as it is there."""
        before = self.hub.followers(session_id)
        if before or session_id in self.world.credentials:
            row = await settled(self.world.store.row(session_id))
            if row is None and self.hub.followers(session_id) == before:
                self.forget_another(session_id)

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

    def need_attached(self, caller: Caller, session_id: str) -> None:
        """Raise `SessionNotFound` unless the caller created or resumed the session."""
        if not self.hub.follows(caller, session_id):
            raise SessionNotFound.of(session_id)


def on_success(reply: Reply, act: Callable[[], None]) -> Reply:
    """Have `act` done when the reply has its result, before anybody sees it."""

    def check(done: Future[Any]) -> None:
        if done.exception() is None:
            act()

    reply.add_done_callback(check)
    return reply
