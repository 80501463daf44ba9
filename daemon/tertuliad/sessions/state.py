"""A session's state: the fold of its log, and nothing that is not in the log.

`apply` is the only way to change a state, and it is called with stored facts only, in their order:
the same log gives the same state in every process and after every restart. Types of event that a
later version wrote are passed over. A snapshot is a state without its history, in our own form: it
is dropped, never converted, where the form has changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events
from tertulia_protocol.config import SessionConfig
from tertulia_protocol.decoding import json_decoder, msgpack_decoder
from tertuliad import limits
from tertuliad.providers.base import Message
from tertuliad.sessions import facts, history
from tertuliad.store.base import Log, Record

SNAPSHOT_FORM = 2


class OpenTurn(msgspec.Struct, frozen=True):
    """A turn that was started and has not ended. `message_id` is what it answers."""

    id: str
    message_id: str | None
    model: str | None


class SessionState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Mutable; owned by one actor. `seq` and `last_event_id` are of the last record folded.

    `history` None: it is not loaded. `keys` are those of the messages accepted last, with their
    ids. `inherited_turns` of the `turns` were begun in the session that this one was made of.
    `last_usage` are the tokens that the last model call took in and gave out.
    """

    id: str
    created_ms: int
    seq: int = 0
    last_event_id: str | None = None
    shown_events: int = 0
    config: SessionConfig = msgspec.field(default_factory=SessionConfig)
    name: str | None = None
    auto_name: str | None = None
    first_words: str | None = None
    metadata: dict[str, Any] | None = None
    archived: bool = False
    parent: str | None = None
    history: list[Message] | None = None
    said_chars: int = 0
    messages: int = 0
    pending: list[facts.MessageQueued] = []
    paused: bool = False
    keys: dict[str, str] = {}
    turn: OpenTurn | None = None
    turns: int = 0
    inherited_turns: int = 0
    last_message_id: str | None = None
    usage: dict[str, facts.Totals] = {}
    last_usage: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str | None:
        """The name somebody gave, else one made for it, else the beginning of the first message."""
        return self.given_name or self.first_words

    @property
    def given_name(self) -> str | None:
        """The name somebody gave, else one made for it."""
        return self.name or self.config.name or self.auto_name

    @property
    def named(self) -> bool:
        return bool(self.name or self.config.name)

    @property
    def model_ms(self) -> float:
        """How long the session's model calls took in all, to a tenth as each of them."""
        return round(sum(totals.duration_ms for totals in self.usage.values()), 1)


class _Snapshot(msgspec.Struct, array_like=True):
    form: int
    state: SessionState


_packer = msgspec.msgpack.Encoder()


def snapshot(state: SessionState) -> bytes | None:
    """The state without its history, for the store; None where a client's own members hold what
    MessagePack does not take, such as whole numbers above 64 bits: its log is folded whole then."""
    bare = msgspec.structs.replace(state, history=None)
    try:
        return _packer.encode(_Snapshot(SNAPSHOT_FORM, bare))
    except (OverflowError, RecursionError):
        return None


def from_snapshot(data: bytes) -> SessionState | None:
    """The state that `snapshot` packed; None where another version did."""
    try:
        kept = msgpack_decoder(_Snapshot).decode(data)
    except msgspec.MsgspecError:
        return None
    return kept.state if kept.form == SNAPSHOT_FORM else None


class _StoredEvent(msgspec.Struct):
    id: str
    data: msgspec.Raw


_envelopes = json_decoder(_StoredEvent)


@functools.cache
def _decoder(kind: str) -> msgspec.json.Decoder[events.EventData] | None:
    """Made on first use: a decoder costs more than the start can spare."""
    data = facts.TYPES.get(kind)
    return None if data is None else json_decoder(data)


def make_decoders() -> None:
    """Make all of them now: with the first session that comes back they would take 10 ms."""
    msgpack_decoder(_Snapshot)
    for kind in facts.TYPES:
        _decoder(kind)


def decoded(record: Record) -> tuple[str, events.EventData | None]:
    """(id, data) of a stored event; no data where the type is not known."""
    envelope = _envelopes.decode(record.body)
    decoder = _decoder(record.type)
    return envelope.id, decoder.decode(envelope.data) if decoder is not None else None


def fold(state: SessionState, records: list[Record]) -> None:
    """Apply what was read from the store."""
    for record in records:
        event_id, data = decoded(record)
        apply(state, record.seq, record.type, event_id, data)


def folded(found: Log, upto: int | None = None) -> SessionState | None:
    """The state of a stored session, as it was at `upto`, if that is given. None where the
    snapshot is of no use: another version wrote it."""
    state: SessionState | None
    if found.snapshot is not None:
        state = from_snapshot(found.snapshot)
    else:
        state = SessionState(id=found.row.id, created_ms=found.row.created_ms, history=[])
    if state is None:
        return None
    state.id, state.created_ms = found.row.id, found.row.created_ms
    wanted = [r for r in found.records if r.seq > state.seq and (upto is None or r.seq <= upto)]
    fold(state, wanted)
    return state


def folded_history(records: list[Record]) -> list[Message]:
    """The history alone, from records of `history.TYPES`."""
    messages: list[Message] = []
    for record in records:
        data = decoded(record)[1]
        if data is not None:
            history.apply(messages, data)
    return messages


