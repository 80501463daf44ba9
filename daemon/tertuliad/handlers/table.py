"""Which handler does which method of the engine; `front` has the others.

A row names the module and its function. They are imported for the first request that needs them,
and all of them once it is quiet: a session is made or comes back without most of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tertuliad.handlers.context import Context

HANDLERS: Mapping[str, str] = {
    "models.list": "models.listed",
    "session.create": "sessions.create",
    "session.resume": "sessions.resume",
    "session.list": "sessions.listed",
    "session.getMetadata": "sessions.metadata",
    "session.getLastId": "sessions.last_id",
    "session.delete": "sessions.delete",
    "session.destroy": "sessions.destroy",
    "session.detach": "sessions.detach",
    "session.send": "conversation.send",
    "session.sendAndWait": "conversation.send_and_wait",
    "session.abort": "conversation.abort",
    "session.getMessages": "conversation.messages",
    "session.log": "conversation.note",
    "session.model.switchTo": "settings.switch_model",
    "session.model.getCurrent": "settings.current_model",
    "session.name.get": "settings.name",
    "session.name.set": "settings.rename",
    "session.options.update": "settings.update_options",
    "session.eventLog.registerInterest": "conversation.register_interest",
    "session.eventLog.releaseInterest": "conversation.release_interest",
    "session.eventLog.read": "log.read",
    "session.eventLog.tail": "log.tail",
    "session.queue.pendingItems": "queue.pending_items",
    "session.queue.moveItem": "queue.move",
    "session.queue.insertAt": "queue.insert",
    "session.queue.removeAt": "queue.remove",
    "session.queue.updateText": "queue.edit",
    "session.queue.duplicateAt": "queue.duplicate",
    "session.queue.setDrainPaused": "queue.set_paused",
    "session.queue.sendNow": "queue.send_now",
    "session.queue.removeMostRecent": "queue.remove_most_recent",
    "session.queue.clear": "queue.clear",
    "session.queue.snapshot": "queue.pending_items",
    "session.queue.hasPending": "queue.has_pending",
    "session.queue.process": "queue.process",
    "session.suspend": "queue.suspend",
    "session.shutdown": "queue.shutdown",
    "session.history.truncate": "history.truncate",
    "session.history.rewind": "history.rewind",
    "session.history.listRewindPoints": "history.rewind_points",
    "session.history.previewRewind": "history.preview_rewind",
    "session.name.setAuto": "settings.set_auto_name",
    "session.metadata.snapshot": "metadata.snapshot",
    "session.metadata.isProcessing": "metadata.is_processing",
    "session.metadata.activity": "metadata.activity",
    "session.metadata.update": "metadata.describe",
    "session.metadata.get": "metadata.get",
    "session.metadata.setWorkingDirectory": "metadata.set_working_directory",
    "session.metadata.recordContextChange": "metadata.record_context",
    "session.usage.getMetrics": "metadata.usage",
    "session.export": "library.export",
    "session.import": "library.import_",
    "sessions.fork": "library.fork",
    "sessions.search": "library.search",
    "sessions.findByPrefix": "library.find_by_prefix",
    "sessions.getLastForContext": "library.last_for_context",
    "sessions.getSizes": "library.sizes",
    "sessions.checkInUse": "library.in_use",
    "sessions.bulkDelete": "library.bulk_delete",
    "sessions.pruneOld": "library.prune",
    "sessions.close": "library.close",
    "sessions.save": "library.save",
    "sessions.open": "sdk_names.open_",
    "sessions.list": "sdk_names.listed",
    "sessions.getMetadata": "sessions.metadata",
    "sessions.delete": "sdk_names.delete",
    "sessions.listNonEmptySessionIds": "sdk_names.not_empty",
    "sessions.findByTaskId": "sdk_names.of_task",
    "session.metadata.getClientMetadata": "sdk_names.client_metadata",
    "session.metadata.updateClientMetadata": "sdk_names.update_client_metadata",
    "sessions.getClientMetadata": "sdk_names.client_metadata_of_many",
}


class Bound(dict[str, Callable[[Any, Any], Any]]):
    """The handlers with the engine they work for, by method; those that were asked for."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def __missing__(self, method: str) -> Callable[[Any, Any], Any]:
        handler = self[method] = partial(found(method), self._context)
        return handler


def found(method: str) -> Callable[[Context, Any, Any], Any]:
    """The function that does `method`. Raises `KeyError` for one that is not in the table."""
    module, _, function = HANDLERS[method].partition(".")
    handler: Callable[[Context, Any, Any], Any]
    handler = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return handler


def read_all() -> None:
    """Import what was not asked for yet."""
    for method in HANDLERS:
        found(method)
