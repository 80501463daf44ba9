"""The session events that the daemon emits: the shape of their data, and what is stored.

Names and required members are the SDKs' (they refuse an event that lacks one); an optional member
that has nothing to say is left out. A persisted event is a fact of the log; an ephemeral one is
sent live, carries `ephemeral: true`, and never comes back.
Times are ISO 8601 in UTC unless a member says otherwise; event ids are UUIDs.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

AgentMode = Literal["interactive", "plan", "autopilot", "shell"]
ModelChangeSource = Literal[
    "model_command",
    "settings_command",
    "config_command",
    "model_picker",
    "managed_settings",
    "repo_settings",
    "startup",
    "agent",
    "plan_mode",
    "automatic",
    "sdk",
]
AbortReason = Literal["user_initiated", "remote_command", "user_abort", "autopilot_credit_limit"]
Delivery = Literal["idle", "steering", "queued"]
ShutdownType = Literal["routine", "error"]


class EventData(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """The base of what stands in an event's `data`."""


class WorkingDirectory(EventData):
    """Where the session works, and what a client knows of the repository there: `repository` is its
    name at `repository_host`. Absolute paths."""

    cwd: str
    git_root: str | None = None
    repository: str | None = None
    host_type: Literal["github", "ado"] | None = None
    repository_host: str | None = None
    branch: str | None = None
    head_commit: str | None = None
    base_commit: str | None = None


class SessionStart(EventData):
    """The first event of every session. `copilot_version` is the daemon's own version: the name
    is what the SDKs ask for."""

    session_id: str
    version: int
    producer: str
    copilot_version: str
    start_time: str
    selected_model: str | None = None
    reasoning_effort: str | None = None
    context: WorkingDirectory | None = None


class SessionResume(EventData):
    """`event_count` counts the stored events before this one; `session_was_active` says that
    another connection was attached."""

    resume_time: str
    event_count: int
    continue_pending_work: bool
    session_was_active: bool
    selected_model: str | None = None
    reasoning_effort: str | None = None
    context: WorkingDirectory | None = None


class SessionError(EventData):
    """A turn failed, or a client logged an error. `status_code` is the model server's."""

    error_type: str
    message: str
    error_code: str | None = None
    status_code: int | None = None
    provider_call_id: str | None = None
    url: str | None = None
    originating_message_id: str | None = None


class SessionIdle(EventData):
    """The turn is over and nothing is queued: the last event of a turn, whatever failed."""

    aborted: bool = False


class SessionTitleChanged(EventData):
    title: str


class SessionSnapshotRewind(EventData):
    """The event `up_to_event_id` and those behind it are left out of the log from now on."""

    up_to_event_id: str
    events_removed: int


class SessionInfo(EventData):
    info_type: str
    message: str
    tip: str | None = None
    url: str | None = None


class SessionWarning(EventData):
    warning_type: str
    message: str
    url: str | None = None


class SessionModelChange(EventData):
    """Turns that start after this one go to `new_model`."""

    new_model: str
    previous_model: str | None = None
    reasoning_effort: str | None = None
    previous_reasoning_effort: str | None = None
    source: ModelChangeSource | None = None
    cause: str | None = None


class UserMessage(EventData):
    """`content` is the caller's prompt, unchanged; `transformed_content` is what the model reads,
    where that differs. `message_id` is what `session.send` answered."""

    content: str
    transformed_content: str | None = None
    attachments: list[dict[str, Any]] | None = None
    agent_mode: AgentMode | None = None
    source: str | None = None
    delivery: Delivery | None = None
    message_id: str | None = None
    interaction_id: str | None = None
    turn_id: str | None = None


class PendingMessagesModified(EventData):
    """The queue of messages that wait for their turn has changed."""


class AssistantTurnStart(EventData):
    """One model call begins."""

    turn_id: str
    interaction_id: str | None = None
    model: str | None = None


class AssistantMessageStart(EventData):
    message_id: str


class AssistantReasoning(EventData):
    reasoning_id: str
    content: str


class AssistantReasoningDelta(EventData):
    reasoning_id: str
    delta_content: str


class AssistantMessageDelta(EventData):
    message_id: str
    delta_content: str


class ToolRequest(EventData):
    """A call that the model asked for; `arguments` is its decoded JSON, or the text as it came."""

    tool_call_id: str
    name: str
    arguments: Any = None
    type: Literal["function", "custom"] | None = None


class AssistantMessage(EventData):
    """One whole answer of the model, to the message with `originating_message_id`."""

    message_id: str
    content: str
    model: str | None = None
    tool_requests: list[ToolRequest] | None = None
    reasoning_text: str | None = None
    output_tokens: int | None = None
    interaction_id: str | None = None
    turn_id: str | None = None
    api_call_id: str | None = None
    originating_message_id: str | None = None


class AssistantTurnEnd(EventData):
    turn_id: str
    model: str | None = None


class AssistantIdle(EventData):
    """The model has no more to say; `session.idle` follows."""

    aborted: bool = False


class AssistantUsage(EventData):
    """What one model call took: tokens as the provider counts them, `duration` in ms."""

    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    reasoning_tokens: int | None = None
    duration: float | None = None
    time_to_first_token_ms: float | None = None
    finish_reason: str | None = None
    api_call_id: str | None = None
    provider_call_id: str | None = None
    api_endpoint: Literal["/chat/completions"] | None = None
    is_byok: bool | None = None


