"""Methods about a session's log and its queue: read with a cursor, edited, put in another order.

The names are the SDKs' (sections 3.1 and 3.2 of the wire's reference).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tertulia_protocol import attachments, faults
from tertulia_protocol.events import AgentMode, ShutdownType
from tertulia_protocol.shapes import IdempotencyKey, Params, Result

Count = Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
SomeNames = Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]

# The log


class SessionEventLogReadParams(Params, frozen=True, kw_only=True):
    """`cursor` is one that an earlier read or `tail` gave; it knows its direction. `wait_ms` is how
    long to wait where there is nothing new. `agent_ids` are of subagents."""

    session_id: str
    cursor: str | None = None
    max: AtLeastOne | None = None
    wait_ms: Count | None = None
    types: Literal["*"] | SomeNames | None = None
    agent_scope: Literal["primary", "all"] | None = None
    agent_ids: SomeNames | None = None
    direction: Literal["forward", "backward"] | None = None
    include_ephemeral: bool | None = None


class SessionEventLogReadResult(Result, frozen=True, kw_only=True):
    """`events` are the oldest first in either direction. `has_more`: the cursor has more to give
    at once. "expired": the cursor is of no use here, and the read began anew."""

    events: list[msgspec.Raw]
    cursor: str
    has_more: bool
    cursor_status: Literal["ok", "expired"]


class SessionEventLogTailResult(Result, frozen=True, kw_only=True):
    """A forward cursor behind the last event. `seq` is ours: what `session.send` takes as
    `expectedSeq`."""

    cursor: str
    seq: int


# The queue


class QueueItem(Result, frozen=True, kw_only=True):
    """A message that waits for its turn; `id` is its message id."""

    id: str
    message_id: str
    kind: Literal["message"]
    display_text: str
    agent_mode: AgentMode
    source: str | None = None


class SessionQueuePendingItemsResult(Result, frozen=True, kw_only=True):
    """`items` in the order of their turns. `steering_messages` go before them, as text. `paused`
    is ours, and so is `needs_provider`: they wait until a client gives the session's provider."""

    items: list[QueueItem]
    steering_messages: list[str]
    paused: bool = False
    needs_provider: bool = False


class SessionQueueHasPendingResult(Result, frozen=True, kw_only=True):
    has_pending: bool


class QueueItemParams(Params, frozen=True, kw_only=True):
    session_id: str
    id: str


class SessionQueueMoveItemParams(Params, frozen=True, kw_only=True):
    session_id: str
    id: str
    to_position: int


class Changed(Result, frozen=True, kw_only=True):
    changed: bool


class QueueMessage(Params, frozen=True, kw_only=True):
    """A message as `session.send` takes it."""

    prompt: str
    display_prompt: str | None = None
    attachments: list[attachments.Attachment] | None = None
    agent_mode: AgentMode | None = None
    source: str | None = None
    billable: bool | None = None
    required_tool: str | None = None
    request_headers: dict[str, str] | None = None
    mode: Literal["enqueue", "immediate"] | None = None
    prepend: bool | None = None
    wait: bool | None = None
    delivery: str | None = None
    idempotency_key: IdempotencyKey | None = None
    if_idle: bool | None = None
    expected_seq: int | None = None


class SessionQueueInsertAtParams(Params, frozen=True, kw_only=True):
    session_id: str
    position: int
    message: QueueMessage

    def check(self) -> None:
        attachments.check_message(self.message.prompt, self.message.attachments, "$.message")


class ItemId(Result, frozen=True, kw_only=True):
    id: str


class Removed(Result, frozen=True, kw_only=True):
    removed: bool


class SessionQueueUpdateTextParams(Params, frozen=True, kw_only=True):
    session_id: str
    id: str
    prompt: str
    display_prompt: str | None = None

    def check(self) -> None:
        if not self.prompt:
            raise faults.invalid(
                "$.prompt", "the message is empty: take it out with session.queue.removeAt instead"
            )


class Updated(Result, frozen=True, kw_only=True):
    updated: bool


class SessionQueueSetDrainPausedParams(Params, frozen=True, kw_only=True):
    session_id: str
    paused: bool


class Steered(Result, frozen=True, kw_only=True):
    steered: bool


# The end


class SessionShutdownParams(Params, frozen=True, kw_only=True):
    session_id: str
    type: ShutdownType | None = None
    reason: str | None = None
