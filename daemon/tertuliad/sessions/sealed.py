"""From decided events to their bytes: ids, times, parents, seqs, and frames."""

from __future__ import annotations

import msgspec

from tertulia_protocol import events
from tertulia_protocol.framing import encode_frame
from tertuliad.clock import iso, now_ms
from tertuliad.ids import new_id
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Draft
from tertuliad.sessions.state import SessionState

_encoder = msgspec.json.Encoder()


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A draft with its place and its bytes. `seq` is 0 where it is not stored."""

    data: events.EventData
    type: str
    id: str
    seq: int
    body: bytes

    @property
    def shown(self) -> bool:
        """Whether clients get to see it."""
        return not facts.is_internal(self.type)


def seal(state: SessionState, drafts: tuple[Draft, ...], at_ms: int) -> list[Sealed]:
    """Number and encode `drafts`, which follow on what `state` has folded."""
    timestamp = iso(at_ms)
    parent, seq = state.last_event_id, state.seq
    sealed: list[Sealed] = []
    for draft in drafts:
        kind, stored = _kind(draft)
        event_id = draft.id or new_id()
        body = _encoder.encode(
            events.Envelope(
                id=event_id,
                timestamp=timestamp,
                parent_id=parent,
                type=kind,
                data=msgspec.Raw(_encoder.encode(draft.data)),
                ephemeral=not stored,
            )
        )
        if stored:
            seq += 1
            if not facts.is_internal(kind):
                parent = event_id
        sealed.append(Sealed(draft.data, kind, event_id, seq if stored else 0, body))
    return sealed


def _kind(draft: Draft) -> tuple[str, bool]:
    """(type, whether it is stored) of a draft."""
    internal = facts.INTERNAL.get(type(draft.data))
    if internal is not None:
        return internal, True
    row = events.BY_DATA[type(draft.data)]
    return row.type, not (row.ephemeral or draft.live_only)


def event_frame(session_id: str, body: bytes) -> bytes:
    """The frame of a `session.event` notification; ids need no escaping."""
    return encode_frame(
        b'{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":"%b","event":%b}}'
        % (session_id.encode(), body)
    )


def idle_frame(session_id: str, parent_id: str | None) -> bytes:
    """A fresh `session.idle` for a follower that caught up after the real one was sent."""
    body = events.Envelope(
        id=new_id(),
        timestamp=iso(now_ms()),
        parent_id=parent_id,
        type="session.idle",
        data=msgspec.Raw(_encoder.encode(events.SessionIdle())),
        ephemeral=True,
    )
    return event_frame(session_id, _encoder.encode(body))
