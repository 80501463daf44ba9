"""What `session.create` and `session.resume` may carry, and the standing of every field.

`FIELDS` is the one table: a field is *used*; *refused*, when it asks for something that this
version does not do; or *ignored*, when leaving it aside harms nobody. Ignored fields are not even
decoded, so what they hold (a GitHub token, say) never gets further than the frame it came in.
Null means "not given" everywhere: the SDKs send it for options that nobody set.
Secrets: no repr here shows a value, and `stored` is the only form that may go to disk.
Source of the names: section 6 of the wire's reference, and what the SDKs 1.0.14 to 1.0.27 send.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal

import msgspec

from tertulia_protocol import provider_config
from tertulia_protocol.provider_config import (
    NamedProviderConfig,
    ProviderConfig,
    ProviderModelConfig,
    SessionProviders,
)
from tertulia_protocol.shapes import Private

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class Section(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do with one section of the daemon's own system message."""

    action: Literal["replace", "remove", "append", "prepend", "preserve", "transform"]
    content: str | None = None


class SystemMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """`append` (the default): our system message, then `content`. `replace`: exactly `content`.
    `customize`: ours with `sections` changed, then `content`; an unknown section's content is
    appended."""

    mode: Literal["append", "replace", "customize"] | None = None
    content: str | None = None
    sections: dict[str, Section] | None = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A tool that the client runs; `parameters` is a JSON schema."""

    name: NonEmpty
    description: str | None = None
    parameters: dict[str, Any] | None = None
    overrides_built_in_tool: bool | None = None
    skip_permission: bool | None = None
    is_terminal: bool | None = None
    defer: str | None = None


class DefaultAgent(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    excluded_tools: list[str] | None = None


class SupportsOverride(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    vision: bool | None = None
    reasoning_effort: bool | None = None


class LimitsOverride(msgspec.Struct, frozen=True, omit_defaults=True):
    """In tokens; these names have no capitals on the wire."""

    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_context_window_tokens: int | None = None


class CapabilitiesOverride(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the caller knows better than the provider's list; each member overrides one."""

    supports: SupportsOverride | None = None
    limits: LimitsOverride | None = None


