"""The methods of the wire: one table of names, shapes, and how each one runs.

Nothing else in the project knows a method's shape. `decode` is the only way from a request's params
to a typed struct, and what it raises is always `InvalidParams` with the JSON path of the fault.
Unknown members are passed over; null stands for a member that was not given.
A result is encoded with `omit_defaults`, so a member with a default is left out where it says
nothing; `None` as a type of result is null on the wire.
Source of the shapes: section 3 of the wire's reference and the recorded frames. What is ours alone
is optional and says so.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import msgspec

from tertulia_protocol import attachments, faults, methods_library, methods_log, session_id
from tertulia_protocol.config import (
    CapabilitiesOverride,
    CreateParams,
    ResumeParams,
    SessionConfig,
)
from tertulia_protocol.errors import InvalidParams
from tertulia_protocol.events import AbortReason, AgentMode, ModelChangeSource
from tertulia_protocol.models import ModelInfo
from tertulia_protocol.provider_config import ProviderConfig
from tertulia_protocol.shapes import (
    Method,
    NoParams,
    Params,
    Result,
    SessionMeta,
    SessionParams,
    Success,
)

# The connection


class ConnectParams(Params, frozen=True, kw_only=True):
    token: str | None = None
    enable_git_hub_telemetry_forwarding: bool | None = None
    supported_task_kinds: list[str] | None = None


class ConnectResult(Result, frozen=True, kw_only=True):
    """`version` is the daemon's."""

    ok: Literal[True]
    protocol_version: int
    version: str


class PingParams(Params, frozen=True, kw_only=True):
    message: str | None = None


class PingResult(Result, frozen=True, kw_only=True):
    """`message` is `pong: ` and what was sent; `timestamp` is ISO 8601."""

    message: str
    timestamp: str
    protocol_version: int


class StatusGetResult(Result, frozen=True, kw_only=True):
    version: str
    protocol_version: int


class AuthGetStatusResult(Result, frozen=True, kw_only=True):
    """Whether somebody is logged in to Copilot; the daemon needs no login and says false."""

    is_authenticated: bool
    auth_type: str | None = None
    host: str | None = None
    login: str | None = None
    status_message: str | None = None


class ModelsListParams(Params, frozen=True, kw_only=True):
    selection_id: str | None = None


class ModelsListResult(Result, frozen=True, kw_only=True):
    models: list[ModelInfo]


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


class SessionFilter(Params, frozen=True, kw_only=True):
    """Each member given has to be equal to the session's. Those from `archived` on are ours:
    archived sessions are left out unless it says otherwise, `prefix` is that of the id."""

    cwd: str | None = None
    git_root: str | None = None
    repository: str | None = None
    branch: str | None = None
    archived: bool | Literal["any"] | None = None
    named: bool | None = None
    metadata: dict[str, str | bool | Int64 | float] | None = None
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


class SessionGetForegroundResult(Result, frozen=True, kw_only=True):
    session_id: str | None = None
    workspace_path: str | None = None


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
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    if_idle: bool | None = None
    expected_seq: int | None = None


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
    session_id: str
    reason: AbortReason | None = None


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


