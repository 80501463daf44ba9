"""Methods about the daemon itself: they are answered before anything of the engine is there.

Whoever starts a daemon waits for `connect` (older SDKs for `ping`), so that nothing is imported
here that they can do without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tertulia_protocol import PROTOCOL_VERSION, VERSION, shapes
from tertulia_protocol.errors import NotAuthenticated
from tertulia_protocol.methods import runtime as methods
from tertuliad.clock import iso, now_ms

if TYPE_CHECKING:
    from tertuliad.handlers.context import Caller
    from tertuliad.replies import Reply


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """What is there from the start, for the connections of one listener."""

    token: str | None
    """What `connect` has to say where a connection is not trusted from the start."""
    greeted: Callable[[Caller], None]
    """A client has come and is about to have its answer: what it will ask next can be got ready."""
    shut_down: Callable[[Caller], Reply]

    def token_is(self, said: str | None) -> bool:
        if self.token is None:
            return True
        import hmac  # it takes hashlib along, and stdio needs neither

        return said is not None and hmac.compare_digest(said.encode(), self.token.encode())


def connect(ctx: Front, caller: Caller, params: methods.ConnectParams) -> methods.ConnectResult:
    if not caller.authenticated:
        if not ctx.token_is(params.token):
            raise NotAuthenticated(
                "AUTHENTICATION_FAILED: the connection token is missing or wrong. The daemon's"
                " starter gave it, or it is in the file that the daemon named when it started."
            )
        caller.let_in()
    ctx.greeted(caller)
    return connected()


def connected() -> methods.ConnectResult:
    """The answer to a client that may come in."""
    return methods.ConnectResult(ok=True, protocol_version=PROTOCOL_VERSION, version=VERSION)


def ping(ctx: Front, caller: Caller, params: methods.PingParams) -> methods.PingResult:
    ctx.greeted(caller)
    return pong(params)


def pong(params: methods.PingParams) -> methods.PingResult:
    said = "pong" if params.message is None else f"pong: {params.message}"
    return methods.PingResult(
        message=said, timestamp=iso(now_ms()), protocol_version=PROTOCOL_VERSION
    )


def status(ctx: Front, caller: Caller, params: Any) -> methods.StatusGetResult:
    return methods.StatusGetResult(version=VERSION, protocol_version=PROTOCOL_VERSION)


def auth_status(ctx: Front, caller: Caller, params: Any) -> methods.AuthGetStatusResult:
    return methods.AuthGetStatusResult(
        is_authenticated=False,
        status_message="No account is needed: models have keys of their own.",
    )


def shutdown(ctx: Front, caller: Caller, params: Any) -> Reply:
    return ctx.shut_down(caller)


def discover(ctx: Front, caller: Caller, params: Any) -> msgspec.Raw:
    return _document()


@functools.cache
def _document() -> msgspec.Raw:
    """Made once: it takes as long as twenty turns."""
    from tertulia_protocol.schema import openrpc

    return msgspec.Raw(msgspec.json.encode(openrpc()))


def foreground(ctx: Front, caller: Caller, params: Any) -> methods.SessionGetForegroundResult:
    return methods.SessionGetForegroundResult()


def set_foreground(ctx: Front, caller: Caller, params: shapes.SessionParams) -> shapes.Success:
    return shapes.Success(
        success=False,
        error="Not running in TUI+server mode: this daemon has no terminal of its own.",
    )
