"""A client of `tertuliad`: blocking (`Client`) and async (`AsyncClient`), over one pure core.

A name's module is imported when the name is asked for: nobody pays for an event loop without need,
and the command is soon where it can be interrupted quietly, in `cli.main`. One that is interrupted
before, while Python itself starts, ends with Python's own words.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; `typing` takes longer than all that is here

if TYPE_CHECKING:
    from typing import Any

    from tertulia.aio import AsyncClient
    from tertulia.aio_session import AsyncSession
    from tertulia.client import Client
    from tertulia.errors import (
        ConnectionLost,
        CursorExpired,
        DaemonFailed,
        Draining,
        FellBehind,
        InvalidParams,
        MessageRemoved,
        MethodNotFound,
        ModelUnavailable,
        NobodyListens,
        NotSupported,
        Overloaded,
        RpcError,
        SeqMoved,
        SessionDeleted,
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
    "MethodNotFound",
    "Model",
    "ModelUnavailable",
    "ModelUsage",
    "NobodyListens",
    "NotSupported",
    "Overloaded",
    "Page",
    "Pruned",
    "QueuedMessage",
    "RewindPoint",
    "RpcError",
    "SearchHit",
    "SeqMoved",
    "Session",
    "SessionDeleted",
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

_MODULES = ("errors", "patience", "records", "client", "session", "aio", "aio_session")
"""Where the names are looked for, what loads an event loop at the end."""


def __getattr__(name: str) -> Any:
    for module in _MODULES if name in __all__ else ():
        if hasattr(found := import_module(f"tertulia.{module}"), name):
            return globals().setdefault(name, getattr(found, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
