"""The table of methods: their names, shapes by name, and how each one runs.

The structs of a group of methods stand in the module of that name beside this one. A row names
them, and they are imported when the first of them is asked for: a daemon that answers `connect`
needs two of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from tertulia_protocol.shapes import NoParams, SessionParams, Success

Group = Literal["runtime", "models", "session", "library", "log", "sessions"]
Runs = Literal["at once", "in a task"]


class Method(msgspec.Struct, frozen=True):
    """A row of the registry. `params_type` and `result_type` are types, or names in the group's
    module. `runs` "in a task" where the method may wait for the network; a session's commands
    answer through a reply of their own and run at once."""

    group: Group
    name: str
    params_type: Any
    result_type: Any
    summary: str
    runs: Runs = "at once"

    @property
    def params(self) -> Any:
        """The struct of its params."""
        return self._shape(self.params_type)

    @property
    def result(self) -> Any:
        """The type of its result; None: it is null."""
        return self._shape(self.result_type)

    def _shape(self, shape: Any) -> Any:
        if not isinstance(shape, str):
            return shape
        return getattr(importlib.import_module(f"{__package__}.{self.group}"), shape)


def _group(group: Group, *rows: tuple[Any, ...]) -> Iterator[Method]:
    return (Method(group, *row) for row in rows)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *_group(
            "runtime",
            ("connect", "ConnectParams", "ConnectResult", "Say the token and learn the version."),
            ("ping", "PingParams", "PingResult", "Is the daemon alive?"),
            ("status.get", NoParams, "StatusGetResult", "The daemon's version."),
            ("auth.getStatus", NoParams, "AuthGetStatusResult", "Is anybody logged in?"),
        ),
        *_group(
            "models",
            (
                "models.list",
                "ModelsListParams",
                "ModelsListResult",
                "What can answer now.",
                "in a task",
            ),
        ),
        *_group(
            "session",
            ("session.create", "CreateParams", "SessionOpened", "Make a session and attach to it."),
            ("session.resume", "ResumeParams", "SessionOpened", "Attach to a stored session."),
            ("session.list", "SessionListParams", "SessionListResult", "The stored sessions."),
            (
                "session.getMetadata",
                SessionParams,
                "SessionGetMetadataResult",
                "One row of the list.",
            ),
            ("session.getLastId", NoParams, "SessionGetLastIdResult", "The session used last."),
            ("session.delete", SessionParams, Success, "Forget a session and its events."),
            ("session.destroy", SessionParams, Success, "Detach; the session stays stored."),
            ("session.detach", SessionParams, Success, "Detach; the session stays stored."),
            ("session.send", "SessionSendParams", "SessionSendResult", "Put a message."),
            (
                "session.sendAndWait",
                "SessionSendParams",
                "SessionSendAndWaitResult",
                "Put a message and wait for its turn's end.",
            ),
            ("session.abort", "SessionAbortParams", Success, "End the running turn."),
            (
                "session.getMessages",
                SessionParams,
                "SessionGetMessagesResult",
                "The stored events.",
            ),
            ("session.log", "SessionLogParams", "SessionLogResult", "Write a line for people."),
            (
                "session.model.switchTo",
                "SessionModelSwitchToParams",
                "SessionModelSwitchToResult",
                "Let later turns go to another model.",
            ),
            (
                "session.model.getCurrent",
                SessionParams,
                "SessionModelGetCurrentResult",
                "The session's model.",
            ),
            ("session.name.get", SessionParams, "SessionNameGetResult", "The session's title."),
            ("session.name.set", "SessionNameSetParams", None, "Give the session a title."),
            ("session.options.update", "SessionOptionsUpdateParams", Success, "Change settings."),
            (
                "session.eventLog.registerInterest",
                "SessionEventLogRegisterInterestParams",
                "SessionEventLogRegisterInterestResult",
                "Ask for a type of event that is sent on demand only.",
            ),
            (
                "session.eventLog.releaseInterest",
                "SessionEventLogReleaseInterestParams",
                Success,
                "Give such a handle back.",
            ),
        ),
        *_group(
            "runtime",
            (
                "session.getForeground",
                NoParams,
                "SessionGetForegroundResult",
                "The session in a terminal's front: none here.",
            ),
            ("session.setForeground", SessionParams, Success, "Needs a terminal: refused here."),
            (
                "runtime.shutdown",
                NoParams,
                None,
                "Finish, answer, and stop if the daemon is yours.",
            ),
            ("rpc.discover", NoParams, dict[str, Any], "This table as an OpenRPC document."),
        ),
        *_group(
            "library",
            (
                "sessions.fork",
                "SessionsForkParams",
                "SessionsForkResult",
                "Make a session that begins as another one.",
                "in a task",
            ),
            (
                "session.history.truncate",
                "SessionHistoryTruncateParams",
                "SessionHistoryTruncateResult",
                "Leave out an event and all behind it.",
            ),
            (
                "session.history.rewind",
                "SessionHistoryRewindParams",
                "SessionHistoryRewindResult",
                "The same, with an outcome for people.",
            ),
            (
                "session.history.listRewindPoints",
                SessionParams,
                "SessionHistoryListRewindPointsResult",
                "The messages that can be gone back to.",
                "in a task",
            ),
            (
                "session.history.previewRewind",
                "SessionHistoryPreviewRewindParams",
                "SessionHistoryPreviewRewindResult",
                "The files that going back would restore: none.",
                "in a task",
            ),
            (
                "session.name.setAuto",
                "SessionNameSetAutoParams",
                "SessionNameSetAutoResult",
                "Give the session a title, unless somebody chose one.",
            ),
            (
                "session.metadata.snapshot",
                SessionParams,
                "SessionMetadataSnapshotResult",
                "What the session is.",
            ),
            (
                "session.metadata.isProcessing",
                SessionParams,
                "SessionMetadataIsProcessingResult",
                "Does a turn run?",
            ),
            (
                "session.metadata.activity",
                SessionParams,
                "SessionMetadataActivityResult",
                "Is there work, and can it be aborted?",
            ),
            (
                "session.metadata.update",
                "SessionMetadataUpdateParams",
                "SessionMetadataGetResult",
                "Change the caller's own metadata, or archive the session. Ours.",
            ),
            (
                "session.metadata.get",
                SessionParams,
                "SessionMetadataGetResult",
                "The caller's own metadata. Ours.",
            ),
            (
                "session.metadata.setWorkingDirectory",
                "SessionMetadataSetWorkingDirectoryParams",
                "SessionMetadataSetWorkingDirectoryResult",
                "Let the session work in another folder.",
                "in a task",
            ),
            (
                "session.metadata.recordContextChange",
                "SessionMetadataRecordContextChangeParams",
                "Nothing",
                "Write down what became of the folder's repository.",
            ),
            (
                "session.usage.getMetrics",
                SessionParams,
                "SessionUsageGetMetricsResult",
                "What the session has used.",
            ),
            (
                "session.export",
                SessionParams,
                "SessionExportResult",
                "The session as one document. Ours.",
                "in a task",
            ),
            (
                "session.import",
                "SessionImportParams",
                "MaybeSession",
                "Make a session from such a document. Ours.",
                "in a task",
            ),
            (
                "sessions.search",
                "SessionsSearchParams",
                "SessionsSearchResult",
                "Where something was said. Ours.",
                "in a task",
            ),
            (
                "sessions.findByPrefix",
                "SessionsFindByPrefixParams",
                "MaybeSession",
                "The one session whose id begins so.",
            ),
            (
                "sessions.getLastForContext",
                "SessionsGetLastForContextParams",
                "MaybeSession",
                "The session used last in a folder.",
            ),
            ("sessions.getSizes", NoParams, "SessionsGetSizesResult", "Bytes of each session."),
            (
                "sessions.checkInUse",
                "SessionIds",
                "SessionsCheckInUseResult",
                "Which sessions run a turn in another daemon?",
                "in a task",
            ),
            (
                "sessions.bulkDelete",
                "SessionIds",
                "SessionsBulkDeleteResult",
                "Forget many sessions.",
                "in a task",
            ),
            (
                "sessions.pruneOld",
                "SessionsPruneOldParams",
                "SessionsPruneOldResult",
                "Forget sessions that nobody has used for long.",
                "in a task",
            ),
            ("sessions.close", SessionParams, "Nothing", "Let a session go; it stays stored."),
            (
                "sessions.save",
                SessionParams,
                "Nothing",
                "Wait until what was asked before is stored.",
            ),
        ),
        *_group(
            "log",
            (
                "session.eventLog.read",
                "SessionEventLogReadParams",
                "SessionEventLogReadResult",
                "Stored events behind a cursor; waits for news if asked.",
                "in a task",
            ),
            (
                "session.eventLog.tail",
                SessionParams,
                "SessionEventLogTailResult",
                "A cursor at the end.",
            ),
            (
                "session.queue.pendingItems",
                SessionParams,
                "SessionQueuePendingItemsResult",
                "The messages that wait for their turn.",
            ),
            (
                "session.queue.moveItem",
                "SessionQueueMoveItemParams",
                "Changed",
                "Put one at another place.",
            ),
            (
                "session.queue.insertAt",
                "SessionQueueInsertAtParams",
                "ItemId",
                "Put a message at a place.",
            ),
            ("session.queue.removeAt", "QueueItemParams", "Removed", "Take one out."),
            (
                "session.queue.updateText",
                "SessionQueueUpdateTextParams",
                "Updated",
                "Give one other words.",
            ),
            ("session.queue.duplicateAt", "QueueItemParams", "ItemId", "Put a copy behind one."),
            (
                "session.queue.setDrainPaused",
                "SessionQueueSetDrainPausedParams",
                None,
                "Take up no message, or go on.",
            ),
            ("session.queue.sendNow", "QueueItemParams", "Steered", "Put one before all others."),
            ("session.queue.removeMostRecent", SessionParams, "Removed", "Take the last one back."),
            ("session.queue.clear", SessionParams, None, "Take all of them out."),
            (
                "session.queue.snapshot",
                SessionParams,
                "SessionQueuePendingItemsResult",
                "The messages that wait for their turn.",
            ),
            (
                "session.queue.hasPending",
                SessionParams,
                "SessionQueueHasPendingResult",
                "Does a message wait?",
            ),
            ("session.queue.process", SessionParams, None, "Start what was left waiting."),
            ("session.suspend", SessionParams, None, "End the turn and let the session rest."),
            (
                "session.shutdown",
                "SessionShutdownParams",
                None,
                "End the turn, write the totals, and let the session rest.",
            ),
        ),
        *_group(
            "sessions",
            (
                "sessions.open",
                "SessionsOpenParams",
                "SessionsOpenResult",
                "Make a session, or attach to a stored one.",
                "in a task",
            ),
            ("sessions.list", "SessionsListParams", "SessionListResult", "The stored sessions."),
            (
                "sessions.getMetadata",
                SessionParams,
                "SessionGetMetadataResult",
                "One row of the list.",
            ),
            ("sessions.delete", SessionParams, None, "Forget a session and its events."),
            (
                "sessions.listNonEmptySessionIds",
                "SessionsListNonEmptySessionIdsParams",
                "SessionsListNonEmptySessionIdsResult",
                "The sessions in which something was said.",
            ),
            (
                "sessions.findByTaskId",
                "SessionsFindByTaskIdParams",
                "SessionsFindByTaskIdResult",
                "The session of a task: there is none.",
            ),
            (
                "session.metadata.getClientMetadata",
                SessionParams,
                "ClientMetadata",
                "The caller's own metadata, as far as it is text.",
            ),
            (
                "session.metadata.updateClientMetadata",
                "SessionMetadataUpdateClientMetadataParams",
                "ClientMetadata",
                "Change it.",
            ),
            (
                "sessions.getClientMetadata",
                "SessionsGetClientMetadataParams",
                "ClientMetadataEntries",
                "That of many sessions.",
                "in a task",
            ),
        ),
    )
}
"""Every method that the daemon answers, by its name."""
ENDING = frozenset({"session.abort"})
"""Of these, what is done also while the daemon stops: it ends work, and begins none."""
