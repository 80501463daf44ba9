"""What the client hands to its callers: small frozen values in the shapes of the wire.

Members that the daemon sends beyond these are passed over: `Client.request` gives a result as it
came. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """One event of a session. An ephemeral one is live only and never in the history.

    `parent_id` is the id of the stored event before it.
    """

    type: str
    data: dict[str, Any]
    id: str = ""
    timestamp: str = ""
    ephemeral: bool = False
    parent_id: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What a turn came to: the last `assistant.message`, and every event of the turn."""

    text: str
    events: tuple[Event, ...]
    message_id: str
    model: str | None = None


class SessionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A row of the list of sessions."""

    session_id: str
    start_time: str
    modified_time: str
    summary: str | None = None
    is_remote: bool = False
    context: dict[str, Any] | None = None


class Model(msgspec.Struct, frozen=True):
    """A model that the daemon knows. `tertulia` says who provides it and whether it can run."""

    id: str
    name: str
    capabilities: dict[str, Any] = {}
    policy: dict[str, Any] | None = None
    tertulia: dict[str, Any] | None = None

    @property
    def available(self) -> bool:
        """Whether a turn on it can run now. True where the daemon does not say."""
        return bool((self.tertulia or {}).get("available", True))

    @property
    def provider(self) -> str | None:
        """The name of the provider that serves it."""
        return (self.tertulia or {}).get("provider")

    @property
    def default(self) -> bool:
        """Whether a session without a model gets it."""
        return bool((self.tertulia or {}).get("default", False))

    @property
    def reason(self) -> str | None:
        """Why it cannot run now, and what to do about it."""
        return (self.tertulia or {}).get("reason")
