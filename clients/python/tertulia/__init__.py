"""A client of `tertuliad`: blocking (`Client`) and async (`AsyncClient`), over one pure core.

The async half is imported when it is asked for, so that nobody else pays for an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tertulia.client import Client
from tertulia.errors import (
    ConnectionLost,
    CursorExpired,
    DaemonFailed,
    Draining,
    FellBehind,
    InvalidParams,
    MessageRemoved,
    ModelUnavailable,
    Overloaded,
    RpcError,
    SeqMoved,
    SessionExists,
    SessionNotFound,
    StoreFailed,
    TertuliaError,
    Timeout,
    TurnAborted,
    TurnBusy,
    TurnFailed,
)
from tertulia.patience import patiently, patiently_async
from tertulia.records import (
    Answer,
    Event,
    LogEnd,
    LogPage,
    Metadata,
    Model,
    ModelUsage,
    Page,
    Pruned,
    QueuedMessage,
    RewindPoint,
    SearchHit,
    SessionInfo,
    Snippet,
    Usage,
    Waiting,
)
from tertulia.session import Session

if TYPE_CHECKING:
    from tertulia.aio import AsyncClient
    from tertulia.aio_session import AsyncSession

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "ConnectionLost",
    "CursorExpired",
    "DaemonFailed",
    "Draining",
    "Event",
    "FellBehind",
    "InvalidParams",
    "LogEnd",
    "LogPage",
    "MessageRemoved",
    "Metadata",
    "Model",
    "ModelUnavailable",
    "ModelUsage",
    "Overloaded",
    "Page",
    "Pruned",
    "QueuedMessage",
    "RewindPoint",
    "RpcError",
    "SearchHit",
    "SeqMoved",
    "Session",
    "SessionExists",
    "SessionInfo",
    "SessionNotFound",
    "Snippet",
    "StoreFailed",
    "TertuliaError",
    "Timeout",
    "TurnAborted",
    "TurnBusy",
    "TurnFailed",
    "Usage",
    "Waiting",
    "patiently",
    "patiently_async",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        from tertulia.aio import AsyncClient

        return AsyncClient
    if name == "AsyncSession":
        from tertulia.aio_session import AsyncSession

        return AsyncSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
