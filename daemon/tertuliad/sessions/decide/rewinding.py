"""The conversation goes back to an earlier event: nothing else of the session does."""

from __future__ import annotations

from typing import Any

import msgspec

from tertulia_protocol import events
from tertulia_protocol.errors import TurnBusy
from tertuliad import limits
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, drafts_of
from tertuliad.sessions.decide.sending import check_seq
from tertuliad.sessions.state import SessionState


class CutTurn(msgspec.Struct, frozen=True):
    """A turn, and the id of the last of its events that stays."""

    turn_id: str
    last_event_id: str


class Cut(msgspec.Struct, frozen=True):
    """What a rewind to before an event leaves and takes, as of the log's end at `head`: `kept` is
    the seq before the event, `removed` counts the shown events that go, `first_words` are those of
    the first message that stays, `cut_turn` is a turn whose start stays and whose end goes."""

    head: int
    kept: int
    removed: int
    first_words: str | None
    cut_turn: CutTurn | None


def rewind(state: SessionState, event_id: str, cut: Cut, result: Any) -> Decision:
    """Leave out the event and what is behind it."""
    check_no_turn(state)
    check_seq(state, cut.head)
    carried = facts.Carried(
        config=state.config,
        turns=state.turns,
        inherited_turns=state.inherited_turns,
        name=state.name,
        auto_name=state.auto_name,
        first_words=cut.first_words,
        metadata=state.metadata,
        archived=state.archived,
        parent=state.parent,
        pending=state.pending,
        paused=state.paused,
        keys=state.keys,
        last_usage=state.last_usage,
        usage=state.usage,
    )
    drafts = drafts_of(
        facts.Rewound(kept=cut.kept, removed=cut.removed, carried=carried),
        events.SessionSnapshotRewind(up_to_event_id=event_id, events_removed=cut.removed),
    )
    cut_turn = cut.cut_turn
    if cut_turn is None:
        return Decision(drafts=drafts, result=result, keep_to=cut.kept)
    drafts += drafts_of(events.AssistantTurnEnd(turn_id=cut_turn.turn_id))
    return Decision(drafts=drafts, result=result, keep_to=cut.kept, behind=cut_turn.last_event_id)


def check_no_turn(state: SessionState) -> None:
    """Raise `TurnBusy` where a turn runs."""
    if state.turn is not None:
        raise TurnBusy(
            "A turn runs in this session. Wait for session.idle, or end it with session.abort.",
            {"sessionId": state.id},
            retry_ms=limits.TURN_RETRY_MS,
        )
