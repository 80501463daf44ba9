"""Methods about one session: its life, the conversation, its settings.

What is ours alone is optional and says so.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tertulia_protocol import attachments, faults
from tertulia_protocol.config import (  # noqa: F401 - the table names them
    CapabilitiesOverride,
    CreateParams,
    ResumeParams,
    SessionConfig,
)
from tertulia_protocol.events import AbortReason, AgentMode, ModelChangeSource
from tertulia_protocol.provider_config import ProviderConfig
from tertulia_protocol.shapes import IdempotencyKey, Params, Result, SessionMeta

# A session's life


class ModelState(Result, frozen=True, kw_only=True):
    model_id: str | None = None


class UiCapabilities(Result, frozen=True, kw_only=True):
    elicitation: bool
    mcp_apps: bool
    canvases: bool


class Capabilities(Result, frozen=True, kw_only=True):
    """What a client may ask of this session."""

    ui: UiCapabilities
    extensions: bool


NO_CAPABILITIES = Capabilities(
    ui=UiCapabilities(elicitation=False, mcp_apps=False, canvases=False), extensions=False
)


class SessionOpened(Result, frozen=True, kw_only=True):
    """The answer to `session.create` and `session.resume`. `resumed` is ours: true where a create
    with `ifExists: "resume"` met a session that was there."""

    session_id: str
    start_time: str
    is_remote: bool
    mode: Literal["interactive", "plan", "autopilot"]
    capabilities: Capabilities
    workspace_path: str | None = None
    model_state: ModelState | None = None
    resumed: bool = False


Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
WantedMembers = Annotated[dict[str, str | bool | Int64 | float], msgspec.Meta(max_length=100)]


class SessionFilter(Params, frozen=True, kw_only=True):
    """Each member given has to be equal to the session's. Those from `archived` on are ours:
    archived sessions are left out unless it says otherwise, `prefix` is that of the id."""

    cwd: str | None = None
    git_root: str | None = None
    repository: str | None = None
    branch: str | None = None
    archived: bool | Literal["any"] | None = None
    named: bool | None = None
    metadata: WantedMembers | None = None
    prefix: str | None = None


class SessionListParams(Params, frozen=True, kw_only=True):
    """All but `filter` are ours. `cursor` is one that the page before gave, in the same order."""

    filter: SessionFilter | None = None
    order: Literal["modified", "created", "title"] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str | None = None


class SessionListResult(Result, frozen=True, kw_only=True):
    """`cursor` is ours: there are more rows than the limit."""

    sessions: list[SessionMeta]
    cursor: str | None = None


class SessionGetMetadataResult(Result, frozen=True, kw_only=True):
    """Without `session` there is none with that id."""

    session: SessionMeta | None = None


class SessionGetLastIdResult(Result, frozen=True, kw_only=True):
    """The most recently modified session, if there is any."""

    session_id: str | None = None


# The conversation


class SessionSendParams(Params, frozen=True, kw_only=True):
    """A message. `attachments` stay as they came: `attachments.view` types them. `display_prompt`
    is shown in place of the prompt, `request_headers` go to the model's endpoint. Ours are
    `idempotency_key`, `if_idle` and `expected_seq`."""

    session_id: str
    prompt: str
    display_prompt: str | None = None
    attachments: list[attachments.Attachment] | None = None
    mode: Literal["enqueue", "immediate"] | None = None
    agent_mode: AgentMode | None = None
    request_headers: dict[str, str] | None = None
    source: str | None = None
    wait: bool | None = None
    prepend: bool | None = None
    billable: bool | None = None
    required_tool: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    idempotency_key: IdempotencyKey | None = None
    if_idle: bool | None = None
    expected_seq: int | None = None

    def check(self) -> None:
        attachments.check_message(self.prompt, self.attachments, "$")


class SessionSendResult(Result, frozen=True, kw_only=True):
    """The message is stored, and is or will be a turn."""

    message_id: str


class SessionSendAndWaitResult(Result, frozen=True, kw_only=True):
    """The message's turn is over. `response` is its last `assistant.message`, as an event;
    `completion_event_id` is the `session.idle` that came with it, if one did."""

    response: msgspec.Raw | None
    aborted: bool
    completion_event_id: str | None = None


class SessionAbortParams(Params, frozen=True, kw_only=True):
    """With `message_id`, which is ours, nobody else's turn is meant."""

    session_id: str
    reason: AbortReason | None = None
    message_id: str | None = None


class SessionGetMessagesResult(Result, frozen=True, kw_only=True):
    """The stored events, whole, in order; the ephemeral ones are gone."""

    events: list[msgspec.Raw]


class SessionLogParams(Params, frozen=True, kw_only=True):
    """A line for people in the session's log: it becomes an event and is not sent to the model."""

    session_id: str
    message: str
    level: Literal["info", "warning", "error"] | None = None
    ephemeral: bool | None = None
    type: str | None = None
    url: str | None = None
    tip: str | None = None


class SessionLogResult(Result, frozen=True, kw_only=True):
    event_id: str


# A session's settings


class SessionModelSwitchToParams(Params, frozen=True, kw_only=True):
    session_id: str
    model_id: str
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    context_tier: str | None = None
    model_capabilities: CapabilitiesOverride | None = None
    source: ModelChangeSource | None = None


class SessionModelSwitchToResult(Result, frozen=True, kw_only=True):
    model_id: str
    status: Literal["applied"]
    message: str | None = None
    model_state: ModelState | None = None


class SessionModelGetCurrentResult(Result, frozen=True, kw_only=True):
    model_id: str | None = None
    reasoning_effort: str | None = None


class SessionNameGetResult(Result, frozen=True, kw_only=True):
    """Null where nobody named the session."""

    name: str | None


class SessionNameSetParams(Params, frozen=True, kw_only=True):
    session_id: str
    name: str

    def check(self) -> None:
        if not any(each.isprintable() and not each.isspace() for each in self.name):
            raise faults.invalid("$.name", "the name is empty")


class SessionOptionsUpdateParams(Params, frozen=True, kw_only=True):
    """A patch of the session's settings; `patch` gives it as a config. Other members of the wire's
    method are passed over for the same reasons as in `session.create`."""

    session_id: str
    model: str | None = None
    model_capabilities_overrides: CapabilitiesOverride | None = None
    reasoning_effort: str | None = None
    client_name: str | None = None
    working_directory: str | None = None
    available_tools: list[str] | None = None
    excluded_tools: list[str] | None = None
    tool_filter_precedence: str | None = None
    enable_streaming: bool | None = None
    provider: ProviderConfig | None = None
    skill_directories: list[str] | None = None
    organization_custom_instructions: str | None = None

    def patch(self) -> SessionConfig:
        return SessionConfig(
            model=self.model,
            model_capabilities=self.model_capabilities_overrides,
            reasoning_effort=self.reasoning_effort,
            client_name=self.client_name,
            working_directory=self.working_directory,
            available_tools=self.available_tools,
            excluded_tools=self.excluded_tools,
            tool_filter_precedence=self.tool_filter_precedence,
            streaming=self.enable_streaming,
            provider=self.provider,
            skill_directories=self.skill_directories,
            organization_custom_instructions=self.organization_custom_instructions,
        )


class SessionEventLogRegisterInterestParams(Params, frozen=True, kw_only=True):
    session_id: str
    event_type: str


class SessionEventLogRegisterInterestResult(Result, frozen=True, kw_only=True):
    handle: str


class SessionEventLogReleaseInterestParams(Params, frozen=True, kw_only=True):
    session_id: str
    handle: str
