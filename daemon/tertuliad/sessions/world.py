"""What a session may ask of the rest of the daemon: its ports, wired by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from tertulia_protocol.config import given_providers
from tertulia_protocol.events import LifecycleType
from tertulia_protocol.provider_config import SessionProviders
from tertuliad.providers.base import Target
from tertuliad.sessions.credentials import Credentials, RequestHeaders
from tertuliad.sessions.retry import TurnLimits
from tertuliad.store.base import Row, Store
from tertuliad.store.owners import Owners

if TYPE_CHECKING:
    from tertuliad.sessions.sealed import Published
    from tertuliad.sessions.state import SessionState
    from tertuliad.tasks import Spawn


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Outlives every session."""

    store: Store
    owners: Owners
    resolve: Callable[[str | None, SessionProviders | None], Awaitable[Target]]
    publish: Callable[[Published], None]
    """Tell whoever follows the session; never waits."""
    lifecycle: Callable[[LifecycleType, Row], None]
    """Tell every connection that the session was created or updated."""
    spawn: Spawn
    credentials: Credentials
    request_headers: RequestHeaders
    turn_limits: TurnLimits = TurnLimits()
    running: set[str] = msgspec.field(default_factory=set)
    """The sessions that run a turn here."""
    draining: Callable[[], bool] = lambda: False
    """Whether the daemon is stopping: no turn begins any more."""
    leave_waiting: bool = False
    """Messages that an earlier process left waiting go on waiting until a client comes, even where
    a turn that it left open is ended here: this daemon may end before their answers do."""

    def has_keys(self, state: SessionState) -> bool:
        """Whether a waiting message's turn can begin unasked: the keys that a client gave to an
        earlier process are gone with it, until a client gives them again."""
        if given_providers(state.config) is None:
            return True
        return self.credentials.of(state.id, state.created_ms) is not None
