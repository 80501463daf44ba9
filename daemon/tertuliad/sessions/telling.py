"""What a session says, and to whom: to those who follow it, who wait for it, and who list sessions.

Frames name the last stored seq before them, so that a follower knows what it has missed. What is
live only is told at once; what is stored, when it is.
"""

from __future__ import annotations

import logging

from tertulia_protocol import events
from tertulia_protocol.errors import StoreFailed
from tertuliad.clock import now_ms
from tertuliad.sessions.decide import Draft
from tertuliad.sessions.decide.turns import LOST
from tertuliad.sessions.sealed import Published, Sealed, event_frames, seal
from tertuliad.sessions.state import SessionState
from tertuliad.sessions.waits import Waits
from tertuliad.sessions.world import World
from tertuliad.store.base import Row

log = logging.getLogger(__name__)

STUCK = "store"
"""The `errorType` of a turn whose end could not be stored."""
TAKEN_OVER = (
    "Another daemon on the same data folder has taken this session over, since this one did not"
    " answer for a while. The turn's answer is lost; send the message again."
)


_PIECES = {
    events.BY_DATA[each].type
    for each in (
        events.AssistantMessageStart,
        events.AssistantMessageDelta,
        events.AssistantReasoningDelta,
    )
}
"""The types of events that have pieces of an answer, which is told whole later."""
_ERROR = events.BY_DATA[events.SessionError].type
_IDLE = events.BY_DATA[events.SessionIdle].type
_BEGIN = events.BY_DATA[events.AssistantTurnStart].type


class Telling:
    """Lives with the session's actor. `seq` is the last stored one that was published or read."""

    __slots__ = ("_world", "seq", "waits")

    def __init__(self, world: World) -> None:
        self._world = world
        self.seq = 0
        self.waits = Waits()

    def publish(self, state: SessionState, sealed: list[Sealed]) -> None:
        """Events in their order; `state` has folded those of them that are stored."""
        self.waits.see(sealed)
        self.seq = state.seq
        if sealed:
            shown = [item for item in sealed if item.shown]
            frames = event_frames(state.id, [item.body for item in shown])
            before = next((item.seq - 1 for item in sealed if item.seq), state.seq)
            kinds = {item.type for item in sealed}
            self._world.publish(
                Published(
                    state.id,
                    state.created_ms,
                    frames,
                    before,
                    state.seq,
                    pieces=kinds <= _PIECES,
                    begins=_BEGIN in kinds,
                    idle=_idle(shown, frames) if _IDLE in kinds else None,
                    failed=_ERROR in kinds and not self._world.draining(),
                )
            )

    def pieces(self, state: SessionState, drafts: tuple[Draft, ...]) -> None:
        """Parts of an answer that is told whole later, all of them live only."""
        if drafts:
            bodies = [item.body for item in seal(state, drafts, now_ms())]
            frames, seq = event_frames(state.id, bodies), state.seq
            self._world.publish(
                Published(state.id, state.created_ms, frames, seq, seq, pieces=True)
            )

    def live(self, state: SessionState, *data: events.EventData) -> None:
        """Events that are not stored, outside of any command."""
        drafts = tuple(Draft(item, live_only=True) for item in data)
        self.publish(state, seal(state, drafts, now_ms()))

    def changed(self, row: Row, *, is_new: bool) -> None:
        """The list row of a session is new, or another one."""
        if is_new:
            log.debug("session %s was created", row.id)
        self._world.lifecycle("session.created" if is_new else "session.updated", row)

    def lost(self, state: SessionState) -> None:
        """Another process has ended the turn. Who follows reads in the log how, and is told here
        why."""
        error = events.SessionError(error_type=LOST, message=TAKEN_OVER)
        self.live(state, error, events.SessionIdle())
        self.waits.fail(StoreFailed(TAKEN_OVER))

    def stuck(self, state: SessionState, message: str) -> None:
        """The turn's end could not be stored: the log says it after a restart. Where the state was
        forgotten, `state` is an empty one at `seq`."""
        error = events.SessionError(error_type=STUCK, message=message)
        self.live(state, error, events.SessionIdle())
        self.waits.fail(StoreFailed(message))


def _idle(shown: list[Sealed], frames: list[bytes]) -> bytes:
    """The frame that says that the session is idle."""
    return next(frame for item, frame in zip(shown, frames, strict=True) if item.type == _IDLE)
