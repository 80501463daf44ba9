"""The stored sessions under the SDKs' other names: opened, listed, looked up, forgotten, described.

`session.create`, `session.resume`, `session.list`, `session.getMetadata` and `session.delete` are
what the SDKs' own clients call; these names do the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from tertulia_protocol import faults, session_id
from tertulia_protocol.config import CapabilitiesOverride, SessionConfig
from tertulia_protocol.methods.session import (  # noqa: F401 - the table names them
    SessionGetMetadataResult,
    SessionListParams,
    SessionListResult,
)
from tertulia_protocol.provider_config import (
    NamedProviderConfig,
    ProviderConfig,
    ProviderModelConfig,
)
from tertulia_protocol.shapes import Params, Result, SessionContext


class OpenOptions(Params, frozen=True, kw_only=True):
    """A session's settings, as `sessions.open` names them; `config` gives them as a config. Other
    members of the wire's are passed over for the same reasons as in `session.create`."""

    session_id: str | None = None
    name: str | None = None
    model: str | None = None
    model_capabilities_overrides: CapabilitiesOverride | None = None
    reasoning_effort: str | None = None
    client_name: str | None = None
    working_directory: str | None = None
    available_tools: list[str] | None = None
    excluded_tools: list[str] | None = None
    enable_streaming: bool | None = None
    provider: ProviderConfig | None = None
    providers: list[NamedProviderConfig] | None = None
    models: list[ProviderModelConfig] | None = None
    skill_directories: list[str] | None = None
    managed_mcp_servers: dict[str, Any] | None = None
    enable_managed_settings: bool | None = None

    def config(self) -> SessionConfig:
        return SessionConfig(
            name=self.name,
            model=self.model,
            model_capabilities=self.model_capabilities_overrides,
            reasoning_effort=self.reasoning_effort,
            client_name=self.client_name,
            working_directory=self.working_directory,
            available_tools=self.available_tools,
            excluded_tools=self.excluded_tools,
            streaming=self.enable_streaming,
            provider=self.provider,
            providers=self.providers,
            models=self.models,
            skill_directories=self.skill_directories,
            mcp_servers=self.managed_mcp_servers,
            enable_managed_settings=self.enable_managed_settings,
        )


class SessionsOpenParams(Params, frozen=True, kw_only=True):
    """`session_id` is for "attach", for "resume", which takes a unique beginning of one too, and
    for "create" where the options have none. `resume` false: no `session.resume` is written."""

    kind: Literal["create", "resume", "resumeLast", "attach", "remote", "cloud", "handoff"]
    session_id: str | None = None
    options: OpenOptions | None = None
    context: SessionContext | None = None
    resume: bool | None = None
    emit_start: bool | None = None

    def check(self) -> None:
        if self.kind in ("resume", "attach") and self.session_id is None:
            raise faults.invalid("$.sessionId", f"the kind {self.kind} names a session")
        wanted = None if self.options is None else self.options.session_id
        if wanted is not None and not session_id.is_valid(wanted):
            raise faults.invalid("$.options.sessionId", session_id.RULE)


class SessionsOpenResult(Result, frozen=True, kw_only=True):
    """`startup_prompts` are those of hooks: there are none."""

    status: Literal["created", "resumed", "not_found"]
    session_id: str | None = None
    startup_prompts: list[str] | None = None


class SessionsListParams(SessionListParams, frozen=True, kw_only=True):
    """Rows are whole, so `metadata_limit` spares nothing; no session is detached or remote."""

    source: Literal["local", "remote", "all"] | None = None
    metadata_limit: int | None = None
    include_detached: bool | None = None
    throw_on_error: bool | None = None


class SessionsListNonEmptySessionIdsParams(Params, frozen=True, kw_only=True):
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SessionsListNonEmptySessionIdsResult(Result, frozen=True, kw_only=True):
    """The one modified last comes first."""

    session_ids: list[str]


class SessionsFindByTaskIdParams(Params, frozen=True, kw_only=True):
    task_id: str


class SessionsFindByTaskIdResult(Result, frozen=True, kw_only=True):
    """Without `session_id` there is none, and there never is: sessions have no tasks."""

    session_id: str | None = None


# The caller's own metadata, of which the SDKs know text alone

MetadataKey = Annotated[str, msgspec.Meta(min_length=1)]
ClientMetadata = dict[str, str]


class SessionMetadataUpdateClientMetadataParams(Params, frozen=True, kw_only=True):
    """Done in this order: `clear` takes out all text, `remove` these members, `set` puts these."""

    session_id: str
    clear: bool | None = None
    remove: list[MetadataKey] | None = None
    set: dict[MetadataKey, str] | None = None


class SessionsGetClientMetadataParams(Params, frozen=True, kw_only=True):
    """`keys` are the members to give; all of them without it."""

    session_ids: Annotated[list[str], msgspec.Meta(max_length=1000)]
    keys: list[MetadataKey] | None = None


class ClientMetadataEntry(Result, frozen=True, kw_only=True):
    """There is `metadata` where the status is "ok"."""

    session_id: str
    status: Literal["ok", "notFound"]
    metadata: ClientMetadata | None = None


ClientMetadataEntries = list[ClientMetadataEntry]