class SessionConfig(Private, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The fields that are looked at. For their meaning see `FIELDS`."""

    model: str | None = None
    name: str | None = None
    client_name: str | None = None
    streaming: bool | None = None
    reasoning_effort: str | None = None
    system_message: SystemMessage | None = None
    working_directory: str | None = None
    tools: list[Tool] | None = None
    available_tools: list[str] | None = None
    excluded_tools: list[str] | None = None
    default_agent: DefaultAgent | None = None
    model_capabilities: CapabilitiesOverride | None = None
    provider: ProviderConfig | None = None
    providers: list[NamedProviderConfig] | None = None
    models: list[ProviderModelConfig] | None = None

    tool_filter_precedence: str | None = None
    hooks: bool | None = None
    mcp_servers: dict[str, Any] | None = None
    custom_agents: list[Any] | None = None
    agent: str | None = None
    cloud: Any = None
    remote_session: str | None = None
    skill_directories: list[str] | None = None
    has_skill_provider: bool | None = None
    instruction_directories: list[str] | None = None
    organization_custom_instructions: str | None = None
    plugin_directories: list[str] | None = None
    agent_directories: list[str] | None = None
    hook_directories: list[str] | None = None
    enable_managed_settings: bool | None = None


class CreateParams(SessionConfig, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """`session.create`. Without `session_id` the daemon makes one. `if_exists` is ours."""

    session_id: str | None = None
    if_exists: Literal["error", "resume"] | None = None


class ResumeParams(SessionConfig, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """`session.resume`. What it gives replaces what the session had."""

    session_id: str
    continue_pending_work: bool | None = None
    disable_resume: bool | None = None


Standing = Literal["used", "ignored", "refused"]
NOTHING: tuple[Any, ...] = (None, False, "", [], {})
"""Values of a refused field that ask for nothing."""


class Field(msgspec.Struct, frozen=True):
    """The standing of one field. The note of a refused one is also what the refusal says.
    `on` is set where only one of the two methods takes the field."""

    standing: Standing
    note: str
    on: Literal["create", "resume"] | None = None
    harmless: tuple[Any, ...] = NOTHING


def _used(note: str, on: Literal["create", "resume"] | None = None) -> Field:
    return Field("used", note, on)


def _ignored(note: str, on: Literal["create", "resume"] | None = None) -> Field:
    return Field("ignored", note, on)


def _refused(note: str, harmless: tuple[Any, ...] = NOTHING) -> Field:
    return Field("refused", note, harmless=harmless)


_NO_FILES = "no files are read for the system message: put the text into systemMessage"
_NO_TOOLS_RUN = "the daemon runs no tools, so there is nothing for it to bear on"
_NOT_ASKED = "the daemon never asks this, so the handler is not called"
_NO_COPILOT = "there is no Copilot service behind this daemon"
_NO_CANVAS = "canvases and extensions are not offered, and the capabilities say so"
_NO_AGENTS = "there are no sub-agents"
_NO_TELEMETRY = "the daemon sends no telemetry"
_NO_SEARCH = "there is no index of earlier sessions, so nothing is searched or embedded"
_NO_INSTRUCTIONS = "no instruction files are looked for"
_NO_SKILLS = "no skills are looked for"
_NO_MCP = "no MCP servers are run"

FIELDS: dict[str, Field] = {
    "sessionId": _used("the session's id; without one on create, the daemon makes a UUID"),
    "ifExists": _used(
        '"resume" attaches to a session with this id; the default is an error', "create"
    ),
    "continuePendingWork": _used(
        "echoed in session.resume; false: messages that wait go on waiting", "resume"
    ),
    "disableResume": _used("true: no session.resume event is written", "resume"),
    "model": _used("the model of the session's turns, or `provider/id` from `models`"),
    "name": _used(
        "the session's title; as `model` and `clientName`, at most 1,000 characters, one of them to"
        " be seen"
    ),
    "clientName": _used("goes into the User-Agent of the model's calls and into the list"),
    "streaming": _used("true: deltas are sent while the model answers; the default is false"),
    "reasoningEffort": _used("handed to the model, and echoed in session.start"),
    "systemMessage": _used("append, replace, or customize; the action `transform` is refused"),
    "workingDirectory": _used(
        "where the session works, an absolute path of at most 4,096 characters; the default is the"
        " daemon's own"
    ),
    "tools": _used("declared to the model; running them comes in a later version"),
    "availableTools": _used("only the tools that match are declared to the model"),
    "excludedTools": _used(
        "tools that match are not declared to the model; wins over availableTools"
    ),
    "defaultAgent": _used("its excludedTools are not declared to the model"),
    "modelCapabilities": _used("overrides what is known of the model's limits and abilities"),
    "provider": _used("an OpenAI-compatible endpoint for the whole session; its key is not stored"),
    "providers": _used("named endpoints for this session; not together with provider"),
    "models": _used("the models behind `providers`, selected as `provider/id`"),
    "toolFilterPrecedence": _refused(
        'only "excluded" is done: a tool that is excluded stays so', (None, "", "excluded")
    ),
    "hooks": _refused(
        "hooks are not run by this version: create the session without them, and watch its events"
    ),
    "mcpServers": _refused(
        "MCP servers are not run by this version: create the session without them"
    ),
    "customAgents": _refused(
        "custom agents are not run by this version: put the agent's prompt into systemMessage"
    ),
    "agent": _refused("there are no custom agents to select in this version: leave agent out"),
    "cloud": _refused("sessions run in this daemon only: leave cloud out", (None,)),
    "remoteSession": _refused(
        'sessions are not exported or steered from elsewhere: leave remoteSession out, or "off"',
        (None, "", "off"),
    ),
    "skillDirectories": _refused(f"skills are not built yet, and {_NO_FILES}"),
    "hasSkillProvider": _refused(
        "skills are not built yet: put what the model has to know into systemMessage"
    ),
    "instructionDirectories": _refused(_NO_FILES),
    "organizationCustomInstructions": _refused(
        "instructions are taken from systemMessage only: put the text there"
    ),
    "pluginDirectories": _refused("plugins are not loaded by this version: leave them out"),
    "agentDirectories": _refused("custom agents are not run by this version: leave them out"),
    "hookDirectories": _refused("hooks are not run by this version: leave them out"),
    "enableManagedSettings": _refused(
        "managed settings cannot be fetched, and so not kept: leave enableManagedSettings out"
    ),
    "requestPermission": _ignored(_NO_TOOLS_RUN),
    "requestUserInput": _ignored(_NOT_ASKED),
    "requestElicitation": _ignored(f"{_NOT_ASKED}; the capability is answered false"),
    "requestExitPlanMode": _ignored(_NOT_ASKED),
    "requestAutoModeSwitch": _ignored(_NOT_ASKED),
    "requestMcpApps": _ignored(f"{_NO_MCP}; the capability is answered false"),
    "askUserVariant": _ignored(_NOT_ASKED),
    "includeSubAgentStreamingEvents": _ignored(_NO_AGENTS),
    "envValueMode": _ignored(_NO_MCP),
    "gitHubToken": _ignored(f"{_NO_COPILOT}; the token is neither read nor stored"),
    "gitHubTokenProviderRegistrationId": _ignored(_NO_COPILOT),
    "capi": _ignored(_NO_COPILOT),
    "expAssignments": _ignored(_NO_COPILOT),
    "featureFlags": _ignored(_NO_COPILOT),
    "sessionLimits": _ignored(f"counts Copilot's credits, and {_NO_COPILOT}"),
    "isExperimentalMode": _ignored("there are no experimental features"),
    "reasoningSummary": _ignored("chat completions have no such switch"),
    "contextTier": _ignored("a model has one context window here"),
    "toolSearch": _ignored("all declared tools reach the model at once"),
    "imageGeneration": _ignored("the daemon has no tool that makes images"),
    "commands": _ignored("slash commands are for terminals; a prompt is never taken for one"),
    "canvases": _ignored(_NO_CANVAS),
    "requestCanvasRenderer": _ignored(_NO_CANVAS),
    "canvasProvider": _ignored(_NO_CANVAS),
    "openCanvases": _ignored(_NO_CANVAS, "resume"),
    "requestExtensions": _ignored(_NO_CANVAS),
    "extensionSdkPath": _ignored(_NO_CANVAS),
    "extensionInfo": _ignored(_NO_CANVAS),
    "factories": _ignored(_NO_CANVAS, "resume"),
    "requestedEnvironmentVariables": _ignored(_NO_CANVAS, "resume"),
    "allowTranscriptRecovery": _ignored("the log needs no repair", "resume"),
    "excludedBuiltinAgents": _ignored(_NO_AGENTS),
    "customAgentsLocalOnly": _ignored(_NO_AGENTS),
    "autopilot": _ignored("a turn is never continued without a prompt"),
    "githubMcpToolConfig": _ignored(_NO_MCP),
    "mcpOAuthTokenStorage": _ignored(_NO_MCP),
    "authClientIdMetadataUrl": _ignored(_NO_MCP),
    "disabledMcpServers": _ignored(_NO_MCP),
    "enableSessionTelemetry": _ignored(_NO_TELEMETRY),
    "enableGitHubTelemetryForwarding": _ignored(_NO_TELEMETRY),
    "enableCitations": _ignored("the wire format of the models has no citations"),
    "enableFileChangeTracking": _ignored(_NO_TOOLS_RUN),
    "largeOutput": _ignored(_NO_TOOLS_RUN),
    "additionalDirectories": _ignored(_NO_TOOLS_RUN),
    "sandboxConfig": _ignored(_NO_TOOLS_RUN),
    "trustWorkingDirectory": _ignored(_NO_TOOLS_RUN),
    "enableHostGitOperations": _ignored(_NO_TOOLS_RUN),
    "enableFileHooks": _ignored("no hook files are looked for"),
    "managedSettings": _ignored(f"they hold permissions, and {_NO_TOOLS_RUN}"),
    "excludedManagedSettings": _ignored("there are no managed settings"),
    "enforceManagedModelDefaults": _ignored("there are no managed settings"),
    "interactiveUser": _ignored("nothing depends on it"),
    "diagnostics": _ignored("no language servers are asked"),
    "configDir": _ignored("the data folder is chosen when the daemon starts"),
    "enableConfigDiscovery": _ignored("no configuration is looked for in the working directory"),
    "enableOnDemandInstructionDiscovery": _ignored(_NO_INSTRUCTIONS),
    "refreshCustomInstructions": _ignored(_NO_INSTRUCTIONS),
    "enableSkills": _ignored(_NO_SKILLS),
    "disabledSkills": _ignored(_NO_SKILLS),
    "skipEmbeddingRetrieval": _ignored(_NO_SEARCH),
    "embeddingCacheStorage": _ignored(_NO_SEARCH),
    "enableSessionStore": _ignored(_NO_SEARCH),
    "memory": _ignored("nothing is remembered from one session to another"),
    "infiniteSessions": _ignored("histories are not compacted yet"),
    "traceparent": _ignored(_NO_TELEMETRY),
    "tracestate": _ignored(_NO_TELEMETRY),
}
"""Every field of the two methods, by its name on the wire."""

_WIRE_NAMES = dict(
    zip(SessionConfig.__struct_fields__, SessionConfig.__struct_encode_fields__, strict=True)
)
_REFUSED = [
    (attribute, wire, FIELDS[wire])
    for attribute, wire in _WIRE_NAMES.items()
    if FIELDS[wire].standing == "refused"
]
_refused_of = operator.attrgetter(*(attribute for attribute, _, _ in _REFUSED))
_NONE_GIVEN = (None,) * len(_REFUSED)  # always harmless


def given_providers(config: SessionConfig) -> SessionProviders | None:
    """The endpoints that came with the session, or None."""
    return SessionProviders(config.provider, config.providers, config.models) or None


def refusal(config: SessionConfig) -> str | None:
    """Why this version does not take `config`: its first refused field and what to do instead."""
    values = _refused_of(config)
    if values != _NONE_GIVEN:
        for value, (_, wire, field) in zip(values, _REFUSED, strict=True):
            if value not in field.harmless:
                return f"{wire}: {field.note}."
    for name, section in _sections(config).items():
        if section.action == "transform":
            return (
                f"systemMessage.sections.{name}: the action transform is not done by this version:"
                " give the new text with replace, append or prepend."
            )
    given = given_providers(config)
    said = provider_config.refusal(given) if given else None
    return f"{said}." if said else None


def _sections(config: SessionConfig) -> dict[str, Section]:
    return (config.system_message and config.system_message.sections) or {}


def merged(old: SessionConfig, new: SessionConfig) -> SessionConfig:
    """`old` with every field that `new` gives. `provider` and `providers` exclude each other, so
    that one given now puts the other's old value out."""
    changes = {
        name: value
        for name in SessionConfig.__struct_fields__
        if (value := getattr(new, name)) is not None
    }
    if new.provider is not None:
        changes = {"providers": None, "models": None, **changes}
    elif new.providers is not None:
        changes = {"provider": None, **changes}
    return msgspec.structs.replace(old, **changes)


_STORED = tuple(name for name, wire in _WIRE_NAMES.items() if FIELDS[wire].standing == "used")
_stored_of = operator.attrgetter(*_STORED)


def stored(config: SessionConfig) -> SessionConfig:
    """What is needed to go on later, without any secret: the form that may go to disk."""
    kept = dict(zip(_STORED, _stored_of(config), strict=True))
    given = given_providers(config)
    if given is not None:
        bare = provider_config.redacted(given)
        kept.update(provider=bare.provider, providers=bare.providers, models=bare.models)
    return SessionConfig(**kept)


TOOL_SOURCES = ("builtin", "mcp", "custom")


def _names(entry: str, tool: str) -> bool:
    """Whether a filter's entry means the client's `tool`: bare, `custom:name` or `custom:*`."""
    source, colon, rest = entry.partition(":")
    if not colon or source not in TOOL_SOURCES:
        source, rest = "custom", entry
    if rest.endswith("*"):
        return source == "custom" and tool.startswith(rest[:-1])
    return source == "custom" and tool == rest


def offered_tools(config: SessionConfig) -> list[Tool]:
    """The declared tools that the filters let through to the model, in order."""
    hidden = config.default_agent.excluded_tools if config.default_agent else None
    excluded = [*(config.excluded_tools or ()), *(hidden or ())]
    available = config.available_tools
    return [
        tool
        for tool in config.tools or ()
        if (available is None or any(_names(entry, tool.name) for entry in available))
        and not any(_names(entry, tool.name) for entry in excluded)
    ]
