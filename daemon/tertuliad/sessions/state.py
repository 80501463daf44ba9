"""A session's state: the fold of its log, and nothing that is not in the log.

`apply` is the only way to change a state, and it is called with stored facts only, in their order:
the same log gives the same state in every process and after every restart. Types of event that a
later version wrote are passed over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events
from tertulia_protocol.config import SessionConfig
from tertuliad import limits
from tertuliad.providers.base import ImagePart, Message, TextPart, ToolCall
from tertuliad.sessions import facts
from tertuliad.store.base import Record

NOT_RUN = "This call was not run: the turn ended before it."


class OpenTurn(msgspec.Struct, frozen=True):
    """A turn that was started and has not ended. `message_id` is what it answers."""

    id: str
    message_id: str | None
    model: str | None


class SessionState(msgspec.Struct, kw_only=True):
    """Mutable; owned by one actor. `seq` and `last_event_id` are of the last record folded."""

    id: str
    created_ms: int
    seq: int = 0
    last_event_id: str | None = None
    shown_events: int = 0
    config: SessionConfig = msgspec.field(default_factory=SessionConfig)
    name: str | None = None
    first_words: str | None = None
    history: list[Message] = []
    pending: list[facts.MessageQueued] = []
    turn: OpenTurn | None = None
    turns: int = 0
    last_message_id: str | None = None

    @property
    def title(self) -> str | None:
        """The name somebody gave, else the beginning of the first message."""
        return self.name or self.config.name or self.first_words


class _StoredEvent(msgspec.Struct):
    id: str
    data: msgspec.Raw


_envelopes = msgspec.json.Decoder(_StoredEvent)


@functools.cache
def _decoder(kind: str) -> msgspec.json.Decoder[events.EventData] | None:
    """Made on first use: a decoder costs more than the start can spare."""
    data = facts.TYPES.get(kind)
    return None if data is None else msgspec.json.Decoder(data)


def fold(state: SessionState, records: list[Record]) -> None:
    """Apply what was read from the store."""
    for record in records:
        envelope = _envelopes.decode(record.body)
        decoder = _decoder(record.type)
        data = decoder.decode(envelope.data) if decoder is not None else None
        apply(state, record.seq, record.type, envelope.id, data)


def apply(
    state: SessionState, seq: int, kind: str, event_id: str, data: events.EventData | None
) -> None:
    """Fold one stored event; `data` is None for a type that is not known."""
    state.seq = seq
    if not facts.is_internal(kind):
        state.last_event_id = event_id
        state.shown_events += 1
    if data is not None and (change := _CHANGES.get(type(data))) is not None:
        change(state, data)


def _configured(state: SessionState, data: facts.Configured) -> None:
    state.config = data.config


def _named(state: SessionState, data: facts.Named) -> None:
    state.name = data.name


def _queued(state: SessionState, data: facts.MessageQueued) -> None:
    if data.first:
        state.pending.insert(0, data)
    else:
        state.pending.append(data)


def _user_message(state: SessionState, data: events.UserMessage) -> None:
    state.pending = [item for item in state.pending if item.message_id != data.message_id]
    if state.first_words is None:
        state.first_words = title_of(data.content)
    _answer_open_calls(state)
    state.history.append(Message(role="user", content=_user_content(data)))
    state.last_message_id = data.message_id


def _user_content(data: events.UserMessage) -> str | list[TextPart | ImagePart]:
    text = data.transformed_content or data.content
    images = [
        ImagePart(str(item["mimeType"]), str(item["data"]))
        for item in data.attachments or ()
        if is_image(item)
    ]
    return [TextPart(text), *images] if images else text


def is_image(attachment: dict[str, object]) -> bool:
    """Whether the attachment is an image whose bytes came with it."""
    return (
        attachment.get("type") == "blob"
        and str(attachment.get("mimeType", "")).startswith("image/")
        and bool(attachment.get("data"))
    )


def _turn_start(state: SessionState, data: events.AssistantTurnStart) -> None:
    state.turns += 1
    state.turn = OpenTurn(data.turn_id, state.last_message_id, data.model)


def _assistant_message(state: SessionState, data: events.AssistantMessage) -> None:
    calls = tuple(
        ToolCall(request.tool_call_id, request.name, _arguments_text(request.arguments))
        for request in data.tool_requests or ()
    )
    if data.content or calls:
        state.history.append(Message(role="assistant", content=data.content, tool_calls=calls))


def _arguments_text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _turn_end(state: SessionState, _: events.AssistantTurnEnd) -> None:
    state.turn = None
    _answer_open_calls(state)


def _answer_open_calls(state: SessionState) -> None:
    """Every call in the history has a result, or the model's server refuses the history."""
    if state.history and state.history[-1].tool_calls:
        for call in state.history[-1].tool_calls:
            state.history.append(Message(role="tool", content=NOT_RUN, tool_call_id=call.id))


def _model_change(state: SessionState, data: events.SessionModelChange) -> None:
    changes: dict[str, object] = {"model": data.new_model}
    if data.reasoning_effort is not None:
        changes["reasoning_effort"] = data.reasoning_effort
    state.config = msgspec.structs.replace(state.config, **changes)


_CHANGES: dict[type[events.EventData], Callable[[SessionState, Any], None]] = {
    facts.Configured: _configured,
    facts.Named: _named,
    facts.MessageQueued: _queued,
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
