"""Facts of the log that are the daemon's own: stored like events, never shown to clients."""

from __future__ import annotations

from typing import Any

from tertulia_protocol.config import SessionConfig
from tertulia_protocol.events import EVENTS, AgentMode, EventData

INTERNAL_PREFIX = "tertulia."


class Configured(EventData):
    """The session's settings from here on; secrets were left out before."""

    config: SessionConfig


class Named(EventData):
    """Somebody gave the session a name; None takes it back."""

    name: str | None


class MessageQueued(EventData):
    """A message was accepted while a turn ran. Taken up by the `user.message` of the same id."""

    message_id: str
    content: str
    transformed_content: str | None = None
    attachments: list[dict[str, Any]] | None = None
    agent_mode: AgentMode | None = None
    source: str | None = None
    first: bool = False


INTERNAL: dict[type[EventData], str] = {
    Configured: "tertulia.configured",
    Named: "tertulia.named",
    MessageQueued: "tertulia.message_queued",
}

TYPES: dict[str, type[EventData]] = {
    **{event.type: event.data for event in EVENTS.values() if not event.ephemeral},
    **{name: data for data, name in INTERNAL.items()},
}
"""What can stand in a log, by its type."""


def is_internal(event_type: str) -> bool:
    """Whether clients never see events of this type."""
    return event_type.startswith(INTERNAL_PREFIX)