# The table

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("connect", ConnectParams, ConnectResult, "Say the token and learn the version."),
        Method("ping", PingParams, PingResult, "Is the daemon alive?"),
        Method("status.get", NoParams, StatusGetResult, "The daemon's version."),
        Method("auth.getStatus", NoParams, AuthGetStatusResult, "Is anybody logged in?"),
        Method(
            "models.list", ModelsListParams, ModelsListResult, "What can answer now.", "in a task"
        ),
        Method("session.create", CreateParams, SessionOpened, "Make a session and attach to it."),
        Method("session.resume", ResumeParams, SessionOpened, "Attach to a stored session."),
        Method("session.list", SessionListParams, SessionListResult, "The stored sessions."),
        Method(
            "session.getMetadata", SessionParams, SessionGetMetadataResult, "One row of the list."
        ),
        Method("session.getLastId", NoParams, SessionGetLastIdResult, "The session used last."),
        Method("session.delete", SessionParams, Success, "Forget a session and its events."),
        Method("session.destroy", SessionParams, Success, "Detach; the session stays stored."),
        Method("session.detach", SessionParams, Success, "Detach; the session stays stored."),
        Method("session.send", SessionSendParams, SessionSendResult, "Put a message."),
        Method(
            "session.sendAndWait",
            SessionSendParams,
            SessionSendAndWaitResult,
            "Put a message and wait for its turn's end.",
        ),
        Method("session.abort", SessionAbortParams, Success, "End the running turn."),
        Method(
            "session.getMessages", SessionParams, SessionGetMessagesResult, "The stored events."
        ),
        Method("session.log", SessionLogParams, SessionLogResult, "Write a line for people."),
        Method(
            "session.model.switchTo",
            SessionModelSwitchToParams,
            SessionModelSwitchToResult,
            "Let later turns go to another model.",
        ),
        Method(
            "session.model.getCurrent",
            SessionParams,
            SessionModelGetCurrentResult,
            "The session's model.",
        ),
        Method("session.name.get", SessionParams, SessionNameGetResult, "The session's title."),
        Method("session.name.set", SessionNameSetParams, None, "Give the session a title."),
        Method("session.options.update", SessionOptionsUpdateParams, Success, "Change settings."),
        Method(
            "session.eventLog.registerInterest",
            SessionEventLogRegisterInterestParams,
            SessionEventLogRegisterInterestResult,
            "Ask for a type of event that is sent on demand only.",
        ),
        Method(
            "session.eventLog.releaseInterest",
            SessionEventLogReleaseInterestParams,
            Success,
            "Give such a handle back.",
        ),
        Method(
            "session.getForeground",
            NoParams,
            SessionGetForegroundResult,
            "The session in a terminal's front: none here.",
        ),
        Method("session.setForeground", SessionParams, Success, "Needs a terminal: refused here."),
        Method(
            "runtime.shutdown", NoParams, None, "Finish, answer, and stop if the daemon is yours."
        ),
        Method("rpc.discover", NoParams, dict[str, Any], "This table as an OpenRPC document."),
        *methods_library.TABLE,
        *methods_log.TABLE,
    )
}
"""Every method that the daemon answers, by its name."""


# From raw params to typed ones


@functools.cache
def _decoder(params: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(params)


def decode(method: Method, raw: msgspec.Raw | bytes | None) -> Any:
    """The typed params of a request for `method`: an instance of `method.params`.

    Absent, null and `[null]` stand for `{}`, and `[{...}]` for its element (section 1.5 of the
    reference). Raises `InvalidParams`, whose `data.path` names the fault.
    """
    try:
        params = _decoder(method.params).decode(_by_name(raw))
        _check(params)
    except msgspec.ValidationError as error:
        raise _invalid(*faults.explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _invalid("$", "the params are not valid JSON in UTF-8") from None
    except RecursionError:
        raise _invalid("$", "the params are nested too deep") from None
    return params


def _by_name(raw: msgspec.Raw | bytes | None) -> msgspec.Raw | bytes:
    """The params as one JSON object's bytes."""
    if raw is None:
        return b"{}"
    start = bytes(memoryview(raw)[:64]).lstrip()
    if not start or start == b"null":
        return b"{}"
    if not start.startswith(b"["):
        return raw
    items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    if len(items) > 1:
        raise _invalid("$", "params are one object, by name; an array holds that object alone")
    return b"{}" if not items or bytes(items[0]) == b"null" else items[0]


def _check(params: Any) -> None:
    """The rules that types do not say."""
    if (given := getattr(params, "session_id", None)) is not None:
        session_id.check(given)
    if isinstance(params, SessionSendParams):
        _check_message(params, "$")
    if isinstance(params, methods_log.SessionQueueInsertAtParams):
        _check_message(params.message, "$.message")
    if isinstance(params, methods_log.SessionQueueUpdateTextParams) and not params.prompt:
        raise _invalid("$.prompt", "the message is empty: take it out with removeAt instead")
    if isinstance(params, SessionNameSetParams) and not params.name.strip():
        raise _invalid("$.name", "the name is empty")


def _check_message(message: SessionSendParams | methods_log.QueueMessage, at: str) -> None:
    if not message.prompt and not message.attachments:
        raise _invalid(f"{at}.prompt", "the message is empty: it needs a prompt or an attachment")
    for index, attachment in enumerate(message.attachments or ()):
        try:
            attachments.view(attachment)
        except msgspec.ValidationError as error:
            path, fault = faults.explain(str(error))
            raise _invalid(f"{at}.attachments[{index}]{path[1:]}", fault) from None


def _invalid(path: str, fault: str) -> InvalidParams:
    return InvalidParams(f"{path}: {fault}.", {"path": path})
