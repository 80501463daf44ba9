"""The embedded store: SQLite under the data folder.

See `base` for what each call promises, `writer` and `reader` for the threads and transactions, and
`schema` for the tables. SQL stands in this package and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tertulia_protocol.decoding import json_decoder
from tertuliad import limits
from tertuliad.askers import asker, asking
from tertuliad.replies import Reply, mapped
from tertuliad.store import logs, rows, search
from tertuliad.store.base import (
    MAX_SEQ,
    AlreadyThere,
    Append,
    Fork,
    HeadMoved,
    Hit,
    Known,
    ListQuery,
    Log,
    LogFull,
    News,
    NotThere,
    Page,
    Range,
    Record,
    Row,
)
from tertuliad.store.checkpoints import Checkpoints
from tertuliad.store.file import DatabaseFile
from tertuliad.store.reader import Reader
from tertuliad.store.remover import Remover
from tertuliad.store.schema import segment_of, seq_of
from tertuliad.store.writer import Writer

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")


class SqliteStore:
    """Outlives every connection and session; ends with the daemon."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._file = DatabaseFile(folder)
        self._writer = Writer(self._file, loop, self._written)
        self._reader = Reader("store-reader", self._file, loop)
        self._searcher = Reader("store-searcher", self._file, loop)
        self._aside: set[int] = set()
        """Segments of logs that come in pieces."""
        self._remover = Remover(
            look=lambda: mapped(
                self._reader.submit(logs.given_up),
                lambda found: [each for each in found if each not in self._aside],
            ),
            submit=partial(self._writer.submit, heavy=True),
            call_later=loop.call_later,
        )
        self._step: tuple[int, Future[bool]] | None = None
        """Who asked for the last step of indexing, and the answer to it."""
        self._checkpoints = Checkpoints(
            self._writer.log,
            beside=self._reader.submit,
            alone=self._writer.submit_bare,
            lengthen=self._writer.lengthen_log,
        )

    def create(self, append: Append) -> Future[None]:
        pieces = _pieces(append.records)
        if len(pieces) > 1:
            return self._created_by_pieces(append, pieces)
        return self._writer.submit(lambda db: _create(db, append), heavy=_is_large(append))

    def _created_by_pieces(self, append: Append, pieces: list[tuple[Record, ...]]) -> Reply:
        """Store what is long by small transactions, between which the others have theirs, in a
        segment that counts as given up until the last of them: what is left of it if that does
        not come is removed as any other."""
        reply, who, left = Reply(), asker.get(), iter(pieces)
        segment = 0

        def submit(work: Callable[[sqlite3.Connection], T], go_on: Callable[[T], None]) -> None:
            def done(made: Future[T]) -> None:
                error = made.exception()
                if error is None:
                    go_on(made.result())
                    return
                self._aside.discard(segment)
                self._remover.take([segment] if segment else [])
                reply.fail(error)

            with asking(who):
                change = self._writer.submit(work, heavy=True)
            change.add_done_callback(done)

        def begun(made: int) -> None:
            nonlocal segment
            segment = made
            self._aside.add(segment)
            fill()

        def whole(_: None) -> None:
            self._aside.discard(segment)
            reply.give(None)

        def fill() -> None:
            piece = next(left, None)
            if piece is None:
                submit(lambda db: _take_in(db, append, segment), whole)
            else:
                submit(lambda db: _fill(db, segment, piece), lambda _: fill())

        submit(lambda db: _set_aside(db, append.row.id), begun)
        return reply

    def append(self, append: Append) -> Future[None]:
        if append.keep_to is not None:
            left = self._writer.submit(lambda db: _rewind(db, append), heavy=True)
            return mapped(left, self._remover.take)
        return self._writer.submit(lambda db: _append(db, append), heavy=_is_large(append))

    def fork(self, fork: Fork) -> Future[None]:
        return self._writer.submit(lambda db: _fork(db, fork), heavy=True)

    def delete(self, session_ids: list[str], known: Row | None = None) -> Future[dict[str, int]]:
        deleted = self._writer.submit(lambda db: _delete(db, session_ids, known), heavy=True)

        def freed(outcome: tuple[dict[str, int], list[int]]) -> dict[str, int]:
            self._remover.take(outcome[1])
            return outcome[0]

        return mapped(deleted, freed)

    def index(self) -> Future[bool]:
        """Index some of what was said since the last time; whether more is left. What was submitted
        before is committed before. Who asks again meanwhile, and has changed nothing, shares it."""
        who = asker.get()
        if self._step is None or self._step != (who, self._writer.last) or self._step[1].done():
            self._remover.look_once()
            self._step = who, self._writer.submit(search.index, heavy=True)
        return self._step[1]

    def load(self, session_id: str, upto: int | None = None) -> Future[Log | None]:
        db = self._writer.at_hand
        if db is not None:
            with contextlib.suppress(Exception):  # the thread finds out why, and has time to wait
                return Reply.of(_load(db, session_id, upto, light=True))
        return self._reader.submit(lambda db: _load(db, session_id, upto))

    def whole(self, session_id: str) -> Future[Log | None]:
        return self._reader.submit(lambda db: _load(db, session_id, snapshots=False))

    def read(self, session_id: str, wanted: Range) -> Future[list[Record]]:
        return self._reader.submit(lambda db: _read(db, session_id, wanted))

    def beside(self, work: Callable[[], T]) -> Future[T]:
        return self._reader.submit(lambda _: work())

    def find(self, session_id: str, event_id: str) -> Future[int | None]:
        return self._reader.submit(lambda db: _find(db, session_id, event_id))

    def row(self, session_id: str) -> Future[Row | None]:
        return self._reader.submit(lambda db: rows.get(db, session_id))

    def rows(self, wanted: ListQuery) -> Future[Page]:
        return self._reader.submit(lambda db: rows.page(db, wanted))

    def commits_elsewhere(self) -> int | None:
        db = self._writer.at_hand
        if db is None:
            return None
        try:
            (version,) = db.execute("PRAGMA data_version").fetchone()
        except Exception:  # noqa: BLE001 - what reads or writes next says what is wrong
            return None
        return int(version)  # of the writer's connection: the reader's commits do not change it

    def ahead(self, known: dict[str, Known]) -> Future[News]:
        durable = Reply()

        def found(done: Future[News]) -> None:
            if done.exception() is not None or done.result() == News():
                durable.follow(done)
            else:  # a change that changes nothing: what lies in the log is synced with it
                synced = self._writer.submit(lambda db: done.result())
                synced.add_done_callback(durable.follow)

        self._reader.submit(lambda db: rows.ahead(db, known)).add_done_callback(found)
        return durable

    def search(
        self, text: str, limit: int, after: str | None
    ) -> Future[tuple[list[Hit], str | None]]:
        reply = Reply()
        who = asker.get()

        def indexed(step: Future[bool]) -> None:
            if step.exception() is not None:
                reply.follow(step)
                return
            with asking(who):
                if step.result():
                    self.index().add_done_callback(indexed)  # behind what changes meanwhile
                    return
                found = self._searcher.submit(lambda db: _search(db, text, limit, after))
            found.add_done_callback(reply.follow)

        self.index().add_done_callback(indexed)
        return reply

    def sizes(self) -> Future[dict[str, int]]:
        return self._reader.submit(_sizes)

    def last_id(self) -> Future[str | None]:
        return self._reader.submit(rows.last_id)

    def close(self) -> None:
        self._remover.close()
        self._checkpoints.close()
        self._writer.close()
        self._reader.close()
        self._searcher.close()
        self._file.release()

    def _written(self, changes: int) -> None:
        self._checkpoints.written(changes)


