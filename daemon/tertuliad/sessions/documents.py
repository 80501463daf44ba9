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
from tertulia_protocol import session_id as ids
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.methods.library import Document, DocumentRecord
from tertuliad import limits
from tertuliad.clock import LATEST_MS, iso, now_ms
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Draft
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.refusals import check_listed
from tertuliad.sessions.sealed import fold_in, seal
from tertuliad.sessions.state import SessionState, fold, snapshot
from tertuliad.store.base import MAX_SEQ, Append, Record, Row

VERSION = 1
_MOST = 1 << 40  # tokens, or ms
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
            "$.document.version",
            f"version {document.version} is unknown, and {VERSION} is read here: import the"
            " document with the release of Tertulia that wrote it, or a newer one",
        )
    records = _records(document)
    state = SessionState(id=session_id, created_ms=_created_ms(document))
    fold(state, list(records))
    _check_row(state)
    if session_id != document.session_id:
        copied = Draft(facts.Copied(document.session_id))
        records += fold_in(state, seal(state, (copied,), now_ms()))
    due = snapshot(state) if len(records) >= limits.SNAPSHOT_EVENTS else None
    return Append(0, row_of(state, now_ms()), records, snapshot=due)


def _check_row(state: SessionState) -> None:
    """Raise for what each row of a list would repeat, and is too much."""
    check_listed(state.config, state.given_name, _EVENTS)
    fault = None
    if len(state.title or "") > limits.NAME_CHARS:
        fault = f"the session's title has more than {limits.NAME_CHARS} characters"
    elif len(_encoder.encode(state.metadata)) > limits.METADATA_BYTES:
        fault = f"the session's metadata has more than {limits.METADATA_BYTES} bytes"
    elif state.parent is not None and not ids.is_valid(state.parent):
        fault = f"the session that it was forked from has no id: {ids.RULE}"
    if fault is not None:
        raise faults.invalid(_EVENTS, fault)


def _created_ms(document: Document) -> int:
    path = "$.document.startTime"
    try:
        moment = datetime.datetime.fromisoformat(document.start_time)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        ms = round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise faults.invalid(path, "an ISO 8601 time is expected") from None
    if not 0 <= ms <= LATEST_MS:
        raise faults.invalid(path, "the time is before 1970, or after the year 9999")
    return ms


def _records(document: Document) -> tuple[Record, ...]:
    records: list[Record] = []
    ids: set[str] = set()
    for index, item in enumerate(document.events):
        path = f"{_EVENTS}[{index}]"
        envelope = _envelope(item, f"{path}.event")
        if envelope.id in ids:
            raise faults.invalid(f"{path}.event.id", "an event before it has the same id")
        ids.add(envelope.id)
        kind: Any = facts.TYPES.get(envelope.type, dict[str, Any])
        data = _decoded(envelope.data, kind, f"{path}.event.data")
        _check_seq(item.seq, records[-1].seq if records else 0, data, path)
        _check_counts(data, f"{path}.event.data")
        records.append(Record(item.seq, envelope.type, _body(item, envelope, data)))
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


def _check_seq(seq: int, last: int, data: Any, path: str) -> None:
    """Whether an event follows on the one before, as the doctor wants it. What is left of the seqs
    is for what is said from then on."""
    if seq <= last or (seq > last + 1 and not facts.jumps(data, last)):
        raise faults.invalid(
            f"{path}.seq",
            f"seqs begin with 1 and have no gap; {last + 1} is expected, or more where the event"
            " tells of a rewind to the one before",
        )
    if seq > MAX_SEQ // 2:
        raise faults.invalid(f"{path}.seq", f"a log is taken in up to the seq {MAX_SEQ // 2}")


def _check_counts(data: Any, path: str) -> None:
    """Together they have to be numbers, too."""
    given: dict[str, tuple[Any, ...]] = {}
    if isinstance(data, facts.Used):
        given = {path: msgspec.structs.astuple(data)}
    elif isinstance(data, facts.Rewound):
        carried, path = data.carried, f"{path}.carried"
        given = {path: (carried.turns, carried.inherited_turns)}
        for model, totals in carried.usage.items():
            given[f"{path}.usage.{model}"] = msgspec.structs.astuple(totals)
    for place, counts in given.items():
        if not all(0 <= each <= _MOST for each in counts if not isinstance(each, str)):
            raise faults.invalid(place, f"a count is below 0, or above {_MOST}")


def _body(item: DocumentRecord, envelope: _Given, data: Any) -> bytes:
    """The event's bytes as they came. Settings are written anew: what is secret, or nobody knows
    of, is left out of them."""
    safe: Any = None
    if isinstance(data, facts.Configured):
        safe = facts.Configured(config.stored(data.config))
    elif isinstance(data, facts.Rewound):
        kept = config.stored(data.carried.config)
        carried = msgspec.structs.replace(data.carried, config=kept)
        safe = msgspec.structs.replace(data, carried=carried)
    if safe is None:
        return bytes(item.event)
    bare = msgspec.structs.replace(envelope, data=msgspec.Raw(_encoder.encode(safe)))
    return _encoder.encode(bare)


def _decoded(raw: msgspec.Raw, kind: Any, path: str) -> Any:
    try:
        return json_decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        inner, fault = faults.explain(str(error))
        raise faults.invalid(path + inner[1:], fault) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise faults.invalid(path, "this is not JSON in UTF-8 that can be read") from None
