"""Methods about many sessions, and about a session as a whole: forked, rewound, described, found.

The names are the SDKs' (sections 3.1 and 3.2 of the wire's reference) where they have one; the
others are ours, and say so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from tertulia_protocol.events import WorkingDirectory
from tertulia_protocol.shapes import (
    Params,
    Result,
    SessionContext,
    SessionMeta,
)

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Nothing(Result, frozen=True):
    """An empty object."""


class SessionIds(Params, frozen=True, kw_only=True):
    session_ids: list[str]


class MaybeSession(Result, frozen=True, kw_only=True):
    """Without `session_id` there is none."""

    session_id: str | None = None


# Forks and rewinds


class SessionsForkParams(Params, frozen=True, kw_only=True):
    """The fork has what stands before the event `to_event_id`, or all. `new_session_id` is ours."""

    session_id: str
    to_event_id: str | None = None
    name: str | None = None
    new_session_id: str | None = None


class SessionsForkResult(Result, frozen=True, kw_only=True):
    session_id: str
    name: str | None = None


class SessionHistoryTruncateParams(Params, frozen=True, kw_only=True):
    """The event, and all behind it, is left out."""

    session_id: str
    event_id: str


class SessionHistoryTruncateResult(Result, frozen=True, kw_only=True):
    events_removed: int


class SessionHistoryRewindParams(Params, frozen=True, kw_only=True):
    session_id: str
    event_id: str
    mode: Literal["conversation", "conversation-and-files"]


class SessionHistoryRewindResult(Result, frozen=True, kw_only=True):
    """Files are never touched: both lists are empty."""

    outcome: Literal["success", "session-busy", "file-change-tracking-disabled"]
    restored_files: list[str]
    skipped_files: list[str]
    events_removed: int | None = None
    error: str | None = None


class RewindPoint(Result, frozen=True, kw_only=True):
    """A user's message. `timestamp` is ISO 8601; what is said of files is that there are none."""

    event_id: str
    user_message: str
    timestamp: str
    can_restore_files: bool
    file_count: int
    turn_changed_files: bool
    lines_added: int
    lines_removed: int
    is_autopilot_continuation: bool


class SessionHistoryListRewindPointsResult(Result, frozen=True, kw_only=True):
    """The oldest first. `unavailable_reason` says why none of them can be used now."""

    file_change_tracking_enabled: bool
    points: list[RewindPoint]
    unavailable_reason: Literal["session-busy"] | None = None


class SessionHistoryPreviewRewindParams(Params, frozen=True, kw_only=True):
    session_id: str
    event_id: str


class SessionHistoryPreviewRewindResult(Result, frozen=True, kw_only=True):
    """What is said of files is that there are none."""

    available: Literal[False]
    file_count: int
    files: list[str]
    reason: Literal["file-change-tracking-disabled"]


# A session, described


class SessionNameSetAutoParams(Params, frozen=True, kw_only=True):
    session_id: str
    summary: str


class SessionNameSetAutoResult(Result, frozen=True, kw_only=True):
    """False where somebody chose the name."""

    applied: bool


class SessionMetadataSnapshotResult(Result, frozen=True, kw_only=True):
    """Times are ISO 8601. `already_in_use`: another connection is attached."""

    session_id: str
    start_time: str
    modified_time: str
    is_remote: bool
    already_in_use: bool
    workspace_path: str | None
    working_directory: str
    current_mode: Literal["interactive"]
    session_limits: None
    workspace: None
    initial_name: str | None = None
    client_name: str | None = None
    summary: str | None = None
    selected_model: str | None = None


class SessionMetadataIsProcessingResult(Result, frozen=True, kw_only=True):
    processing: bool


class SessionMetadataActivityResult(Result, frozen=True, kw_only=True):
    """`has_active_work`: a turn runs, or a message will start one by itself."""

    abortable: bool
    has_active_work: bool


class SessionMetadataUpdateParams(Params, frozen=True, kw_only=True):
    """Members of `metadata` replace those of the same name; null takes one out."""

    session_id: str
    metadata: dict[str, Any] | None = None
    archived: bool | None = None


class SessionMetadataGetResult(Result, frozen=True, kw_only=True):
    """The caller's own metadata, whole."""

    metadata: dict[str, Any]
    archived: bool


class SessionMetadataSetWorkingDirectoryParams(Params, frozen=True, kw_only=True):
    """An absolute path of a folder that is there."""

    session_id: str
    working_directory: str