def _is_large(append: Append) -> bool:
    """Whether it may take long."""
    size = 0 if append.snapshot is None else len(append.snapshot)
    for record in append.records:
        size += len(record.body)
    return size > limits.LIGHT_BYTES


def _create(db: sqlite3.Connection, append: Append) -> None:
    if rows.exists(db, append.row.id):
        raise AlreadyThere(append.row.id)
    segment = logs.new_segment(db, 0)
    rows.insert(db, append.row, segment)
    _add(db, append, segment)


def _pieces(records: tuple[Record, ...]) -> list[tuple[Record, ...]]:
    """What one transaction takes of them, each event counted as 1 KiB or more."""
    pieces: list[tuple[Record, ...]] = []
    first = size = 0
    for number, record in enumerate(records, 1):
        size += max(len(record.body), limits.KIB)
        if size >= limits.CREATED_BYTES:
            pieces.append(records[first:number])
            first, size = number, 0
    return [*pieces, records[first:]] if first < len(records) else pieces


def _set_aside(db: sqlite3.Connection, session_id: str) -> int:
    """A segment for a log that comes in pieces."""
    if rows.exists(db, session_id):
        raise AlreadyThere(session_id)
    return logs.set_aside(db)


def _fill(db: sqlite3.Connection, segment: int, records: tuple[Record, ...]) -> None:
    """Where another process has taken the segment for what it looks like, `_take_in` finds out."""
    if logs.is_given_up(db, segment):
        logs.insert(db, segment, records)