def apply(
    state: SessionState, seq: int, kind: str, event_id: str, data: events.EventData | None
) -> None:
    """Fold one stored event; `data` is None for a type that is not known."""
    state.seq = seq
    if not facts.is_internal(kind):
        state.last_event_id = event_id
        state.shown_events += 1
    if data is None:
        return
    if state.history is not None:
        history.apply(state.history, data)
    if (change := _CHANGES.get(type(data))) is not None:
        change(state, data)


def _configured(state: SessionState, data: facts.Configured) -> None:
    state.config = data.config


def _named(state: SessionState, data: facts.Named) -> None:
    if data.auto:
        state.auto_name = data.name
    else:
        state.name = data.name


def _described(state: SessionState, data: facts.Described) -> None:
    state.metadata, state.archived = data.metadata, data.archived


def _queued(state: SessionState, data: facts.MessageQueued) -> None:
    _remember(state, data.key, data.message_id)
    state.pending = with_added(state.pending, data)


def with_added(
    pending: list[facts.MessageQueued], message: facts.MessageQueued
) -> list[facts.MessageQueued]:
    """The queue with one more message: at the end, or behind the others that steer."""
    place = sum(1 for item in pending if item.first) if message.first else len(pending)
    return [*pending[:place], message, *pending[place:]]


def _queue_changed(state: SessionState, data: facts.QueueChanged) -> None:
    state.pending, state.paused = list(data.pending), data.paused


def _accepted(state: SessionState, data: facts.Accepted) -> None:
    _remember(state, data.key, data.message_id)


def _remember(state: SessionState, key: str | None, message_id: str) -> None:
    if key is not None:
        state.keys[key] = message_id
        if len(state.keys) > limits.REMEMBERED_KEYS:
            del state.keys[next(iter(state.keys))]


def _user_message(state: SessionState, data: events.UserMessage) -> None:
    state.pending = [item for item in state.pending if item.message_id != data.message_id]
    if state.first_words is None:
        state.first_words = title_of(data.content) or None
    state.said_chars += len(data.transformed_content or data.content)
    state.messages += 1
    state.last_message_id = data.message_id


def _turn_start(state: SessionState, data: events.AssistantTurnStart) -> None:
    state.turns += 1
    state.turn = OpenTurn(data.turn_id, state.last_message_id, data.model)


def _assistant_message(state: SessionState, data: events.AssistantMessage) -> None:
    state.said_chars += len(data.content)
    state.messages += 1


def _turn_end(state: SessionState, _: events.AssistantTurnEnd) -> None:
    state.turn = None


def _used(state: SessionState, data: facts.Used) -> None:
    totals = state.usage.setdefault(data.model, facts.Totals())
    totals.calls += 1
    totals.input_tokens += data.input_tokens
    totals.output_tokens += data.output_tokens
    totals.cached_tokens += data.cached_tokens
    totals.reasoning_tokens += data.reasoning_tokens
    totals.duration_ms += data.duration_ms
    state.last_usage = (data.input_tokens, data.output_tokens)


def _model_change(state: SessionState, data: events.SessionModelChange) -> None:
    changes: dict[str, object] = {"model": data.new_model}
    if data.reasoning_effort is not None:
        changes["reasoning_effort"] = data.reasoning_effort
    state.config = msgspec.structs.replace(state.config, **changes)


def _forked(state: SessionState, data: facts.Forked) -> None:
    """A fork takes the conversation along, and nothing of what was under way or counted."""
    state.parent = data.source
    state.name = None
    state.config = msgspec.structs.replace(state.config, name=None)
    state.turn = None
    state.pending, state.paused = [], False
    state.keys = {}
    state.metadata, state.archived = None, False
    _count_anew(state)


def _copied(state: SessionState, _: facts.Copied) -> None:
    _count_anew(state)


def _count_anew(state: SessionState) -> None:
    """A call is counted once, in the session that made it."""
    state.inherited_turns, state.usage, state.last_usage = state.turns, {}, (0, 0)


def _rewound(state: SessionState, data: facts.Rewound) -> None:
    """What is folded until here is the conversation up to `kept`; all else is as it was."""
    state.turn = None
    for name in facts.Carried.__struct_fields__:
        setattr(state, name, getattr(data.carried, name))


_CHANGES: dict[type[events.EventData], Callable[[SessionState, Any], None]] = {
    facts.Configured: _configured,
    facts.Named: _named,
    facts.Described: _described,
    facts.MessageQueued: _queued,
    facts.QueueChanged: _queue_changed,
    facts.Accepted: _accepted,
    facts.Used: _used,
    facts.Forked: _forked,
    facts.Copied: _copied,
    facts.Rewound: _rewound,
    events.UserMessage: _user_message,
    events.AssistantTurnStart: _turn_start,
    events.AssistantMessage: _assistant_message,
    events.AssistantTurnEnd: _turn_end,
    events.SessionModelChange: _model_change,
}


def title_of(text: str) -> str:
    """The first words of a message, on one line."""
    line = " ".join(text[: 4 * limits.TITLE_CHARS].split())
    return line if len(line) <= limits.TITLE_CHARS else line[: limits.TITLE_CHARS - 1] + "…"