class SessionMetadataSetWorkingDirectoryResult(Result, frozen=True, kw_only=True):
    working_directory: str


class SessionMetadataRecordContextChangeParams(Params, frozen=True, kw_only=True):
    session_id: str
    context: WorkingDirectory


class CodeChanges(Result, frozen=True, kw_only=True):
    lines_added: int
    lines_removed: int
    files_modified_count: int
    files_modified: list[str]


class ModelRequests(Result, frozen=True, kw_only=True):
    count: int
    cost: float


class ModelUsage(Result, frozen=True, kw_only=True):
    """In tokens."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


class ModelMetric(Result, frozen=True, kw_only=True):
    requests: ModelRequests
    usage: ModelUsage


class SessionUsageGetMetricsResult(Result, frozen=True, kw_only=True):
    """What the session has used since it was made; a fork begins with nothing. `model_metrics` are
    by model."""

    total_premium_request_cost: float
    total_user_requests: int
    total_api_duration_ms: float
    session_start_time: str
    code_changes: CodeChanges
    model_metrics: dict[str, ModelMetric]
    last_call_input_tokens: int
    last_call_output_tokens: int
    current_model: str | None = None


# Many sessions


class Snippet(Result, frozen=True, kw_only=True):
    """A piece of what was said; `highlights` are the [start, end) of the words found, in
    characters (code points)."""

    text: str
    highlights: list[tuple[int, int]]


class SearchHit(Result, frozen=True, kw_only=True):
    session: SessionMeta
    event_id: str
    seq: int
    type: str
    snippet: Snippet


class SessionsSearchParams(Params, frozen=True, kw_only=True):
    text: str
    limit: AtLeastOne | None = None
    cursor: str | None = None


class SessionsSearchResult(Result, frozen=True, kw_only=True):
    """The best first. With a `cursor` there may be more."""

    hits: list[SearchHit]
    cursor: str | None = None


class SessionsFindByPrefixParams(Params, frozen=True, kw_only=True):
    prefix: str


class SessionsGetLastForContextParams(Params, frozen=True, kw_only=True):
    context: SessionContext | None = None


class SessionsGetSizesResult(Result, frozen=True, kw_only=True):
    """Bytes, by session id."""

    sizes: dict[str, int]


class SessionsCheckInUseResult(Result, frozen=True, kw_only=True):
    in_use: list[str]


class SessionsBulkDeleteResult(Result, frozen=True, kw_only=True):
    """Bytes, by session id; of those that were there."""

    freed_bytes: dict[str, int]


class SessionsPruneOldParams(Params, frozen=True, kw_only=True):
    """Sessions that were not modified for so many days. Named ones stay, unless asked for."""

    older_than_days: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
    dry_run: bool | None = None
    include_named: bool | None = None
    exclude_session_ids: list[str] | None = None


StaysFor = Literal["running", "attached", "elsewhere", "pending", "excluded", "named"]
"""Why a session is not pruned: a turn runs, a connection is attached, another daemon uses it,
messages wait, the caller excluded it, it has a name."""


class SessionsPruneOldResult(Result, frozen=True, kw_only=True):
    """`candidates` are old enough; `skipped` are those of them that stay, each for the first of its
    `reasons`. `recent` sessions are not old enough. These two members are ours."""

    deleted: list[str]
    candidates: list[str]
    skipped: list[str]
    freed_bytes: int
    dry_run: bool
    reasons: dict[str, StaysFor]
    recent: int


# A session as one document


class DocumentRecord(Result, frozen=True, kw_only=True):
    """A stored event, whole, and its seq. Those whose type begins with `tertulia.` are the
    daemon's own."""

    seq: int
    event: msgspec.Raw


class Document(Result, frozen=True, kw_only=True):
    """A session with all of its log. `start_time` is ISO 8601; `title` is for people."""

    format: Literal["tertulia.session"]
    version: int
    session_id: str
    start_time: str
    events: list[DocumentRecord]
    title: str | None = None


class SessionExportResult(Result, frozen=True, kw_only=True):
    document: Document


class SessionImportParams(Params, frozen=True, kw_only=True):
    """`session_id` in place of the document's. An id that is taken is refused, or with "rename"
    another one is made."""

    document: Document
    session_id: str | None = None
    if_exists: Literal["error", "rename"] | None = None
