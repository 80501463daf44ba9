"""Methods about the daemon itself."""

from __future__ import annotations

from typing import Any

from tertulia_protocol import PROTOCOL_VERSION, methods, shapes
from tertulia_protocol.errors import NotAuthenticated
from tertuliad.handlers.context import Caller, Context
from tertuliad.replies import Reply
from tertuliad.sessions.sealed import iso, now_ms


def connect(ctx: Context, caller: Caller, params: methods.ConnectParams) -> methods.ConnectResult:
    if not caller.authenticated:
        if not ctx.token_is(params.token):
            raise NotAuthenticated(
                "AUTHENTICATION_FAILED: the connection token is missing or wrong. The daemon's"
                " starter gave it, or it is in the file that the daemon named when it started."
            )
        caller.let_in()
    return methods.ConnectResult(
        ok=True, protocol_version=PROTOCOL_VERSION, version=ctx.world.version
    )


def ping(ctx: Context, caller: Caller, params: methods.PingParams) -> methods.PingResult:
    said = "pong" if params.message is None else f"pong: {params.message}"
    return methods.PingResult(
        message=said, timestamp=iso(now_ms()), protocol_version=PROTOCOL_VERSION
    )


def status(ctx: Context, caller: Caller, params: Any) -> methods.StatusGetResult:
    return methods.StatusGetResult(version=ctx.world.version, protocol_version=PROTOCOL_VERSION)


def auth_status(ctx: Context, caller: Caller, params: Any) -> methods.AuthGetStatusResult:
    return methods.AuthGetStatusResult(
        is_authenticated=False,
        status_message="No account is needed: models have keys of their own.",
    )


async def list_models(
    ctx: Context, caller: Caller, params: methods.ModelsListParams
) -> methods.ModelsListResult:
    return methods.ModelsListResult(models=await ctx.models.list())


def shutdown(ctx: Context, caller: Caller, params: Any) -> Reply:
    return ctx.shut_down(caller)


def discover(ctx: Context, caller: Caller, params: Any) -> dict[str, Any]:
    from tertulia_protocol.schema import openrpc

    return openrpc()


def foreground(ctx: Context, caller: Caller, params: Any) -> methods.SessionGetForegroundResult:
    return methods.SessionGetForegroundResult()


def set_foreground(ctx: Context, caller: Caller, params: shapes.SessionParams) -> shapes.Success:
    return shapes.Success(
        success=False,
        error="Not running in TUI+server mode: this daemon has no terminal of its own.",
    )
