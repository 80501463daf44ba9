"""Which handler does which method; a test compares it with the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tertuliad.handlers import conversation, runtime, sessions
from tertuliad.handlers.context import Context

HANDLERS: Mapping[str, Callable[[Context, Any, Any], Any]] = {
    "connect": runtime.connect,
    "ping": runtime.ping,
    "status.get": runtime.status,
    "auth.getStatus": runtime.auth_status,
    "models.list": runtime.list_models,
    "runtime.shutdown": runtime.shutdown,
    "rpc.discover": runtime.discover,
    "session.getForeground": runtime.foreground,
    "session.setForeground": runtime.set_foreground,
    "session.create": sessions.create,
    "session.resume": sessions.resume,
    "session.list": sessions.listed,
    "session.getMetadata": sessions.metadata,
    "session.getLastId": sessions.last_id,
    "session.delete": sessions.delete,
    "session.destroy": sessions.destroy,
    "session.detach": sessions.detach,
    "session.send": conversation.send,
    "session.sendAndWait": conversation.send_and_wait,
    "session.abort": conversation.abort,
    "session.getMessages": conversation.messages,
    "session.log": conversation.note,
    "session.model.switchTo": conversation.switch_model,
    "session.model.getCurrent": conversation.current_model,
    "session.name.get": conversation.name,
    "session.name.set": conversation.rename,
    "session.options.update": conversation.update_options,
    "session.eventLog.registerInterest": conversation.register_interest,
    "session.eventLog.releaseInterest": conversation.release_interest,
}


def bound(context: Context) -> dict[str, Callable[[Any, Any], Any]]:
    """The handlers with the daemon they work for."""
    return {name: partial(handler, context) for name, handler in HANDLERS.items()}