class SessionUsageInfo(EventData):
    """How full the model's window is, in tokens; `messages_length` counts messages."""

    token_limit: int
    current_tokens: int
    messages_length: int
    system_tokens: int | None = None
    conversation_tokens: int | None = None
    tool_definitions_tokens: int | None = None
    is_initial: bool | None = None


class Abort(EventData):
    reason: AbortReason


class CodeChanges(EventData):
    lines_added: int
    lines_removed: int
    files_modified: list[str]


class SessionShutdown(EventData):
    """The daemon lets the session go. `session_start_time` is in ms since 1970."""

    shutdown_type: ShutdownType
    session_start_time: int
    total_api_duration_ms: float
    code_changes: CodeChanges
    model_metrics: dict[str, Any]
    current_model: str | None = None
    error_reason: str | None = None


class AssistantTurnRetry(EventData):
    """The turn's model call failed before anything of its answer came, and is tried again."""

    turn_id: str
    model: str | None = None
    reason: str | None = None


class ModelCallFailure(EventData):
    """One model call failed; `session.error` or `assistant.turn_retry` says what that means for
    the turn."""

    source: Literal["top_level", "subagent", "mcp_sampling"]
    model: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    status_code: int | None = None
    failure_kind: Literal["api", "transport"] | None = None
    duration_ms: float | None = None
    is_byok: bool | None = None


DataType = type[EventData]


class EventType(msgspec.Struct, frozen=True):
    """A row of the registry. `doc` says when the event is emitted."""

    type: str
    data: DataType
    ephemeral: bool
    doc: str


def _stored(name: str, data: DataType, doc: str) -> EventType:
    return EventType(name, data, False, doc)


def _live(name: str, data: DataType, doc: str) -> EventType:
    return EventType(name, data, True, doc)


EVENTS: dict[str, EventType] = {
    event.type: event
    for event in (
        _stored("session.start", SessionStart, "The session was created."),
        _stored("session.resume", SessionResume, "A client attached to the stored session."),
        _stored("session.error", SessionError, "The turn failed; session.idle follows."),
        _live("session.idle", SessionIdle, "The last event of a turn."),
        _live("session.title_changed", SessionTitleChanged, "The session has a new title."),
        _live("session.snapshot_rewind", SessionSnapshotRewind, "The log was rewound."),
        _stored("session.info", SessionInfo, "A note for people."),
        _stored("session.warning", SessionWarning, "A warning for people."),
        _stored("session.model_change", SessionModelChange, "Later turns go to another model."),
        _stored(
            "session.context_changed", WorkingDirectory, "It works elsewhere, or a client says so."
        ),
        _stored("user.message", UserMessage, "A message was taken up by a turn."),
        _live("pending_messages.modified", PendingMessagesModified, "The queue has changed."),
        _stored("assistant.turn_start", AssistantTurnStart, "A model call begins."),
        _live("assistant.turn_retry", AssistantTurnRetry, "The model call is tried again."),
        _live("assistant.message_start", AssistantMessageStart, "The first delta is near."),
        _stored("assistant.reasoning", AssistantReasoning, "What the model thought, whole."),
        _live("assistant.reasoning_delta", AssistantReasoningDelta, "A piece of its thinking."),
        _live("assistant.message_delta", AssistantMessageDelta, "A piece of the answer."),
        _stored("assistant.message", AssistantMessage, "The answer, whole."),
        _stored("assistant.turn_end", AssistantTurnEnd, "The model call is over."),
        _live("assistant.idle", AssistantIdle, "The model has no more to say."),
        _live("assistant.usage", AssistantUsage, "What the model call took."),
        _live("session.usage_info", SessionUsageInfo, "How full the model's window is."),
        _stored("abort", Abort, "A client ended the turn."),
        _stored("session.shutdown", SessionShutdown, "The daemon let the session go."),
        _live(
            "model.call_failure",
            ModelCallFailure,
            "A model call failed; session.error or assistant.turn_retry follows.",
        ),
    )
}
"""Every event that the daemon emits, by its type."""

BY_DATA: dict[DataType, EventType] = {event.data: event for event in EVENTS.values()}
"""The same rows by the struct of their data."""


class Envelope(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", gc=False
):
    """An event as it crosses the wire. `parent_id` is the stored event before it, null for the
    first: it has no default, so that null is sent. `data` is the struct of the type."""

    id: str
    timestamp: str
    parent_id: str | None
    type: str
    data: Any
    ephemeral: bool = False


class SessionEventParams(msgspec.Struct, frozen=True, rename="camel"):
    """The notification `session.event`: to every connection that is attached to the session."""

    session_id: str
    event: Envelope


LifecycleType = Literal[
    "session.created",
    "session.deleted",
    "session.updated",
    "session.foreground",
    "session.background",
]


class LifecycleMetadata(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    start_time: str
    modified_time: str
    summary: str | None = None


class SessionLifecycleParams(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The notification `session.lifecycle`: to every connection; a deleted session has no
    metadata."""

    type: LifecycleType
    session_id: str
    metadata: LifecycleMetadata | None = None


class Notification(msgspec.Struct, frozen=True):
    """A row of `NOTIFICATIONS`."""

    name: str
    params: type[msgspec.Struct]
    summary: str


NOTIFICATIONS: dict[str, Notification] = {
    note.name: note
    for note in (
        Notification("session.event", SessionEventParams, "An event of an attached session."),
        Notification("session.lifecycle", SessionLifecycleParams, "The list of sessions changed."),
    )
}
"""What the daemon tells without being asked, by name."""
