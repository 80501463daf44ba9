"""A session's list row: a fold of its log, like its state."""

from __future__ import annotations

import msgspec

from tertuliad.sessions.state import SessionState
from tertuliad.store.base import Row

_encoder = msgspec.json.Encoder()


def row_of(state: SessionState, modified_ms: int, owner: str | None = None) -> Row:
    """The row of a session whose log is folded into `state`; `owner` is who runs its turn."""
    config = state.config
    return Row(
        id=state.id,
        created_ms=state.created_ms,
        modified_ms=modified_ms,
        head=state.seq,
        title=state.title,
        named=state.named,
        model=config.model,
        cwd=config.working_directory,
        client_name=config.client_name,
        owner=owner,
        archived=state.archived,
        metadata=None if state.metadata is None else _encoder.encode(state.metadata).decode(),
        parent=state.parent,
        pending=len(state.pending),
    )
