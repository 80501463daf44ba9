"""Forks and rewinds: what has to be read of a log before either can be decided."""

from __future__ import annotations

from tertulia_protocol import events, faults
from tertulia_protocol.errors import SessionNotFound
from tertuliad import limits
from tertuliad.clock import now_ms
from tertuliad.replies import settled
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Draft
from tertuliad.sessions.decide.rewinding import Cut, CutTurn
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.loading import Loaded, load
from tertuliad.sessions.refusals import exists, overtaken
from tertuliad.sessions.sealed import fold_in, seal
from tertuliad.sessions.state import SessionState, decoded, snapshot, title_of
from tertuliad.store.base import (
    AlreadyThere,
    Append,
    Fork,
    HeadMoved,
    NotThere,
    Range,
    Record,
    Row,
    Store,
)

_TURN_START = events.BY_DATA[events.AssistantTurnStart].type
_TURNS = (_TURN_START, events.BY_DATA[events.AssistantTurnEnd].type)


async def place_before(store: Store, session_id: str, event_id: str, path: str) -> int:
    """The seq of the event that stands before another one, internal or not: where the log was
    rewound, it is not the next lower number. Raises `SessionNotFound`, and `InvalidParams` where
    the log has no event with this id, or where nothing would be left before it."""
    seq = await settled(store.find(session_id, event_id))
    if seq is None:
        if await settled(store.row(session_id)) is None:
            raise SessionNotFound.of(session_id)
        raise faults.invalid(
            path,
            f"event {event_id[:100]} not found in session {session_id}. session.getMessages lists"
            " its events",
        )
    if seq <= 1:
        raise faults.invalid(
            path, "this is the session's first event, which stays: name a later one"
        )
    bound = Range(before=seq, backward=True, limit=1)
    last = await settled(store.read(session_id, bound))
    return last[0].seq if last else seq - 1


async def fork(
    store: Store, source: str, new_id: str, *, before: str | None, name: str | None
) -> tuple[Row, Row]:
    """Store a session that shares the log of `source`, up to the event `before`, if that is given.
    Gives the rows of both. Where a rewind takes the place out of the log meanwhile, it is looked
    for again. Raises `SessionNotFound`, `SessionExists` and `InvalidParams`."""
    for _ in range(limits.COMMIT_TRIES):
        try:
            return await _forked(store, source, new_id, before, name)
        except HeadMoved:
            continue
    raise overtaken(source)


async def _forked(
    store: Store, source: str, new_id: str, before: str | None, name: str | None
) -> tuple[Row, Row]:
    """One try of `fork`. Raises `HeadMoved` as well."""
    row = await settled(store.row(source))
    if row is None:
        raise SessionNotFound.of(source)
    upto = None
    if before is not None:
        upto = await place_before(store, source, before, "$.toEventId")
    found: Loaded | None = await load(store, source, upto).settled()
    if found is None:
        raise SessionNotFound.of(source)
    if found.row.created_ms != row.created_ms:
        raise HeadMoved(source)  # the place may be one of the session before
    state, upto = found.state, found.row.head if upto is None else upto
    turn_id = None if state.turn is None else state.turn.id
    if before is not None and turn_id is None:  # a rewind may have cut one, and tells its end later
        cut = await _cut_turn(store, source, upto)
        turn_id = None if cut is None else cut.turn_id
    state.id, state.created_ms = new_id, now_ms()
    append = _first_of(state, source, upto, name, turn_id)
    try:
        await settled(store.fork(Fork(source, found.row.created_ms, upto, append)))
    except AlreadyThere:
        raise exists(new_id) from None
    except NotThere:
        raise SessionNotFound.of(source) from None
    return found.row, append.row


def _first_of(
    state: SessionState, source: str, upto: int, name: str | None, turn_id: str | None
) -> Append:
    """What the fork's own log begins with, behind what it shares with its source. Where that is
    long, the fork has a snapshot of its own: the source's will be of a later event. A turn that is
    open there goes on in the source alone."""
    drafts = [Draft(facts.Forked(source, upto))]
    if turn_id is not None:
        drafts.append(Draft(events.AssistantTurnEnd(turn_id=turn_id)))
    if name:
        drafts.append(Draft(facts.Named(name)))
    state.seq = upto
    records = fold_in(state, seal(state, tuple(drafts), state.created_ms))
    due = snapshot(state) if upto >= limits.SNAPSHOT_EVENTS else None
    return Append(upto, row_of(state, state.created_ms), records, snapshot=due)


async def cut_before(store: Store, session_id: str, event_id: str) -> Cut:
    """What a rewind to before an event means for the log as it is now. Raises `SessionNotFound` and
    `InvalidParams`."""
    row = await settled(store.row(session_id))
    if row is None:
        raise SessionNotFound.of(session_id)
    kept = await place_before(store, session_id, event_id, "$.eventId")
    removed = await settled(store.read(session_id, Range(after=kept, before=row.head + 1)))
    first = await settled(
        store.read(session_id, Range(before=kept + 1, types=("user.message",), limit=1))
    )
    return Cut(
        head=row.head,
        kept=kept,
        removed=sum(1 for record in removed if not facts.is_internal(record.type)),
        first_words=_words(first[0]) if first else None,
        cut_turn=await _cut_turn(store, session_id, kept),
    )


async def _cut_turn(store: Store, session_id: str, kept: int) -> CutTurn | None:
    bound = Range(before=kept + 1, types=_TURNS, backward=True, limit=1)
    last = await settled(store.read(session_id, bound))
    if not last or last[0].type != _TURN_START:
        return None
    of_turn = await settled(store.read(session_id, Range(after=last[0].seq - 1, before=kept + 1)))
    shown = [record for record in of_turn if not facts.is_internal(record.type)]
    if not shown:  # another rewind came between, and whoever asks is refused
        return None
    _, start = decoded(last[0])
    assert isinstance(start, events.AssistantTurnStart)
    last_id, _ = decoded(shown[-1])
    return CutTurn(start.turn_id, last_id)


def _words(record: Record) -> str:
    _, message = decoded(record)
    assert isinstance(message, events.UserMessage)
    return title_of(message.content)
