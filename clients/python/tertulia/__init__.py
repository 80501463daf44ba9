"""A client of `tertuliad`: blocking (`Client`) and async (`AsyncClient`), over one pure core.

The async half is imported when it is asked for, so that nobody else pays for an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tertulia.client import Client, Session
from tertulia.errors import (
    ConnectionLost,
    DaemonFailed,
    FellBehind,
    ModelUnavailable,
    RpcError,
    SessionExists,
    SessionNotFound,
    TertuliaError,
    Timeout,
    TurnAborted,
    TurnFailed,
)
from tertulia.records import Answer, Event, Model, SessionInfo

if TYPE_CHECKING:
    from tertulia.aio import AsyncClient, AsyncSession

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "ConnectionLost",
    "DaemonFailed",
    "Event",
    "FellBehind",
    "Model",
    "ModelUnavailable",
    "RpcError",
    "Session",
    "SessionExists",
    "SessionInfo",
    "SessionNotFound",
    "TertuliaError",
    "Timeout",
    "TurnAborted",
    "TurnFailed",
]


def __getattr__(name: str) -> Any:
    if name in {"AsyncClient", "AsyncSession"}:
        from tertulia import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
