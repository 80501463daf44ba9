"""What a client may ask: each call with its params and how its result reads.

Pure. Both clients make their requests from these, so that a method's name and shape stand in one
place; `queue_calls` has those of a session's queue, and `params` makes what is longer. Ids and
cursors are text of the daemon's; what they mean is its business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from tertulia import limits
from tertulia.errors import RpcError, SessionNotFound, TertuliaError
from tertulia.records import (
    Event,
    Filter,
    LogEnd,
    LogPage,
    Metadata,
    Model,
    ModelUsage,
    Order,
    Page,
    Pruned,
    RewindPoint,
    SearchHit,
    SessionInfo,
    Usage,
)
from tertulia_protocol import PROTOCOL_VERSION
from tertulia_protocol.decoding import convert

T = TypeVar("T")
Params = dict[str, Any]
FILTERS = Filter.__optional_keys__


class Call(msgspec.Struct, Generic[T], frozen=True):
    """A request, and what its result is to the caller. `timeout` in seconds."""

    method: str
    params: Params
    read: Callable[[Any], T]
    timeout: float | None = limits.REQUEST_TIMEOUT_S


def wire_names(given: Params) -> Params:
    """`given` without its Nones, each name as the wire writes it."""
    return {_camel(name): value for name, value in given.items() if value is not None}


def only(given: Mapping[str, Any], names: Collection[str], what: str) -> Params:
    """`given`. Raises TypeError for a name that is none of `names`: the daemon passes over what it
    does not know, and a guarantee that was mistyped would be missed without a word."""
    for name in given:
        if name not in names:
            raise TypeError(f"{what} has no {name!r}: it takes {', '.join(sorted(names))}")
    return {**given}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def of_session(session_id: str, **given: Any) -> Params:
    """Params of a method about that session."""
    return {"sessionId": session_id, **wire_names(given)}


def nothing(_: Any) -> None:
    """The result says no more than that it was done."""


def member(name: str, kind: type[T]) -> Callable[[Any], T]:
    """Reads one member of the result."""
    return lambda result: convert(result[name], kind)


# The daemon


def connect(token: str | None) -> Call[None]:
    """The handshake. Raises `TertuliaError` where the daemon speaks another version."""
    return Call("connect", wire_names({"token": token}), _same_version)


def _same_version(result: Any) -> None:
    spoken = result.get("protocolVersion") if isinstance(result, dict) else None
    if spoken != PROTOCOL_VERSION:
        raise TertuliaError(
            f"The daemon speaks version {spoken} of the protocol, this client"
            f" {PROTOCOL_VERSION}: install the same release of both.",
        )


def shutdown() -> Call[None]:
    return Call("runtime.shutdown", {}, nothing, limits.SHUTDOWN_TIMEOUT_S)


def ping(message: str) -> Call[str]:
    return Call("ping", {"message": message}, member("message", str))


def status() -> Call[dict[str, Any]]:
    return Call("status.get", {}, lambda result: convert(result, dict[str, Any]))


def models() -> Call[list[Model]]:
    return Call("models.list", {}, member("models", list[Model]))


# Many sessions


def sessions(
    filter_: Filter, order: Order | None, limit: int | None, cursor: str | None
) -> Call[Page[SessionInfo]]:
    chosen = wire_names(only(filter_, FILTERS, "A list's choice")) or None
    given = wire_names({"filter": chosen, "order": order, "limit": limit, "cursor": cursor})
    return Call("session.list", given, lambda result: _page(result, "sessions", SessionInfo))


def _page(result: Any, member: str, kind: type[T]) -> Page[T]:
    items = convert(result[member], list[kind])  # type: ignore[valid-type]
    return Page(tuple(items), result.get("cursor"))


def session_info(session_id: str) -> Call[SessionInfo | None]:
    def read(result: Any) -> SessionInfo | None:
        return convert(result.get("session"), SessionInfo | None)

    return Call("session.getMetadata", of_session(session_id), read)


def last_session_id() -> Call[str | None]:
    return Call("session.getLastId", {}, lambda result: result.get("sessionId"))


def delete(session_id: str) -> Call[None]:
    """A failure is answered as a result, and raised as the error it is."""

    def read(result: Any) -> None:
        if result.get("success"):
            return
        reason = str(result.get("error") or f"Session not found: {session_id}")
        if "not found" in reason.lower():
            raise SessionNotFound(reason, {"sessionId": session_id})
        raise RpcError(0, reason)

    return Call("session.delete", of_session(session_id), read)


def find(prefix: str) -> Call[str | None]:
    return Call("sessions.findByPrefix", {"prefix": prefix}, lambda result: result.get("sessionId"))


def search(text: str, limit: int | None, cursor: str | None) -> Call[Page[SearchHit]]:
    given = wire_names({"text": text, "limit": limit, "cursor": cursor})
    return Call("sessions.search", given, lambda result: _page(result, "hits", SearchHit))


def fork(
    session_id: str, at: str | None, name: str | None, new_session_id: str | None
) -> Call[str]:
    given = of_session(session_id, to_event_id=at, name=name, new_session_id=new_session_id)
    return Call("sessions.fork", given, member("sessionId", str))


def describe(
    session_id: str, metadata: dict[str, Any] | None, archived: bool | None
) -> Call[Metadata]:
    given = of_session(session_id, metadata=metadata, archived=archived)
    return Call("session.metadata.update", given, _metadata)


def metadata(session_id: str) -> Call[Metadata]:
    return Call("session.metadata.get", of_session(session_id), _metadata)


def _metadata(result: Any) -> Metadata:
    return convert(result, Metadata)


def usage(session_id: str) -> Call[Usage]:
    return Call("session.usage.getMetrics", of_session(session_id), _usage)


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
    return Call("session.export", of_session(session_id), member("document", dict))


def import_(document: dict[str, Any], session_id: str | None, rename: bool) -> Call[str]:
    given = wire_names(
        {
            "document": document,
            "session_id": session_id,
            "if_exists": "rename" if rename else None,
        }
    )
    return Call("session.import", given, member("sessionId", str))


def prune(
    older_than_days: float, dry_run: bool, include_named: bool, exclude: Iterable[str]
) -> Call[Pruned]:
    given = {
        "olderThanDays": older_than_days,
        "dryRun": dry_run,
        "includeNamed": include_named,
        "excludeSessionIds": _ids(exclude),
    }
    return Call("sessions.pruneOld", given, lambda result: convert(result, Pruned))


def _ids(given: Iterable[str]) -> list[str]:
    """Raises TypeError for a text, whose letters would be taken for ids."""
    if isinstance(given, str):
        raise TypeError(f"several ids are expected, such as [{given!r}], and not one text")
    return list(given)


def bulk_delete(session_ids: Iterable[str]) -> Call[dict[str, int]]:
    return Call(
        "sessions.bulkDelete",
        {"sessionIds": _ids(session_ids)},
        member("freedBytes", dict[str, int]),
    )


def sizes() -> Call[dict[str, int]]:
    return Call("sessions.getSizes", {}, member("sizes", dict[str, int]))


# One session


def create(given: Params) -> Call[str]:
    return Call("session.create", given, member("sessionId", str))


def resume(given: Params) -> Call[str]:
    return Call("session.resume", given, member("sessionId", str))


def detach(session_id: str) -> Call[None]:
    return Call("session.detach", of_session(session_id), nothing)


def send(given: Params) -> Call[str]:
    return Call("session.send", given, member("messageId", str))


def messages(session_id: str) -> Call[list[Event]]:
    return Call("session.getMessages", of_session(session_id), member("events", list[Event]))


def abort(session_id: str, message_id: str | None) -> Call[bool]:
    given = of_session(session_id, message_id=message_id)
    return Call("session.abort", given, member("success", bool))


def set_model(session_id: str, model: str, more: Params) -> Call[None]:
    given = of_session(session_id, model_id=model, **more)
    return Call("session.model.switchTo", given, nothing)


def log(session_id: str, message: str, level: str, ephemeral: bool) -> Call[str]:
    given = of_session(session_id, message=message, level=level, ephemeral=ephemeral)
    return Call("session.log", given, member("eventId", str))


def has_work(session_id: str) -> Call[bool]:
    return Call("session.metadata.activity", of_session(session_id), member("hasActiveWork", bool))


def truncate(session_id: str, event_id: str) -> Call[int]:
    return Call(
        "session.history.truncate",
        of_session(session_id, event_id=event_id),
        member("eventsRemoved", int),
    )


def rewind_points(session_id: str) -> Call[list[RewindPoint]]:
    return Call(
        "session.history.listRewindPoints",
        of_session(session_id),
        member("points", list[RewindPoint]),
    )


def rename(session_id: str, name: str) -> Call[None]:
    return Call("session.name.set", of_session(session_id, name=name), nothing)


def name(session_id: str) -> Call[str | None]:
    return Call("session.name.get", of_session(session_id), lambda result: result["name"])


def set_working_directory(session_id: str, folder: str) -> Call[None]:
    return Call(
        "session.metadata.setWorkingDirectory",
        of_session(session_id, working_directory=folder),
        nothing,
    )


def set_title(session_id: str, title: str) -> Call[bool]:
    return Call(
        "session.name.setAuto", of_session(session_id, summary=title), member("applied", bool)
    )


def read_log(
    session_id: str,
    cursor: str | None = None,
    limit: int | None = None,
    wait_s: float = 0.0,
    types: Iterable[str] | None = None,
    backward: bool = False,
) -> Call[LogPage]:
    given = of_session(
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
        tuple(convert(result["events"], list[Event])),
        result["cursor"],
        result["hasMore"],
        result["cursorStatus"] == "expired",
    )


def tail(session_id: str) -> Call[LogEnd]:
    return Call(
        "session.eventLog.tail",
        of_session(session_id),
        lambda result: convert(result, LogEnd),
    )


def suspend(session_id: str) -> Call[None]:
    return Call("session.suspend", of_session(session_id), nothing)
