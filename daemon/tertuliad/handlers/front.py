"""Which handler does which method without the engine; `table` has the others.

A test compares the two with the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tertuliad.handlers import runtime
from tertuliad.handlers.runtime import Front

HANDLERS: Mapping[str, Callable[[Front, Any, Any], Any]] = {
    "connect": runtime.connect,
    "ping": runtime.ping,
    "status.get": runtime.status,
    "auth.getStatus": runtime.auth_status,
    "runtime.shutdown": runtime.shutdown,
    "rpc.discover": runtime.discover,
    "session.getForeground": runtime.foreground,
    "session.setForeground": runtime.set_foreground,
}

GREETINGS: Mapping[str, Callable[[Any], Any]] = {
    "connect": lambda _: runtime.connected(),
    "ping": runtime.pong,
}
"""From params, what answers a client that is trusted and waits while the daemon starts."""


def bound(front: Front) -> dict[str, Callable[[Any, Any], Any]]:
    """The handlers with the front they work for."""
    return {name: partial(handler, front) for name, handler in HANDLERS.items()}
