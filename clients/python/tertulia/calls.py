"""What a client may ask beyond a conversation: each call with its params and how its result reads.

Pure. Both clients make their requests from these, so that a method's name and shape stand in one
place. Ids and cursors are text of the daemon's; what they mean is its business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from tertulia import limits
from tertulia.records import (
    Event,
    Filter,
    LogEnd,
    LogPage,
    Metadata,
    ModelUsage,
    Order,
    Page,
    Pruned,
    QueuedMessage,
    RewindPoint,
    SearchHit,
    SendOptions,
    SessionInfo,
    Usage,
    Waiting,
)

T = TypeVar("T")
Params = dict[str, Any]


class Call(msgspec.Struct, Generic[T], frozen=True):
    """A request, and what its result is to the caller. `timeout` in seconds."""

    method: str
    params: Params
    read: Callable[[Any], T]
    timeout: float | None = limits.REQUEST_TIMEOUT_S


def wire_names(given: Params) -> Params:
    """`given` without its Nones, each name as the wire writes it."""
    return {_camel(name): value for name, value in given.items() if value is not None}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _of(session_id: str, **given: Any) -> Params:
    return {"sessionId": session_id, **wire_names(given)}


def _nothing(_: Any) -> None:
    """The result says no more than that it was done."""


def _member(name: str, kind: type[T]) -> Callable[[Any], T]:
    return lambda result: msgspec.convert(result[name], kind)


# Many sessions


def sessions(
    filter_: Filter, order: Order | None, limit: int | None, cursor: str | None
) -> Call[Page[SessionInfo]]:
    chosen = wire_names({**filter_}) or None
    given = wire_names({"filter": chosen, "order": order, "limit": limit, "cursor": cursor})
    return Call("session.list", given, lambda result: _page(result, "sessions", SessionInfo))


def _page(result: Any, member: str, kind: type[T]) -> Page[T]:
    items = msgspec.convert(result[member], list[kind])  # type: ignore[valid-type]
    return Page(tuple(items), result.get("cursor"))


def session_info(session_id: str) -> Call[SessionInfo | None]:
    def read(result: Any) -> SessionInfo | None:
        return msgspec.convert(result.get("session"), SessionInfo | None)

    return Call("session.getMetadata", _of(session_id), read)


def find(prefix: str) -> Call[str | None]:
    return Call("sessions.findByPrefix", {"prefix": prefix}, lambda result: result.get("sessionId"))


def search(text: str, limit: int | None, cursor: str | None) -> Call[Page[SearchHit]]:
    given = wire_names({"text": text, "limit": limit, "cursor": cursor})
    return Call("sessions.search", given, lambda result: _page(result, "hits", SearchHit))


def fork(
    session_id: str, at: str | None, name: str | None, new_session_id: str | None
) -> Call[str]:
    given = _of(session_id, to_event_id=at, name=name, new_session_id=new_session_id)
    return Call("sessions.fork", given, _member("sessionId", str))


def describe(
    session_id: str, metadata: dict[str, Any] | None, archived: bool | None
) -> Call[Metadata]:
    given = _of(session_id, metadata=metadata, archived=archived)
    return Call("session.metadata.update", given, _metadata)


def metadata(session_id: str) -> Call[Metadata]:
    return Call("session.metadata.get", _of(session_id), _metadata)


def _metadata(result: Any) -> Metadata:
    return msgspec.convert(result, Metadata)


def usage(session_id: str) -> Call[Usage]:
    return Call("session.usage.getMetrics", _of(session_id), _usage)


def _usage(result: Any) -> Usage:
    models = {
        name: ModelUsage(
            each["requests"]["count"],
            each["usage"]["inputTokens"],
            each["usage"]["outputTokens"],
            each["usage"]["cacheReadTokens"],
            each["usage"]["reasoningTokens"],
        )
        for name, each in result["modelMetrics"].items()
    }
    return Usage(result["totalUserRequests"], result["totalApiDurationMs"], models)


def export(session_id: str) -> Call[dict[str, Any]]:
    return Call("session.export", _of(session_id), _member("document", dict))


def import_(document: dict[str, Any], session_id: str | None, rename: bool) -> Call[str]:
    given = wire_names(
        {
            "document": document,
            "session_id": session_id,
            "if_exists": "rename" if rename else None,
        }
    )
    return Call("session.import", given, _member("sessionId", str))


def prune(
    older_than_days: float, dry_run: bool, include_named: bool, exclude: Iterable[str]
) -> Call[Pruned]:
    given = {
        "olderThanDays": older_than_days,
        "dryRun": dry_run,
        "includeNamed": include_named,
        "excludeSessionIds": list(exclude),
    }
    return Call("sessions.pruneOld", given, lambda result: msgspec.convert(result, Pruned))


def bulk_delete(session_ids: Iterable[str]) -> Call[dict[str, int]]:
    return Call(
        "sessions.bulkDelete",
        {"sessionIds": list(session_ids)},
        _member("freedBytes", dict[str, int]),
    )


def sizes() -> Call[dict[str, int]]:
    return Call("sessions.getSizes", {}, _member("sizes", dict[str, int]))


# One session


def truncate(session_id: str, event_id: str) -> Call[int]:
    return Call(
        "session.history.truncate",
        _of(session_id, event_id=event_id),
        _member("eventsRemoved", int),
    )


def rewind_points(session_id: str) -> Call[list[RewindPoint]]:
    return Call(
        "session.history.listRewindPoints", _of(session_id), _member("points", list[RewindPoint])
    )


def rename(session_id: str, name: str) -> Call[None]:
    return Call("session.name.set", _of(session_id, name=name), _nothing)


def name(session_id: str) -> Call[str | None]:
    return Call("session.name.get", _of(session_id), lambda result: result["name"])


def set_working_directory(session_id: str, folder: str) -> Call[None]:
    return Call(
        "session.metadata.setWorkingDirectory",
        _of(session_id, working_directory=folder),
        _nothing,
    )


def set_title(session_id: str, title: str) -> Call[bool]:
    return Call("session.name.setAuto", _of(session_id, summary=title), _member("applied", bool))


def read_log(
    session_id: str,
    cursor: str | None,
    limit: int | None,
    wait_s: float,
    types: Iterable[str] | None,
    backward: bool,
) -> Call[LogPage]:
    given = _of(
        session_id,
        cursor=cursor,
        max=limit,
        wait_ms=round(wait_s * 1000) or None,
        types=list(types) if types is not None else None,
        direction="backward" if backward else None,
    )
    return Call("session.eventLog.read", given, _log_page, limits.REQUEST_TIMEOUT_S + wait_s)


def _log_page(result: Any) -> LogPage:
    return LogPage(
        tuple(msgspec.convert(result["events"], list[Event])),
        result["cursor"],
        result["hasMore"],
        result["cursorStatus"] == "expired",
    )


def tail(session_id: str) -> Call[LogEnd]:
    return Call(
        "session.eventLog.tail", _of(session_id), lambda result: msgspec.convert(result, LogEnd)
    )


def suspend(session_id: str) -> Call[None]:
    return Call("session.suspend", _of(session_id), _nothing)


# Its queue


def waiting(session_id: str) -> Call[Waiting]:
    def read(result: Any) -> Waiting:
        items = msgspec.convert(result["items"], list[QueuedMessage])
        return Waiting(tuple(items), tuple(result["steeringMessages"]), result.get("paused", False))

    return Call("session.queue.pendingItems", _of(session_id), read)


def queue_insert(session_id: str, position: int, prompt: str, options: SendOptions) -> Call[str]:
    message = {"prompt": prompt, **wire_names({**options})}
    return Call(
        "session.queue.insertAt",
        _of(session_id, position=position, message=message),
        _member("id", str),
    )


def queue_move(session_id: str, message_id: str, position: int) -> Call[bool]:
    return Call(
        "session.queue.moveItem",
        _of(session_id, id=message_id, to_position=position),
        _member("changed", bool),
    )


def queue_edit(
    session_id: str, message_id: str, prompt: str, display_prompt: str | None
) -> Call[bool]:
    return Call(
        "session.queue.updateText",
        _of(session_id, id=message_id, prompt=prompt, display_prompt=display_prompt),
        _member("updated", bool),
    )


def queue_remove(session_id: str, message_id: str) -> Call[bool]:
    return Call("session.queue.removeAt", _of(session_id, id=message_id), _member("removed", bool))


def queue_remove_last(session_id: str) -> Call[bool]:
    return Call("session.queue.removeMostRecent", _of(session_id), _member("removed", bool))


def queue_duplicate(session_id: str, message_id: str) -> Call[str]:
    return Call("session.queue.duplicateAt", _of(session_id, id=message_id), _member("id", str))


def queue_send_now(session_id: str, message_id: str) -> Call[bool]:
    return Call("session.queue.sendNow", _of(session_id, id=message_id), _member("steered", bool))


def queue_clear(session_id: str) -> Call[None]:
    return Call("session.queue.clear", _of(session_id), _nothing)


def queue_pause(session_id: str, paused: bool) -> Call[None]:
    return Call("session.queue.setDrainPaused", _of(session_id, paused=paused), _nothing)


def queue_process(session_id: str) -> Call[None]:
    return Call("session.queue.process", _of(session_id), _nothing)
