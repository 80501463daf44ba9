"""What handlers work with: the daemon's parts, and the connection that asks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from tertulia_protocol.config import SessionConfig, given_providers
from tertulia_protocol.errors import SessionNotFound
from tertulia_protocol.provider_config import SessionProviders
from tertuliad.follow import Hub, Outlet
from tertuliad.models import Models
from tertuliad.replies import Reply
from tertuliad.sessions.registry import Sessions
from tertuliad.sessions.world import World


class Caller(Outlet, Protocol):
    """The connection that a request came from."""

    authenticated: bool
    ending: bool
    """It asks no more, and waits only for answers."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The engine, for those handlers that need it. Outlives every connection."""

    world: World
    sessions: Sessions
    hub: Hub
    models: Models
    warm: Callable[[], None]
    """Have ready what the first turn will need, without waiting for it."""
    deleted: Callable[[str], None]
    """Tell every connection that a session is gone."""

    def keep_providers(self, session_id: str, config: SessionConfig) -> None:
        """Keep in memory what the settings say of endpoints and keys; nothing said changes
        nothing."""
        given = given_providers(config)
        if given is None:
            return
        kept = self.world.credentials
        before = kept.get(session_id)
        if before is not None and given.provider is None and before.provider is None:
            given = SessionProviders(
                providers=given.providers or before.providers, models=given.models or before.models
            )
        kept[session_id] = given

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
