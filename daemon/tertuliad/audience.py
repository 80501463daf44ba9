"""What every connection of the daemon is told: the list of sessions changed."""

from __future__ import annotations

from collections.abc import Set

import msgspec

from tertulia_protocol import events
from tertulia_protocol.framing import encode_frame
from tertuliad.clock import iso
from tertuliad.connection import Connection
from tertuliad.follow import Outlet
from tertuliad.store.base import Row

_encoder = msgspec.json.Encoder()


class Audience:
    """Outlives every connection. Whom it cannot tell because it lags will list anew anyway, and who
    has said nothing yet has listed nothing."""

    def __init__(self, connections: set[Connection]) -> None:
        """`connections` are those that have said something, whenever somebody looks."""
        self._connections = connections

    def tell_changed(self, kind: events.LifecycleType, row: Row) -> None:
        """A session was created or updated."""
        metadata = events.LifecycleMetadata(
            start_time=iso(row.created_ms), modified_time=iso(row.modified_ms), summary=row.title
        )
        self._tell(events.SessionLifecycleParams(type=kind, session_id=row.id, metadata=metadata))

    def tell_deleted(self, session_id: str, followers: Set[Outlet]) -> None:
        """A session is gone. `followers` have no other way to learn it."""
        gone = events.SessionLifecycleParams(type="session.deleted", session_id=session_id)
        self._tell(gone, followers)

    def _tell(
        self, params: events.SessionLifecycleParams, certainly: Set[Outlet] = frozenset()
    ) -> None:
        note = {"jsonrpc": "2.0", "method": "session.lifecycle", "params": params}
        frame = encode_frame(_encoder.encode(note))
        for connection in self._connections:
            if connection in certainly:
                connection.send(frame)
            else:
                connection.offer(frame)
