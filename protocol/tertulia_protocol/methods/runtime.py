"""Methods about the daemon itself, which answer before anything of the engine is there."""

from __future__ import annotations

from typing import Literal

from tertulia_protocol.shapes import Params, Result


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


class SessionGetForegroundResult(Result, frozen=True, kw_only=True):
    session_id: str | None = None
    workspace_path: str | None = None
