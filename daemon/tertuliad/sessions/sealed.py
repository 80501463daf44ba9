"""From decided events to their bytes: ids, times, parents, seqs, and frames."""

from __future__ import annotations

import msgspec

from tertulia_protocol import events
from tertulia_protocol.framing import frames_around
from tertuliad.clock import iso, now_ms
from tertuliad.ids import new_id
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Draft
from tertuliad.sessions.state import SessionState, apply
from tertuliad.store.base import Record

_encoder = msgspec.json.Encoder()
_KINDS = {
    **{data: (row.type, not row.ephemeral, True) for data, row in events.BY_DATA.items()},
    **{data: (name, True, False) for data, name in facts.INTERNAL.items()},
}
"""(type, whether it is stored, whether it is shown) by the struct of an event's data."""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A draft with its place and its bytes. `seq` is 0 where it is not stored; `shown`: clients get
    to see it."""

    data: events.EventData
    type: str
    id: str
    seq: int
    body: bytes
    shown: bool


class Published(msgspec.Struct, frozen=True, gc=False):
    """Frames for whoever follows a session: the one that was made at `created_ms`, 0 where that is
    not known. `before` is the last stored seq before the frames, `seq` the last one before or in
    them; without frames only the seq moves on.

    `pieces`: the frames are parts of an answer that will be told whole. `begins`: a turn begins in
    them. `idle`: the one of them that says that the session is idle. `failed`: the turn that they
    end has failed.
    """

    session_id: str
    created_ms: int
    frames: list[bytes]
    before: int
    seq: int
    pieces: bool = False
    begins: bool = False
    idle: bytes | None = None
    failed: bool = False


def seal(
    state: SessionState, drafts: tuple[Draft, ...], at_ms: int, behind: str | None = None
) -> list[Sealed]:
    """Number and encode `drafts`, which follow on what `state` has folded, or on the event `behind`
    of it."""
    timestamp = iso(at_ms)
    parent, seq = behind or state.last_event_id, state.seq
    sealed: list[Sealed] = []
    for draft in drafts:
        kind, stored, shown = _KINDS[type(draft.data)]
        stored = stored and not draft.live_only
        event_id = draft.id or new_id()
        body = _encoder.encode(
            events.Envelope(
                id=event_id,
                timestamp=timestamp,
                parent_id=parent,
                type=kind,
                data=draft.data,
                ephemeral=not stored,
            )
        )
        if stored:
            seq += 1
            if shown:
                parent = event_id
        sealed.append(Sealed(draft.data, kind, event_id, seq if stored else 0, body, shown))
    return sealed


def fold_in(state: SessionState, sealed: list[Sealed]) -> tuple[Record, ...]:
    """Fold what is stored into the state; gives its records."""
    records: list[Record] = []
    for item in sealed:
        if item.seq:
            apply(state, item.seq, item.type, item.id, item.data)
            records.append(Record(item.seq, item.type, item.body))
    return tuple(records)


def event_frame(session_id: str, body: bytes) -> bytes:
    """The frame of a `session.event` notification."""
    return event_frames(session_id, [body])[0]


def event_frames(session_id: str, bodies: list[bytes]) -> list[bytes]:
    """The frames of several; ids need no escaping."""
    before = b'{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":"%b","event":'
    return frames_around(before % session_id.encode(), bodies, b"}}")


def idle_frame(session_id: str, parent_id: str | None, *, aborted: bool = False) -> bytes:
    """A fresh `session.idle` for a follower that caught up after the real one was sent, or where
    there is none."""
    body = events.Envelope(
        id=new_id(),
        timestamp=iso(now_ms()),
        parent_id=parent_id,
        type="session.idle",
        data=events.SessionIdle(aborted=aborted),
        ephemeral=True,
    )
    return event_frame(session_id, _encoder.encode(body))