def _take_in(db: sqlite3.Connection, append: Append, segment: int) -> None:
    """The session's log is whole in its segment; where it is not, it is stored at once."""
    if rows.exists(db, append.row.id):
        raise AlreadyThere(append.row.id)
    if logs.count(db, segment) == len(append.records) and logs.is_given_up(db, segment):
        logs.take_back(db, segment, append.records)
        rows.insert(db, append.row, segment)
        _add(db, msgspec.structs.replace(append, records=()), segment)
    else:
        _create(db, append)


def _append(db: sqlite3.Connection, append: Append) -> None:
    _check_room(append)
    segment = rows.update(db, append.row, append.expected_head, append.before)
    if segment is None:
        raise HeadMoved(append.row.id)
    _add(db, append, segment)


def _rewind(db: sqlite3.Connection, append: Append) -> list[int]:
    """Append to what is kept of the log; the segments that have to be removed."""
    _check_room(append)
    old = rows.update(db, append.row, append.expected_head)
    if old is None:
        raise HeadMoved(append.row.id)
    parent = _segment_at(db, old, append.keep_to or 0)
    segment = logs.new_segment(db, append.expected_head, parent, append.keep_to)
    db.execute("UPDATE sessions SET segment = ? WHERE id = ?", (segment, append.row.id))
    _add(db, append, segment)
    return logs.remove(db, logs.give_up(db, old))


def _check_room(append: Append) -> None:
    if append.row.head > MAX_SEQ:
        raise LogFull.of(append.row.id)


def _add(db: sqlite3.Connection, append: Append, segment: int) -> None:
    """The records and the snapshot."""
    if append.records:
        logs.insert(db, segment, append.records)
    if append.snapshot is not None:
        db.execute(
            "INSERT OR REPLACE INTO snapshots (segment, seq, body) VALUES (?, ?, ?)",
            (segment, append.row.head, append.snapshot),
        )


def _segment_at(db: sqlite3.Connection, segment: int, seq: int) -> int | None:
    """The segment of the log that seq belongs to; None: before its first event."""
    before = 0
    for part, upto in logs.chain(db, segment):
        if before < seq <= upto:
            return part
        before = upto
    return None


def _fork(db: sqlite3.Connection, fork: Fork) -> None:
    row = fork.append.row
    if rows.exists(db, row.id):
        raise AlreadyThere(row.id)
    source = rows.with_segment(db, fork.source)
    if source is None:
        raise NotThere(fork.source)
    parent = _segment_at(db, source[1], fork.upto)
    is_another = source[0].created_ms != fork.source_ms
    if is_another or parent is None or not logs.has(db, parent, fork.upto):
        raise HeadMoved(fork.source)
    segment = logs.new_segment(db, fork.append.expected_head, parent, fork.upto)
    rows.insert(db, row, segment)
    _add(db, fork.append, segment)


def _delete(
    db: sqlite3.Connection, session_ids: list[str], known: Row | None = None
) -> tuple[dict[str, int], list[int]]:
    """The bytes that each session has freed, and the segments that have to be removed."""
    freed: dict[str, int] = {}
    gone: list[int] = []
    for session_id in session_ids:
        found = rows.with_segment(db, session_id)
        if found is None:
            continue
        row, segment = found
        if known is not None and (row.head, row.created_ms) != (known.head, known.created_ms):
            continue
        db.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
        given = logs.give_up(db, segment)
        freed[session_id] = sum(logs.size(db, each) for each in given)
        gone += given
    return freed, logs.remove(db, gone)


class _NotLight(Exception):
    """To read this log may take long."""


