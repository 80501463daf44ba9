"""A session as one document, and a session made from one.

The document has the log whole, the daemon's own facts included, so that what is made of it is the
same session in every respect but its row's times. Made under another id it is a copy, whose source
may be there too: it counts what it takes from then on.

No secret is in a log; one that somebody wrote into a document is left out again when it is read. A
document is foreign input: what is wrong with it is said with its JSON path.
"""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from tertulia_protocol import config, events, faults
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.methods.library import Document, DocumentRecord
from tertuliad.clock import iso, now_ms
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Draft
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.sealed import fold_in, seal
from tertuliad.sessions.state import SessionState, fold
from tertuliad.store.base import MAX_SEQ, Append, Record, Row

VERSION = 1
_EVENTS = "$.document.events"

_encoder = msgspec.json.Encoder()


def document_of(row: Row, records: list[Record]) -> Document:
    """`records` are the session's log, whole."""
    return Document(
        format="tertulia.session",
        version=VERSION,
        session_id=row.id,
        start_time=iso(row.created_ms),
        title=row.title,
        events=[DocumentRecord(seq=r.seq, event=msgspec.Raw(r.body)) for r in records],
    )


def first_append(document: Document, session_id: str) -> Append:
    """What stores the document's session under this id. Raises `InvalidParams`."""
    if document.version != VERSION:
        raise faults.invalid(
            "$.document.version", f"version {document.version} is unknown; this one reads {VERSION}"
        )
    records = _records(document)
    state = SessionState(id=session_id, created_ms=_created_ms(document))
    fold(state, list(records))
    if session_id != document.session_id:
        copied = Draft(facts.Copied(document.session_id))
        records += fold_in(state, seal(state, (copied,), now_ms()))
    return Append(0, row_of(state, now_ms()), records)


def _created_ms(document: Document) -> int:
    path = "$.document.startTime"
    try:
        moment = datetime.datetime.fromisoformat(document.start_time)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        ms = round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise faults.invalid(path, "an ISO 8601 time is expected") from None
    if ms < 0:
        raise faults.invalid(path, "the time is before 1970")
    return ms


def _records(document: Document) -> tuple[Record, ...]:
    records: list[Record] = []
    ids: set[str] = set()
    for index, item in enumerate(document.events):
        path = f"{_EVENTS}[{index}]"
        first = records[-1].seq + 1 if records else 1
        if not first <= item.seq <= MAX_SEQ or (not records and item.seq != 1):
            raise faults.invalid(
                f"{path}.seq", f"seqs begin with 1 and grow; {first} or more is expected"
            )
        envelope = _envelope(item, f"{path}.event")
        if envelope.id in ids:
            raise faults.invalid(f"{path}.event.id", "an event before it has the same id")
        ids.add(envelope.id)
        records.append(Record(item.seq, envelope.type, _body(item, envelope, path)))
    if not records or records[0].type != "session.start":
        raise faults.invalid(_EVENTS, "a session begins with a session.start event")
    return tuple(records)


class _Given(events.Envelope, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An envelope whose data is decoded once its type is known."""

    data: msgspec.Raw


def _envelope(item: DocumentRecord, path: str) -> _Given:
    envelope: _Given = _decoded(item.event, _Given, path)
    if envelope.ephemeral or ((row := events.EVENTS.get(envelope.type)) and row.ephemeral):
        raise faults.invalid(path, "an ephemeral event is not part of a log")
    return envelope


def _body(item: DocumentRecord, envelope: _Given, path: str) -> bytes:
    """The event's bytes as they came, but for secrets."""
    kind: Any = facts.TYPES.get(envelope.type, dict[str, Any])
    data = _decoded(envelope.data, kind, f"{path}.event.data")
    safe = _without_secrets(data)
    if safe is data:
        return bytes(item.event)
    bare = msgspec.structs.replace(envelope, data=msgspec.Raw(_encoder.encode(safe)))
    return _encoder.encode(bare)


def _without_secrets(data: Any) -> Any:
    if isinstance(data, facts.Configured):
        kept = config.stored(data.config)
        return data if kept == data.config else facts.Configured(kept)
    if isinstance(data, facts.Rewound):
        kept = config.stored(data.carried.config)
        if kept != data.carried.config:
            carried = msgspec.structs.replace(data.carried, config=kept)
            return msgspec.structs.replace(data, carried=carried)
    return data


def _decoded(raw: msgspec.Raw, kind: Any, path: str) -> Any:
    try:
        return json_decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        inner, fault = faults.explain(str(error))
        raise faults.invalid(path + inner[1:], fault) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise faults.invalid(path, "this is not JSON in UTF-8 that can be read") from None
