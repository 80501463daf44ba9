"""Facts of the log that are the daemon's own: stored like events, never shown to clients."""

from __future__ import annotations

from typing import Any

from tertulia_protocol.config import SessionConfig
from tertulia_protocol.events import BY_DATA, EVENTS, AgentMode, AssistantTurnEnd, EventData

INTERNAL_PREFIX = "tertulia."
_TURN_END = BY_DATA[AssistantTurnEnd].type


class Configured(EventData):
    """The session's settings from here on; secrets were left out before."""

    config: SessionConfig


class Named(EventData):
    """Somebody gave the session a name; None takes it back. `auto`: a client made it from what was
    said, and it gives way to one that somebody chose."""

    name: str | None
    auto: bool = False


class Described(EventData):
    """The caller's own metadata, whole, and whether the session is archived."""

    metadata: dict[str, Any] | None
    archived: bool


class MessageQueued(EventData):
    """A message was accepted while a turn ran. Taken up by the `user.message` of the same id.
    `first`: it steers, and goes before those that wait. A message with a key that was accepted
    before is not accepted again."""

    message_id: str
    content: str
    transformed_content: str | None = None
    attachments: list[dict[str, Any]] | None = None
    agent_mode: AgentMode | None = None
    source: str | None = None
    display: str | None = None
    key: str | None = None
    first: bool = False


class QueueChanged(EventData):
    """The messages that wait, whole and in their order, after somebody edited them; `paused`: none
    of them is taken up until somebody says so."""

    pending: list[MessageQueued]
    paused: bool = False


class Accepted(EventData):
    """A message had this key that started a turn at once, or was put between those that wait."""

    key: str
    message_id: str


class Used(EventData):
    """What one model call took: tokens, and ms."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    duration_ms: float = 0


class Totals(EventData):
    """What a session's calls to one model took: tokens, and ms."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    duration_ms: float = 0


class Carried(EventData, kw_only=True):
    """What a rewind takes along: the conversation goes back, and nothing else does. `first_words`
    are those of the first message that stays."""

    config: SessionConfig
    turns: int
    inherited_turns: int = 0
    name: str | None = None
    auto_name: str | None = None
    first_words: str | None = None
    metadata: dict[str, Any] | None = None
    archived: bool = False
    parent: str | None = None
    pending: list[MessageQueued]
    paused: bool = False
    keys: dict[str, str]
    usage: dict[str, Totals]
    last_usage: tuple[int, int] = (0, 0)


class Rewound(EventData):
    """The log goes on from the event with seq `kept`; `removed` shown events behind it are left
    out."""

    kept: int
    removed: int
    carried: Carried


class Forked(EventData):
    """The log up to here is that of another session."""

    source: str
    upto: int


class Copied(EventData):
    """The log up to here is that of session `source`, from its document: what was counted is
    counted there."""

    source: str


class Repaired(EventData):
    """What lay behind the event with seq `kept` could not be read any more and was cut off.
    `set_aside` names the copy of the database as it was, in the data folder."""

    kept: int
    set_aside: str


INTERNAL: dict[type[EventData], str] = {
    Configured: "tertulia.configured",
    Named: "tertulia.named",
    Described: "tertulia.described",
    MessageQueued: "tertulia.message_queued",
    QueueChanged: "tertulia.queue_changed",
    Accepted: "tertulia.accepted",
    Used: "tertulia.used",
    Rewound: "tertulia.rewound",
    Forked: "tertulia.forked",
    Copied: "tertulia.copied",
    Repaired: "tertulia.repaired",
}

TYPES: dict[str, type[EventData]] = {
    **{event.type: event.data for event in EVENTS.values() if not event.ephemeral},
    **{name: data for data, name in INTERNAL.items()},
}
"""What can stand in a log, by its type."""


def jumps(data: object, after: int) -> bool:
    """Whether an event may follow on that with the seq `after`, though there are seqs between them:
    it names it, and those between were given to what was cut."""
    return isinstance(data, Rewound | Repaired) and data.kept == after > 0


def is_internal(event_type: str) -> bool:
    """Whether clients never see events of this type."""
    return event_type.startswith(INTERNAL_PREFIX)


def ends_turn(event_type: str) -> bool:
    """Whether a turn is over with an event of this type, and its session may be idle."""
    return event_type == _TURN_END