def _load(
    db: sqlite3.Connection,
    session_id: str,
    upto: int | None = None,
    *,
    snapshots: bool = True,
    light: bool = False,
) -> Log | None:
    """`light`: raises `_NotLight` where it may take long."""
    db.execute("BEGIN")  # one moment for the row and its log
    try:
        found = rows.with_segment(db, session_id)
        if found is None:
            return None
        row, segment = found
        parts = logs.chain(db, segment, limits.LIGHT_SEGMENTS + 1 if light else None)
        last = row.head
        if upto is not None:
            last, parts = upto, [(part, min(end, upto)) for part, end in parts]
        kept = logs.newest_snapshot(db, parts) if snapshots else None
        part, after, size = kept or (0, 0, 0)
        records: list[Record] | None
        if light:
            few = len(parts) <= limits.LIGHT_SEGMENTS and last - after <= limits.LIGHT_EVENTS
            most = limits.LIGHT_BYTES - size
            records = logs.read_small(db, parts, after, most) if few and most >= 0 else None
            if records is None:
                raise _NotLight
        else:
            records = logs.read(db, parts, Range(after=after))
        snapshot = None if kept is None else logs.snapshot(db, part)
        return Log(row, snapshot, records if snapshots else _sound(session_id, records))
    finally:
        if db.in_transaction:
            db.execute("COMMIT")


def _read(db: sqlite3.Connection, session_id: str, wanted: Range) -> list[Record]:
    segment = rows.segment(db, session_id, wanted.created_ms)
    if segment is None:
        if wanted.created_ms:
            raise NotThere(session_id)
        return []
    return _sound(session_id, logs.read(db, logs.chain(db, segment), wanted))


_bodies = json_decoder(msgspec.Raw)


def _sound(session_id: str, records: list[Record]) -> list[Record]:
    """Bodies go out as they are: one that is damaged would break a client's frame."""
    for record in records:
        try:
            _bodies.decode(record.body)
            record.body.isascii() or record.body.decode()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise logs.damaged(record, session_id) from error
    return records


def _find(db: sqlite3.Connection, session_id: str, event_id: str) -> int | None:
    segment = rows.segment(db, session_id)
    return None if segment is None else logs.find(db, segment, event_id)


# The sessions whose log leads through an event: that of its segment, and those that were forked
# off behind it.
_WHOSE = f"""
WITH RECURSIVE later (segment) AS (
    SELECT ?1
    UNION
    SELECT s.id FROM segments s JOIN later ON s.parent = later.segment
    WHERE s.parent_seq >= ?2 OR later.segment <> ?1
)
SELECT {rows.LISTED} FROM sessions JOIN later USING (segment) ORDER BY pk
"""  # noqa: S608 - constants


def _search(
    db: sqlite3.Connection, text: str, limit: int, after: str | None
) -> tuple[list[Hit], str | None]:
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise rows.bad_cursor()
    offset = int(after or 0)
    db.execute("BEGIN")  # one moment for the places and the rows
    try:
        found = list(itertools.islice(_shown(db, text, limit + 1, offset), limit + 1))
        hits = [
            Hit(rows.made(values), seq_of(row_id), *search.place(db, row_id, text))
            for _, row_id, whose in found[:limit]
            for values in whose
        ]
    finally:
        db.execute("COMMIT")
    return hits, str(found[limit][0]) if len(found) > limit else None


def _shown(
    db: sqlite3.Connection, text: str, wanted: int, offset: int
) -> Iterator[tuple[int, int, list[tuple[Any, ...]]]]:
    """(which of the places that match, row id, rows of the sessions) of those that a session shows:
    what was rewound is there until its session goes. About so many are `wanted`."""
    while True:
        places = search.find(db, text, wanted, offset)
        for row_id in places:
            whose = db.execute(_WHOSE, (segment_of(row_id), seq_of(row_id))).fetchall()
            if whose:
                yield offset, row_id, whose
            offset += 1
        if len(places) < wanted:
            return
        wanted *= 4  # each search weighs all places anew


def _sizes(db: sqlite3.Connection) -> dict[str, int]:
    """What several logs lead through counts for the oldest session of them."""
    sizes: dict[str, int] = {}
    counted: set[int] = set()
    listed = db.execute("SELECT id, segment FROM sessions ORDER BY pk").fetchall()
    for session_id, newest in listed:
        chain = [segment for segment, _ in reversed(logs.chain(db, newest))]
        own = list(itertools.takewhile(lambda segment: segment not in counted, chain))
        sizes[session_id] = sum(logs.size(db, segment) for segment in own)
        counted.update(own)
    return sizes
