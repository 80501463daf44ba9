"""What the client hands to its callers: small frozen values in the shapes of the wire.

Members that the daemon sends beyond these are passed over: `Client.request` gives a result as it
came. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypedDict, TypeVar

import msgspec

T = TypeVar("T")

Order = Literal["modified", "created", "title"]
"""Of a list of sessions: the newest first by the first two, the title's alphabet by the last."""


class Filter(TypedDict, total=False):
    """What a list of sessions leaves: those that have each member given. `archived` is False where
    it is not given; `metadata` has to be equal member by member; `prefix` is that of the id."""

    cwd: str
    git_root: str
    repository: str
    branch: str
    archived: bool | Literal["any"]
    named: bool
    metadata: dict[str, str | bool | int | float]
    prefix: str


class SendOptions(TypedDict, total=False):
    """What may be said with a message.

    `mode`: "enqueue" waits for its turn, "immediate" and `prepend` go before the others that wait.
    `idempotency_key`: a message of the same key is accepted once, however often it is sent.
    `if_idle`: else `TurnBusy`. `expected_seq`: the end of the log (`tail`), else `SeqMoved`.
    `display_prompt` is shown while it waits; `request_headers` go to the model's endpoint.
    """

    mode: Literal["enqueue", "immediate"]
    prepend: bool
    idempotency_key: str
    if_idle: bool
    expected_seq: int
    display_prompt: str
    agent_mode: str
    request_headers: dict[str, str]
    source: str


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
    """A row of the list of sessions. `summary` is its title, which somebody chose where `named`;
    `metadata` is the caller's own; `pending` messages wait for their turn."""

    session_id: str
    start_time: str
    modified_time: str
    summary: str | None = None
    is_remote: bool = False
    context: dict[str, Any] | None = None
    client_name: str | None = None
    named: bool = False
    model: str | None = None
    archived: bool = False
    metadata: dict[str, Any] = {}
    parent_session_id: str | None = None
    pending: int = 0


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some of what there is. `cursor` asks for what follows; None: this is the end."""

    items: tuple[T, ...]
    cursor: str | None = None


class Snippet(msgspec.Struct, frozen=True):
    """A piece of what was said. `highlights` are the [start, end) of the words found, in
    characters."""

    text: str
    highlights: tuple[tuple[int, int], ...] = ()


class SearchHit(msgspec.Struct, frozen=True, rename="camel"):
    """A message in which something was found. `type` says whose it is."""

    session: SessionInfo
    event_id: str
    seq: int
    type: str
    snippet: Snippet


class Metadata(msgspec.Struct, frozen=True):
    """What callers keep with a session."""

    metadata: dict[str, Any]
    archived: bool


class Pruned(msgspec.Struct, frozen=True, rename="camel"):
    """`candidates` are old enough; `skipped` are those of them that stay, for `reasons`: "running",
    "attached", "elsewhere" (a turn of another daemon), "pending", "excluded" or "named". `recent`
    sessions are not old enough. Nothing is deleted in a `dry_run`. `freed_bytes` may be less than
    their sizes: what a fork still needs stays."""

    candidates: tuple[str, ...]
    skipped: tuple[str, ...]
    deleted: tuple[str, ...]
    freed_bytes: int
    dry_run: bool
    reasons: dict[str, str] = {}
    recent: int = 0

    @property
    def going(self) -> tuple[str, ...]:
        """What is deleted, or would be."""
        kept = {*self.skipped}
        return tuple(each for each in self.candidates if each not in kept)


class RewindPoint(msgspec.Struct, frozen=True, rename="camel"):
    """A user's message: what `rewind` and `fork` take as a place is its `event_id`."""

    event_id: str
    user_message: str
    timestamp: str


class ModelUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Model calls, and their tokens."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: ModelUsage) -> ModelUsage:
        return ModelUsage(
            *(a + b for a, b in zip(_figures(self), _figures(other), strict=True)),
        )


def _figures(usage: ModelUsage) -> tuple[int, ...]:
    return msgspec.structs.astuple(usage)


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """What the model calls of a session, or of several, took: those that gave a whole answer, and
    of a fork its own. `turns` are the messages that had one; `models` are by the model's name."""

    turns: int = 0
    duration_ms: float = 0.0
    models: dict[str, ModelUsage] = {}

    @property
    def total(self) -> ModelUsage:
        """Over all models."""
        return sum(self.models.values(), start=ModelUsage())

    def __add__(self, other: Usage) -> Usage:
        names = dict.fromkeys([*self.models, *other.models])
        none = ModelUsage()
        return Usage(
            self.turns + other.turns,
            self.duration_ms + other.duration_ms,
            {name: self.models.get(name, none) + other.models.get(name, none) for name in names},
        )


class LogPage(msgspec.Struct, frozen=True):
    """Stored events, the oldest first. `cursor` leads on in the same direction; `expired`: the one
    that was given is of no use here, and the read began anew."""

    events: tuple[Event, ...]
    cursor: str
    has_more: bool
    expired: bool = False


class LogEnd(msgspec.Struct, frozen=True):
    """`cursor` stands behind the last event; `seq` is what `send` takes as `expected_seq`."""

    cursor: str
    seq: int


class QueuedMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A message that waits for its turn. `id` is what `send` gave."""

    id: str
    display_text: str
    agent_mode: str | None = None
    source: str | None = None


class Waiting(msgspec.Struct, frozen=True):
    """A session's queue: `items` in the order of their turns, before them the texts of those that
    `steer`. A `paused` one takes up nothing; nor does one that `needs_provider`, until a client
    resumes the session with its provider and key."""

    items: tuple[QueuedMessage, ...]
    steering: tuple[str, ...] = ()
    paused: bool = False
    needs_provider: bool = False


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
