"""What a store keeps, whichever it is; then what the SQLite store keeps besides.

The first half is the conformance suite: it is written against `store.base.Store` and the fixture
`open_store`, so that another store is tested by another way of opening it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import sqlite3
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.askers import asking
from tertuliad.store import file, logs, rows, search, sqlite
from tertuliad.store.base import (
    MARKS,
    MAX_SEQ,
    AlreadyThere,
    Append,
    Fork,
    HeadMoved,
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
    Store,
)
from tertuliad.store.owners import Owners
from tertuliad.store.schema import FILE_NAME, SCHEMA_VERSION, open_database
from tertuliad.store.sqlite import SqliteStore
from tests.support.store_alone import done, loaded

pytestmark = pytest.mark.anyio

Open = Callable[[], Store]
OpenSqlite = Callable[[], SqliteStore]


@pytest.fixture
async def open_store(tmp_path: Path) -> Any:
    """Opens stores on one place, as several processes do; all are closed at the end."""
    opened: list[Store] = []
    loop = asyncio.get_running_loop()

    def open_one() -> Store:
        opened.append(SqliteStore(tmp_path / "home", loop))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def row(session_id: str, head: int, **more: Any) -> Row:
    return Row(
        **{"id": session_id, "created_ms": 1000, "modified_ms": 1000 + head, "head": head, **more}
    )


def records(first: int, last: int) -> tuple[Record, ...]:
    return tuple(Record(seq, "type", b'{"n":%d}' % seq) for seq in range(first, last + 1))


def append(session_id: str, behind: int, count: int = 1, **more: Any) -> Append:
    head = behind + count
    return Append(behind, row(session_id, head, **more), records(behind + 1, head))


def size(first: int, last: int) -> int:
    """The bytes of such records."""
    return sum(len(record.body) for record in records(first, last))


async def listed(store: Store, **wanted: Any) -> list[Row]:
    """All rows that are wanted."""
    page = await done(store.rows(ListQuery(**wanted)))
    assert page.cursor is None
    return page.rows


async def filled(store: Store, session_id: str, events: int = 2) -> None:
    await done(store.create(append(session_id, 0, events)))


# The conformance suite


async def test_a_log_that_is_full_is_told_and_the_others_go_on(open_store: Open) -> None:
    store = open_store()
    last = Record(MAX_SEQ, "type", b"{}")
    await done(store.create(Append(0, row("full", MAX_SEQ), (last,))))
    too_much = Record(MAX_SEQ + 1, "type", b"{}")
    change = Append(MAX_SEQ, row("full", MAX_SEQ + 1), (too_much,))
    for each in (change, msgspec.structs.replace(change, keep_to=MAX_SEQ)):
        with pytest.raises(LogFull, match="Begin a new session"):
            await done(store.append(each))
    await filled(store, "a")
    assert await done(store.read("full", Range())) == [last]


async def test_only_a_commit_elsewhere_changes_the_number_that_tells_of_it(
    open_store: Open,
) -> None:
    store, other = open_store(), open_store()
    await filled(store, "a")
    number = store.commits_elsewhere()
    await filled(store, "b")
    await done(store.append(append("a", 2)))
    await done(store.delete(["b"]))
    await done(store.read("a", Range()))
    await done(other.row("a"))
    other.commits_elsewhere()
    assert store.commits_elsewhere() == number
    await done(other.append(append("a", 3)))
    assert store.commits_elsewhere() != number


async def test_sessions_that_went_on_are_found_and_those_that_run_a_turn_or_are_gone(
    open_store: Open,
) -> None:
    store, other = open_store(), open_store()
    for name in ("a", "b", "c", "unasked"):
        await filled(store, name)
    known = dict.fromkeys("abc", Known(2))
    assert await done(other.ahead(known)) == News()
    known = dict.fromkeys("abc", Known(2, created_ms=1000))
    assert await done(other.ahead(known)) == News()
    assert await done(other.ahead({"a": Known(2, created_ms=999)})) == News(gone=["a"])
    await done(store.append(append("a", 2)))
    await done(store.append(append("b", 2, owner="somebody")))
    await done(store.append(append("unasked", 2)))
    found = [row("a", 3), row("b", 3, owner="somebody")]
    assert await done(other.ahead(known)) == News(found)
    assert await done(other.ahead({**known, "a": Known(3), "b": Known(3)})) == News(found[1:])
    await done(store.delete(["a"]))
    assert await done(other.ahead({"a": Known(3), "c": Known(2)})) == News(gone=["a"])
    news = await done(other.ahead({"b": Known(3), "c": Known(3)}))
    assert news == News(found[1:], ["c"]), "it is another log"
    assert await done(other.ahead({})) == News()


async def test_what_is_read_is_of_the_session_that_is_meant(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a")
    assert await seqs(store, "a", created_ms=1000) == [1, 2]
    with pytest.raises(NotThere):
        await seqs(store, "a", created_ms=999)
    await done(store.delete(["a"]))
    with pytest.raises(NotThere):
        await seqs(store, "a", created_ms=1000)


async def test_what_was_created_is_there(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 3)
    assert await done(store.load("a")) == Log(row("a", 3), None, list(records(1, 3)))
    assert await done(store.row("a")) == row("a", 3)


async def test_every_member_of_a_row_comes_back(open_store: Open) -> None:
    store = open_store()
    whole = row(
        "a", 1, title="Größe “x”", model="m", cwd="/home/me/ü", client_name="c", owner="somebody"
    )
    await done(store.create(Append(0, whole, records(1, 1))))
    assert await done(store.row("a")) == whole


async def test_an_id_is_given_once(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 2)
    with pytest.raises(AlreadyThere):
        await done(store.create(append("a", 0, 5)))
    assert await done(store.read("a", Range())) == list(records(1, 2))


async def test_ids_differ_by_case(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a")
    await filled(store, "A")
    assert {found.id for found in await listed(store)} == {"a", "A"}


async def test_an_append_stands_behind_the_head_it_names(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 2)
    await done(store.append(append("a", 2, 3, title="new")))
    found = await done(store.load("a"))
    assert found == Log(row("a", 5, title="new"), None, list(records(1, 5)))


@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_an_append_behind_another_head_is_refused_whole(
    open_store: Open, behind: int
) -> None:
    store = open_store()
    await filled(store, "a", 2)
    with pytest.raises(HeadMoved):
        await done(store.append(append("a", behind, 2, title="new")))
    assert await done(store.load("a")) == Log(row("a", 2), None, list(records(1, 2)))


async def test_an_append_to_no_session_is_refused(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(HeadMoved):
        await done(store.append(append("never", 0)))
    await filled(store, "a")
    await done(store.delete(["a"]))
    with pytest.raises(HeadMoved):
        await done(store.append(append("a", 2)))
    assert await done(store.load("a")) is None


async def test_a_refusal_leaves_its_neighbours_alone(open_store: Open) -> None:
    store = open_store()
    for name in "abc":
        await filled(store, name, 1)
    waiting: list[Future[Any]] = [
        store.append(append("a", 1)),
        store.append(append("b", 7)),
        store.create(append("c", 0)),
        store.create(append("d", 0)),
        store.append(append("c", 1)),
    ]
    outcomes = [type(await _outcome(future)) for future in waiting]
    assert outcomes == [type(None), HeadMoved, AlreadyThere, type(None), type(None)]
    heads = {found.id: found.head for found in await listed(store)}
    assert heads == {"a": 2, "b": 1, "c": 2, "d": 1}


async def _outcome(future: Future[Any]) -> Exception | None:
    try:
        await done(future)
    except (HeadMoved, AlreadyThere, StoreFailed) as error:
        return error
    return None


async def test_an_append_that_cannot_be_stored_leaves_its_neighbours_alone(
    open_store: Open,
) -> None:
    store = open_store()
    for name in "abc":
        await filled(store, name, 2)
    twice = Append(2, row("b", 3), records(2, 3))  # a seq that is there already
    waiting = [store.append(append("a", 2)), store.append(twice), store.append(append("c", 2))]
    outcomes = [await _outcome(future) for future in waiting]
    assert [type(outcome) for outcome in outcomes] == [type(None), StoreFailed, type(None)]
    heads = {found.id: found.head for found in await listed(store)}
    assert heads == {"a": 3, "b": 2, "c": 3}


async def test_text_that_no_store_can_hold_leaves_its_neighbours_alone(open_store: Open) -> None:
    store = open_store()
    waiting = [
        store.create(append("a", 0)),
        store.create(append("b", 0, cwd="/home/me/\udcff")),
        store.create(append("c", 0)),
    ]
    with pytest.raises((StoreFailed, UnicodeEncodeError)):
        await done(waiting[1])
    assert await _outcome(waiting[0]) is None
    assert await _outcome(waiting[2]) is None


async def test_a_deleted_session_is_gone_and_its_id_free(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 3)
    await filled(store, "b", 1)
    assert await done(store.delete(["a"])) == {"a": size(1, 3)}
    assert await done(store.delete(["a"])) == {}
    assert await done(store.load("a")) is None
    assert await done(store.row("a")) is None
    assert await done(store.read("a", Range())) == []
    await filled(store, "a", 1)
    assert await done(store.load("a")) == Log(row("a", 1), None, list(records(1, 1)))
    assert await done(store.read("b", Range())) == list(records(1, 1))


@pytest.mark.parametrize(
    ("after", "limit", "first", "last"),
    [(0, None, 1, 9), (0, 4, 1, 4), (4, 4, 5, 8), (8, 4, 9, 9), (9, 4, 1, 0), (0, 0, 1, 0)],
)
async def test_a_log_is_read_in_pages(
    open_store: Open, after: int, limit: int | None, first: int, last: int
) -> None:
    store = open_store()
    await filled(store, "a", 9)
    assert await done(store.read("a", Range(after=after, limit=limit))) == list(
        records(first, last)
    )


async def test_the_list_begins_with_what_was_modified_last(open_store: Open) -> None:
    store = open_store()
    assert await listed(store) == []
    assert await done(store.last_id()) is None
    for name, modified in (("a", 30), ("b", 10), ("c", 20), ("d", 20)):
        await done(store.create(append(name, 0, modified_ms=modified)))
    assert [found.id for found in await listed(store)] == ["a", "d", "c", "b"]
    assert await done(store.last_id()) == "a"
    await done(store.append(append("b", 1, modified_ms=40)))
    assert await done(store.last_id()) == "b"


async def test_the_list_is_filtered_by_folder(open_store: Open) -> None:
    store = open_store()
    for name, cwd in (("a", "/x"), ("b", "/y"), ("c", None), ("d", "/x")):
        await done(store.create(append(name, 0, cwd=cwd)))
    found = await listed(store, cwd="/x")
    assert {each.id for each in found} == {"a", "d"}
    assert await listed(store, cwd="/") == []


async def test_what_was_answered_is_there_after_reopening(open_store: Open) -> None:
    first = open_store()
    await filled(first, "a", 2)
    first.close()
    assert await done(open_store().read("a", Range())) == list(records(1, 2))


async def test_closing_does_what_was_asked_before(open_store: Open) -> None:
    store = open_store()
    waiting = [store.create(append(f"s{number}", 0)) for number in range(20)]
    store.close()
    for future in waiting:
        await done(future)
    assert len(await listed(open_store())) == 20


async def test_a_closed_store_says_so(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a")
    store.close()
    store.close()
    with pytest.raises(StoreFailed, match="closed"):
        await done(store.append(append("a", 2)))
    with pytest.raises(StoreFailed, match="closed"):
        await done(store.load("a"))


async def test_an_append_to_a_session_of_the_same_id_that_was_made_later_is_refused(
    open_store: Open,
) -> None:
    store, other = open_store(), open_store()
    await filled(store, "a")
    await done(other.delete(["a"]))
    await done(other.create(append("a", 0, 2, created_ms=1001)))
    with pytest.raises(HeadMoved):
        await done(store.append(append("a", 2)))
    await done(other.append(append("a", 2, created_ms=1001)))


async def test_two_writers_of_one_session_make_one_log(open_store: Open) -> None:
    stores = [open_store(), open_store()]
    await filled(stores[0], "a", 1)
    won: dict[int, bytes] = {}

    async def writer(store: Store, name: bytes) -> None:
        head = 1
        while head < 101:
            body = b'"%b%d"' % (name, head + 1)
            record = Record(head + 1, "type", body)
            try:
                await done(store.append(Append(head, row("a", head + 1), (record,))))
                assert head + 1 not in won
                won[head + 1] = body
            except HeadMoved:
                pass
            found = await done(store.row("a"))
            assert found is not None
            head = found.head

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer, stores[0], b"x")
        tasks.start_soon(writer, stores[1], b"y")
    log = await done(open_store().read("a", Range(after=1)))
    assert [record.seq for record in log] == list(range(2, 102))
    assert {record.seq: record.body for record in log} == won


async def test_of_two_hundred_appends_at_one_head_one_is_taken(open_store: Open) -> None:
    stores = [open_store(), open_store()]
    await filled(stores[0], "a", 1)
    waiting = [stores[number % 2].append(append("a", 1)) for number in range(200)]
    outcomes = [await _outcome(future) for future in waiting]
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, HeadMoved) for outcome in outcomes) == 199
    assert await done(stores[1].read("a", Range())) == list(records(1, 2))


async def test_two_that_make_the_same_session_at_once_agree(open_store: Open) -> None:
    stores = [open_store(), open_store()]
    waiting = [stores[number % 2].create(append("a", 0)) for number in range(20)]
    outcomes = [await _outcome(future) for future in waiting]
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, AlreadyThere) for outcome in outcomes) == 19


async def test_futures_are_completed_on_the_loops_thread(open_store: Open) -> None:
    store = open_store()
    told: list[bool] = []

    def on_loop(_: Future[Any]) -> None:
        told.append(asyncio._get_running_loop() is not None)

    future = store.create(append("a", 0))
    future.add_done_callback(on_loop)
    await done(future)
    assert told == [True]


async def test_what_follows_is_in_the_context_of_who_opened_the_store(open_store: Open) -> None:
    """Whichever thread did the work: where `sniffio` is installed, anyio starts no task in an empty
    context."""
    whose = contextvars.ContextVar("whose", default="nobody's")
    whose.set("ours")
    store = open_store()
    seen: dict[str, str] = {}

    async def noted(what: str, future: Future[Any]) -> None:
        future.add_done_callback(lambda _: seen.update({what: whose.get()}))
        await done(future)

    await noted("create", store.create(append("a", 0, 2)))
    await noted("append", store.append(append("a", 2)))
    await noted("rewind", store.append(msgspec.structs.replace(append("a", 3), keep_to=1)))
    await noted("load", store.load("a"))
    await noted("rows", store.rows(ListQuery()))
    await noted("search", store.search("word", 5, None))
    await noted("delete", store.delete(["a"]))
    assert set(seen.values()) == {"ours"}, seen


# Forks, rewinds, and what is left of them


def forked(source: str, upto: int, new_id: str, count: int = 1, **more: Any) -> Fork:
    """A session that shares `source` up to a seq, with so many records of its own."""
    return Fork(source, 1000, upto, append(new_id, upto, count, parent=source, **more))


async def rewound(store: Store, session_id: str, head: int, keep_to: int, count: int = 1) -> None:
    """Leave out what is above `keep_to`, and put records behind the head."""
    change = append(session_id, head, count)
    await done(store.append(msgspec.structs.replace(change, keep_to=keep_to)))


async def seqs(store: Store, session_id: str, **wanted: Any) -> list[int]:
    return [found.seq for found in await done(store.read(session_id, Range(**wanted)))]


async def test_a_fork_shares_what_it_was_made_from(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 6)
    await done(store.fork(forked("a", 4, "b", 2)))
    await done(store.append(append("a", 6)))
    await done(store.append(append("b", 6)))
    assert await done(store.load("b")) == Log(row("b", 7, parent="a"), None, list(records(1, 7)))
    assert await seqs(store, "a") == [1, 2, 3, 4, 5, 6, 7]
    await done(store.fork(forked("b", 2, "c")))
    await done(store.fork(forked("b", 7, "d")))
    assert await seqs(store, "c") == [1, 2, 3]
    assert await seqs(store, "d") == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_fork_that_cannot_be_is_refused(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 2)
    await filled(store, "b", 1)
    with pytest.raises(AlreadyThere):
        await done(store.fork(forked("a", 2, "b")))
    with pytest.raises(NotThere):
        await done(store.fork(forked("never", 2, "c")))
    assert await seqs(store, "b") == [1]
    assert await done(store.row("c")) is None


@pytest.mark.parametrize("upto", [4, 5, 6, 9])
async def test_a_fork_at_an_event_that_was_left_out_is_refused(open_store: Open, upto: int) -> None:
    store = open_store()
    await filled(store, "a", 6)
    await rewound(store, "a", 6, 3, 2)
    with pytest.raises(HeadMoved):
        await done(store.fork(forked("a", upto, "b")))
    assert await done(store.row("b")) is None
    for place, new_id in ((3, "c"), (7, "d"), (8, "e")):
        await done(store.fork(forked("a", place, new_id)))
    assert await seqs(store, "d") == [1, 2, 3, 7, 8]


async def test_a_fork_of_a_session_that_was_made_anew_is_refused(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 6)
    await done(store.delete(["a"]))
    await done(store.create(append("a", 0, 6, created_ms=2000)))
    with pytest.raises(HeadMoved):
        await done(store.fork(forked("a", 4, "b")))


async def test_a_rewind_leaves_out_and_never_uses_a_seq_again(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 6)
    await rewound(store, "a", 6, 3)
    assert await seqs(store, "a") == [1, 2, 3, 7]
    await rewound(store, "a", 7, 7)
    await rewound(store, "a", 8, 2, 2)
    assert await seqs(store, "a") == [1, 2, 9, 10]
    found = await done(store.row("a"))
    assert found is not None
    assert found.head == 10
    with pytest.raises(HeadMoved):
        await rewound(store, "a", 7, 1)


async def test_a_rewind_leaves_forks_alone(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 6)
    await done(store.fork(forked("a", 5, "b")))
    await rewound(store, "a", 6, 2)
    await rewound(store, "b", 6, 4)
    assert await seqs(store, "a") == [1, 2, 7]
    assert await seqs(store, "b") == [1, 2, 3, 4, 7]


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
async def test_a_log_stays_as_long_as_a_fork_needs_it(open_store: Open, order: str) -> None:
    store = open_store()
    await filled(store, "a", 3)
    await done(store.fork(forked("a", 3, "b")))
    await rewound(store, "b", 4, 2)
    await done(store.fork(forked("b", 5, "c")))
    kept = {"a": [1, 2, 3], "b": [1, 2, 5], "c": [1, 2, 5, 6]}
    sizes = await done(store.sizes())
    total = sum(sizes.values())
    freed = 0
    for gone in order:
        freed += (await done(store.delete([gone])))[gone]
        del kept[gone]
        for name, wanted in kept.items():
            assert await seqs(store, name) == wanted
    assert freed == total > 0


async def test_nothing_is_left_when_all_are_gone(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    await filled(store, "a", 3)
    await done(store.fork(forked("a", 2, "b")))
    await rewound(store, "a", 3, 1)
    await done(store.search("word", 5, None))
    freed = await done(store.delete(["a", "b", "never"]))
    assert set(freed) == {"a", "b"}
    db = sqlite3.connect(tmp_path / "home" / FILE_NAME)
    for table in ("sessions", "segments", "events", "snapshots"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    db.close()


async def test_a_log_is_read_backward_and_by_type(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 4)
    await done(store.fork(forked("a", 3, "b", 3)))
    assert await seqs(store, "b", backward=True) == [6, 5, 4, 3, 2, 1]
    assert await seqs(store, "b", backward=True, limit=4) == [6, 5, 4, 3]
    assert await seqs(store, "b", backward=True, before=5, after=1) == [4, 3, 2]
    assert await seqs(store, "b", limit=4, after=1, before=9) == [2, 3, 4, 5]
    other = Append(6, row("b", 7), (Record(7, "other", b"{}"),))
    await done(store.append(other))
    assert await seqs(store, "b", types=("other", "none")) == [7]
    assert await seqs(store, "b", types=("type",), backward=True, limit=2) == [6, 5]
    assert await seqs(store, "b", types=()) == []


async def test_a_snapshot_stands_for_what_is_before_it(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 2)
    for head in (2, 3):
        change = msgspec.structs.replace(append("a", head), snapshot=b"at %d" % (head + 1))
        await done(store.append(change))
    await done(store.append(append("a", 4)))
    assert await done(store.load("a")) == Log(row("a", 5), b"at 4", list(records(5, 5)))
    assert await done(store.whole("a")) == Log(row("a", 5), None, list(records(1, 5)))
    await done(store.fork(forked("a", 4, "late")))
    await done(store.fork(forked("a", 3, "early")))
    late, early = await done(store.load("late")), await done(store.load("early"))
    assert late is not None
    assert early is not None
    assert (late.snapshot, [r.seq for r in late.records]) == (b"at 4", [5])
    assert (early.snapshot, [r.seq for r in early.records]) == (None, [1, 2, 3, 4])
    assert await done(store.load("a", 3)) == Log(row("a", 5), None, list(records(1, 3)))
    assert await done(store.load("late", 4)) == Log(late.row, b"at 4", [])
    await rewound(store, "a", 5, 3)
    back = await done(store.load("a"))
    assert back is not None
    assert (back.snapshot, [r.seq for r in back.records]) == (None, [1, 2, 3, 6])


@pytest.mark.parametrize(
    ("events", "more_bytes", "at_once"),
    [(1, 0, True), (8, 0, True), (9, 0, False), (2, 5000, False)],
)
async def test_a_short_log_is_loaded_at_once_and_a_long_one_by_a_thread(
    open_store: Open,
    monkeypatch: pytest.MonkeyPatch,
    events: int,
    more_bytes: int,
    at_once: bool,
) -> None:
    monkeypatch.setattr(limits, "LIGHT_EVENTS", 8)
    monkeypatch.setattr(limits, "LIGHT_BYTES", 4000)
    store = open_store()
    await done(store.create(append("s", 0, events)))
    large = Record(events + 1, "type", b'{"n":"%s"}' % (b"x" * more_bytes))
    if more_bytes:
        await done(store.append(Append(events, row("s", events + 1), (large,))))
    loaded = store.load("s")
    assert loaded.done() is at_once
    log = await done(loaded)
    assert log is not None
    assert len(log.records) == events + bool(more_bytes)


async def test_a_log_of_many_segments_or_a_large_snapshot_is_loaded_by_a_thread(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIGHT_SEGMENTS", 3)
    monkeypatch.setattr(limits, "LIGHT_BYTES", 1000)
    store = open_store()
    await done(store.create(append("s0", 0)))
    for number in range(1, 4):
        forked = append(f"s{number}", number)
        await done(store.fork(Fork(f"s{number - 1}", 1000, number, forked)))
    loading = [store.load(f"s{number}") for number in range(4)]
    assert [one.done() for one in loading] == [True, True, True, False]
    log = await done(loading[-1])
    assert log is not None
    assert log.records == list(records(1, 4))
    large = Append(1, row("s0", 2), records(2, 2), snapshot=b"x" * 1001)
    await done(store.append(large))
    loaded = store.load("s0")
    assert not loaded.done()
    log = await done(loaded)
    assert log is not None
    assert log.snapshot == b"x" * 1001


async def test_a_large_snapshot_is_stored_by_a_thread(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await done(store.create(append("a", 0)))
    by: list[str] = []
    real = sqlite._add

    def noted(db: sqlite3.Connection, added: Append, segment: int) -> None:
        by.append(threading.current_thread().name)
        real(db, added, segment)

    monkeypatch.setattr(sqlite, "_add", noted)
    for seq, size in ((2, 10), (3, limits.LIGHT_BYTES + 1)):
        added = Append(seq - 1, row("a", seq), records(seq, seq), snapshot=b"x" * size)
        await done(store.append(added))
    assert by == [threading.main_thread().name, "store-writer"]


async def test_a_fork_may_have_a_snapshot_of_its_own(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 4)
    fork = forked("a", 3, "b")
    own = msgspec.structs.replace(fork.append, snapshot=b"own")
    await done(store.fork(msgspec.structs.replace(fork, append=own)))
    assert await done(store.load("b")) == Log(own.row, b"own", [])
    assert await done(store.load("b", 3)) == Log(own.row, None, list(records(1, 3)))
    assert await done(store.load("a")) == Log(row("a", 4), None, list(records(1, 4)))


async def test_an_event_is_found_by_its_id(open_store: Open) -> None:
    store = open_store()
    made = tuple(Record(n, "type", b'{"id":"e%d"}' % n) for n in range(1, 6))
    await done(store.create(Append(0, row("a", 5), made)))
    await done(store.fork(forked("a", 3, "b")))
    assert await done(store.find("a", "e5")) == 5
    assert await done(store.find("b", "e3")) == 3
    assert await done(store.find("b", "e4")) is None
    assert await done(store.find("never", "e1")) is None
    await rewound(store, "a", 5, 4)
    assert await done(store.find("a", "e5")) is None


OP = st.tuples(
    st.sampled_from(["create", "append", "fork", "rewind", "delete", "remove"]),
    st.sampled_from("abcd"),
    st.sampled_from("abcd"),
    st.integers(0, 20),
)


@given(st.lists(OP, max_size=25))
@settings(max_examples=60, deadline=None)
def test_forks_and_rewinds_are_as_if_each_log_were_copied(ops: list[Any]) -> None:
    model: dict[str, list[Record]] = {}
    heads: dict[str, int] = {}
    left: list[int] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(open_database(Path(folder) / FILE_NAME)) as db,
    ):
        patch.setattr(limits, "REMOVED_BYTES", 2 * limits.KIB)
        for number, (kind, name, other, place) in enumerate(ops):
            left += _both(db, model, heads, kind, name, other, place, b'{"n":%d}' % number)
            if kind == "remove":
                left = logs.remove(db, left)
            for each, log in model.items():
                found = sqlite._load(db, each)
                assert found is not None
                assert found.records == log
        for each in list(model):
            left += sqlite._delete(db, [each])[1]
        assert set(left) >= set(logs.given_up(db))
        while left:
            left = logs.remove(db, left)
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM segments").fetchone() == (0,)


def _both(
    db: sqlite3.Connection,
    model: dict[str, list[Record]],
    heads: dict[str, int],
    kind: str,
    name: str,
    other: str,
    place: int,
    body: bytes,
) -> list[int]:
    """Do something to the database, and to lists; the segments that have to be removed then."""
    if kind == "create" and name not in model:
        model[name], heads[name] = [Record(1, "type", body)], 1
        sqlite._create(db, Append(0, row(name, 1), tuple(model[name])))
    if name not in model:
        return []
    head, log = heads[name], model[name]
    new = Record(head + 1, "type", body)
    kept = log[place % len(log)].seq
    if kind == "append":
        sqlite._append(db, Append(head, row(name, head + 1), (new,)))
        model[name], heads[name] = [*log, new], head + 1
    elif kind == "rewind":
        model[name] = [*(r for r in log if r.seq <= kept), new]
        heads[name] = head + 1
        return sqlite._rewind(db, Append(head, row(name, head + 1), (new,), kept))
    elif kind == "fork" and other not in model:
        first = Record(kept + 1, "type", body)
        sqlite._fork(db, Fork(name, 1000, kept, Append(kept, row(other, kept + 1), (first,))))
        model[other] = [*(r for r in log if r.seq <= kept), first]
        heads[other] = kept + 1
    elif kind == "delete":
        del model[name], heads[name]
        return sqlite._delete(db, [name])[1]
    return []


# Lists and search


async def test_a_list_comes_in_pages_that_nothing_shifts(open_store: Open) -> None:
    store = open_store()
    for number in range(5):
        await done(store.create(append(f"s{number}", 0, modified_ms=10 + number // 2)))
    first = await done(store.rows(ListQuery(limit=2)))
    assert [found.id for found in first.rows] == ["s4", "s3"]
    await done(store.create(append("new", 0, modified_ms=99)))
    await done(store.delete(["s3"]))
    second = await done(store.rows(ListQuery(limit=2, after=first.cursor)))
    assert [found.id for found in second.rows] == ["s2", "s1"]
    last = await done(store.rows(ListQuery(limit=2, after=second.cursor)))
    assert last == Page([row("s0", 1, modified_ms=10)], None)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, "abcd"),
        ({"archived": True}, "b"),
        ({"archived": False}, "acd"),
        ({"named": True}, "bc"),
        ({"prefix": "a"}, "a"),
        ({"pending": True}, "d"),
        ({"metadata": {"k": "v"}}, "cd"),
        ({"metadata": {"k": "v", "n": 1}}, "d"),
        ({"metadata": {'dotted.key "x': True}}, "c"),
        ({"metadata": {"k": "v"}, "named": True, "archived": False}, "c"),
        ({"order": "created"}, "dcba"),
        ({"order": "title"}, "dacb"),
        ({"order": "id", "limit": 9}, "abcd"),
    ],
)
async def test_a_list_has_what_was_asked_for(
    open_store: Open, wanted: dict[str, Any], ids: str
) -> None:
    store = open_store()
    rows: tuple[dict[str, Any], ...] = (
        {"modified_ms": 10, "title": "B"},
        {"modified_ms": 20, "title": "D", "named": True, "archived": True},
        {
            "modified_ms": 30,
            "title": "C",
            "named": True,
            "metadata": json.dumps({"k": "v", 'dotted.key "x': True}),
        },
        {"modified_ms": 40, "metadata": '{"k":"v","n":1}', "pending": 2},
    )
    for number, (name, more) in enumerate(zip("abcd", rows, strict=True)):
        await done(store.create(append(name, 0, created_ms=number, **more)))
    found = [each.id for each in await listed(store, **wanted)]
    assert found == list(ids) if "order" in wanted else set(found) == set(ids)


def spoken(seq: int, text: str, kind: str = "user.message") -> Record:
    body = json.dumps({"id": f"e{seq}", "data": {"content": text}})
    return Record(seq, kind, body.encode())


async def test_a_log_is_spoken_in_while_a_message_of_a_user_is_left_in_it(
    open_store: Open,
) -> None:
    store = open_store()
    for session_id, kind in (("a", "user.message"), ("b", "assistant.message")):
        first = append(session_id, 0, 2)
        said = (first.records[0], spoken(2, "words", kind))
        await done(store.create(msgspec.structs.replace(first, records=said)))
    await done(store.fork(forked("a", 1, "fork-before")))
    await done(store.fork(forked("a", 2, "fork-behind")))
    await done(store.fork(forked("fork-behind", 3, "fork-of-the-fork")))

    async def found(spoken_in: bool) -> set[str]:
        return {each.id for each in await listed(store, spoken_in=spoken_in)}

    assert await found(True) == {"a", "fork-behind", "fork-of-the-fork"}
    assert await found(False) == {"b", "fork-before"}
    await rewound(store, "a", 2, keep_to=1)
    assert await found(True) == {"fork-behind", "fork-of-the-fork"}


def test_each_log_is_looked_through_by_itself(tmp_path: Path) -> None:
    with contextlib.closing(open_database(tmp_path / FILE_NAME)) as db:
        query = f"SELECT id FROM sessions WHERE {rows._SPOKEN_IN}"
        plan = [step[-1] for step in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert any("events USING INTEGER PRIMARY KEY" in step for step in plan)
    assert not any("AUTOMATIC" in step for step in plan)


async def said_in(store: Store, text: str) -> list[tuple[str, int]]:
    hits, cursor = await done(store.search(text, 50, None))
    assert cursor is None
    return sorted((hit.row.id, hit.seq) for hit in hits)


async def test_a_search_finds_all_that_is_stored(open_store: Open) -> None:
    store = open_store()
    first = (spoken(1, "a red apple"), spoken(2, "a Pear", "assistant.message"))
    await done(store.create(Append(0, row("a", 2), first)))
    assert await said_in(store, "apple") == [("a", 1)]
    more = (spoken(3, "red pears, sweet"), spoken(4, "red pear", "session.info"))
    await done(store.append(Append(2, row("a", 4), more)))
    assert await said_in(store, "pear") == [("a", 2), ("a", 3)]
    assert await said_in(store, "swee red") == []  # only the last word may be a beginning
    assert await said_in(store, "pears red") == [("a", 3)]
    hits, _ = await done(store.search("apple", 1, None))
    assert hits[0].snippet == "a red \x02apple\x03"
    assert (hits[0].event_id, hits[0].type) == ("e1", "user.message")


@pytest.mark.parametrize(
    ("asked", "snippet"),
    [
        ("heron", " tree tree \x02Heron\x03 tree tree "),
        ("her", " tree tree \x02Heron\x03 tree tree "),
        ("eron", None),
        ("tree", "\x02tree\x03 tree "),
        ("heron egret", None),
        ("zurich", "tree tree "),
        ("Zürich!", " tree tree \x02Zürich\x03"),
    ],
)
async def test_the_snippet_of_a_long_text_is_around_what_was_found(
    open_store: Open, asked: str, snippet: str | None
) -> None:
    store = open_store()
    text = f"{'tree ' * 10_000}Heron {'tree ' * 10_000}Zürich"
    await done(store.create(Append(0, row("a", 1), (spoken(1, text),))))
    hits, _ = await done(store.search(asked, 1, None))
    if snippet is None:
        assert hits == []
    else:
        assert snippet in hits[0].snippet
        assert len(hits[0].snippet) < 500


async def test_words_that_are_said_again_and_again_are_found_in_the_time_of_one(
    open_store: Open,
) -> None:
    """SQLite weighs each of the places against all others: of all of these, for hours."""
    store = open_store()
    said = (spoken(1, "error " * 200_000), spoken(2, "an Error at last"))
    await done(store.create(Append(0, row("a", 2), said)))
    asked = "error Error ERROR " * 50
    hits, _ = await done(store.search(asked, 50, None))
    assert {hit.seq: hit.snippet.count(MARKS[0]) for hit in hits} == {1: 1, 2: 1}


async def test_a_search_knows_forks_rewinds_and_deletions(open_store: Open) -> None:
    store = open_store()
    log = tuple(spoken(n, f"word number{n}") for n in range(1, 6))
    await done(store.create(Append(0, row("a", 5), log)))
    await done(store.fork(forked("a", 3, "b")))
    assert await said_in(store, "number3") == [("a", 3), ("b", 3)]
    assert await said_in(store, "number4") == [("a", 4)]
    await rewound(store, "a", 5, 2)
    assert await said_in(store, "word") == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]
    await done(store.delete(["a"]))
    assert await said_in(store, "word") == [("b", 1), ("b", 2), ("b", 3)]
    await done(store.delete(["b"]))
    assert await said_in(store, "word") == []


async def test_hits_come_in_pages(open_store: Open) -> None:
    store = open_store()
    log = tuple(spoken(n, "word") for n in range(1, 6))
    await done(store.create(Append(0, row("a", 5), log)))
    seen: list[int] = []
    cursor: str | None = None
    while True:
        hits, cursor = await done(store.search("word", 2, cursor))
        seen += [hit.seq for hit in hits]
        if cursor is None:
            break
        assert len(hits) == 2
    assert sorted(seen) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_what_was_rewound_takes_no_place_on_a_page_of_hits(
    open_store: Open, limit: int
) -> None:
    store = open_store()
    best = tuple(spoken(n, "word") for n in range(3, 40))
    log = (spoken(1, "a word among others"), spoken(2, "another word among others"), *best)
    await done(store.create(Append(0, row("a", 39), log)))
    await rewound(store, "a", 39, 2)
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(2 // limit or 1):
        hits, cursor = await done(store.search("word", limit, cursor))
        seen += [hit.seq for hit in hits]
    assert cursor is None
    assert sorted(seen) == [1, 2]


async def test_what_is_said_marks_nothing_in_a_snippet(open_store: Open) -> None:
    store = open_store()
    text = f"a {MARKS[0]}word{MARKS[1]} that{MARKS[1]} is {MARKS[0]}found"
    await done(store.create(Append(0, row("a", 1), (spoken(1, text),))))
    ((hit,), _) = await done(store.search("that", 1, None))
    assert hit.snippet == f"a  word  {MARKS[0]}that{MARKS[1]}  is  found"


async def test_a_search_finds_what_was_to_be_stored_before_it(open_store: Open) -> None:
    store = open_store()
    created = store.create(Append(0, row("a", 1), (spoken(1, "word"),)))
    appended = store.append(Append(1, row("a", 2), (spoken(2, "word"),)))
    assert await said_in(store, "word") == [("a", 1), ("a", 2)]
    assert created.done()
    assert appended.done()


async def test_others_write_and_read_while_a_search_runs(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = open_store(), open_store()
    await done(store.create(Append(0, row("a", 1), (spoken(1, "word"),))))
    running, go_on, find = threading.Event(), threading.Event(), search.find

    def slow(*arguments: Any) -> Any:
        found = find(*arguments)
        running.set()
        assert go_on.wait(20)
        return found

    monkeypatch.setattr(search, "find", slow)
    searched = store.search("word", 5, None)
    try:
        assert await anyio.to_thread.run_sync(running.wait, 20)
        await done(store.append(Append(1, row("a", 2), (spoken(2, "word"),))))
        await done(store.delete(["never"]))
        await filled(other, "b", 1)
        read = await done(store.read("a", Range()))
        assert len(read) == 2
        assert not searched.done()
    finally:
        go_on.set()
    hits, _ = await done(searched)
    assert [hit.seq for hit in hits] == [1]


# The SQLite store


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three short events are indexed at once."""
    monkeypatch.setattr(limits, "INDEXED_BYTES", 3 * limits.KIB)


def words_in_index(home: Path) -> int:
    """The messages of which the index has something."""
    with contextlib.closing(sqlite3.connect(home / FILE_NAME)) as db:
        (messages,) = db.execute("SELECT count(*) FROM said_docsize").fetchone()
        found = db.execute("SELECT count(*) FROM said WHERE said MATCH 'word'").fetchone()
    assert found == (messages,)
    return int(messages)


def said(first: int, last: int, text: str = "word") -> tuple[Record, ...]:
    return tuple(spoken(seq, text) for seq in range(first, last + 1))


@pytest.mark.usefixtures("pieces")
async def test_a_long_log_is_indexed_in_pieces_and_found_whole(
    open_store: OpenSqlite, home: Path
) -> None:
    store = open_store()
    await done(store.create(Append(0, row("a", 7), said(1, 7))))
    assert await done(store.index())
    assert words_in_index(home) == 3
    await done(store.append(Append(7, row("a", 8), said(8, 8))))
    assert await done(store.index())
    assert words_in_index(home) == 6
    assert not await done(store.index())
    assert words_in_index(home) == 8
    assert not await done(store.index())
    large = said(9, 9, "word " * limits.KIB)
    await done(store.append(Append(8, row("a", 13), (*large, *said(10, 13)))))
    assert await done(store.index())
    assert words_in_index(home) == 9, "a large event is a piece of its own"
    assert await said_in(store, "word") == [("a", seq) for seq in range(1, 14)]


@pytest.mark.usefixtures("pieces")
async def test_short_logs_are_indexed_together(open_store: OpenSqlite, home: Path) -> None:
    store = open_store()
    for name in ("a", "b", "c", "d"):
        await done(store.create(Append(0, row(name, 1), said(1, 1))))
    assert await done(store.index())
    assert words_in_index(home) == 3
    assert not await done(store.index())
    assert words_in_index(home) == 4


@pytest.mark.usefixtures("pieces")
async def test_what_is_to_be_stored_gets_in_between_the_pieces(open_store: OpenSqlite) -> None:
    store = open_store()
    await done(store.create(Append(0, row("a", 60), said(1, 60))))
    searched = store.search("word", 90, None)
    await done(store.create(append("b", 0)))
    assert not searched.done()
    assert len((await done(searched))[0]) == 60


@pytest.mark.usefixtures("pieces")
async def test_a_log_that_is_indexed_in_part_can_be_left_and_deleted(
    open_store: OpenSqlite, home: Path
) -> None:
    store = open_store()
    await done(store.create(Append(0, row("a", 9), said(1, 9))))
    assert await done(store.index())
    await rewound(store, "a", 9, 5)
    assert words_in_index(home) == 3, "a rewind indexes nothing"
    assert await said_in(store, "word") == [("a", seq) for seq in range(1, 6)]
    await done(store.create(Append(0, row("b", 9), said(1, 9))))
    assert await done(store.index())
    await done(store.delete(["a", "b"]))
    assert words_in_index(home) == 0


# What is removed in pieces


@pytest.fixture
def removing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A piece takes two events, and the next one comes when the store has nothing else to do."""
    monkeypatch.setattr(limits, "REMOVED_BYTES", 2 * limits.KIB)
    monkeypatch.setattr(limits, "REMOVE_PAUSE_S", 0)
    return monkeypatch


def rows_of(home: Path) -> tuple[int, ...]:
    """How many rows the tables of logs have."""
    with contextlib.closing(sqlite3.connect(home / FILE_NAME)) as db:
        return tuple(
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("segments", "events", "snapshots", "said_docsize")
        )


async def until_removed(store: Store, home: Path, wanted: tuple[int, ...]) -> None:
    """Others store something meanwhile, and are not held up."""
    for number in range(200):
        await done(store.create(append(f"new{number}", 0)))
        await done(store.delete([f"new{number}"]))
        if rows_of(home) == wanted:
            return
    raise AssertionError(f"{rows_of(home)} instead of {wanted}")


async def test_a_long_log_is_gone_at_once_and_removed_in_pieces(
    open_store: OpenSqlite, home: Path, removing: pytest.MonkeyPatch
) -> None:
    store = open_store()
    long = said(1, 50)
    await done(store.create(Append(0, row("a", 50), long)))
    await done(store.search("word", 5, None))
    freed = await done(store.delete(["a"]))
    assert freed == {"a": sum(len(record.body) for record in long)}
    assert await done(store.row("a")) is None
    await filled(store, "a", 2)
    assert await seqs(store, "a") == [1, 2]
    await until_removed(store, home, (1, 2, 0, 0))
    assert await done(store.search("word", 5, None)) == ([], None)
    assert words_in_index(home) == 0


async def test_what_a_rewind_leaves_behind_is_removed_in_pieces(
    open_store: OpenSqlite, home: Path, removing: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await filled(store, "a", 3)
    await rewound(store, "a", 3, 2)
    await done(store.append(append("a", 4, 40)))
    await rewound(store, "a", 44, 1)
    assert await seqs(store, "a") == [1, 45]
    await until_removed(store, home, (2, 4, 0, 0))
    assert await seqs(store, "a") == [1, 45]


async def test_what_an_ended_process_has_not_removed_is_removed_and_what_a_fork_needs_stays(
    open_store: OpenSqlite, home: Path, removing: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await done(store.create(Append(0, row("a", 20), said(1, 20))))
    await done(store.fork(forked("a", 7, "b")))
    await done(store.append(Append(20, row("a", 40), said(21, 40))))
    await done(store.create(Append(0, row("c", 30), said(1, 30))))
    removing.setattr(limits, "REMOVE_PAUSE_S", 3600)
    await done(store.delete(["a", "c"]))
    assert rows_of(home)[:2] == (3, 40 + 28 + 1), "c is removed in part, and b goes on from a"
    store.close()
    removing.setattr(limits, "REMOVE_PAUSE_S", 0)
    next_one = open_store()
    while await done(next_one.index()):
        pass
    await until_removed(next_one, home, (2, 41, 0, 40))
    assert await seqs(next_one, "b") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert words_in_index(home) == 40
    await done(next_one.delete(["b"]))
    await until_removed(next_one, home, (0, 0, 0, 0))


@pytest.fixture
def database(home: Path) -> Path:
    """The path of a data folder's database, which is not there yet."""
    home.mkdir(mode=0o700)
    return home / FILE_NAME


async def refused(open_store: Open) -> str:
    """What a store that cannot be used says, the same to those who write and who read."""
    store = open_store()
    with pytest.raises(StoreFailed) as writing:
        await done(store.create(append("a", 0)))
    with pytest.raises(StoreFailed):
        await listed(store)
    return writing.value.message


@pytest.mark.parametrize("parent", [1, 2, 99, "'x'"])
async def test_a_piece_of_a_log_that_goes_on_from_none_that_is_older_holds_nobody_up(
    open_store: Open, database: Path, parent: object
) -> None:
    store = open_store()
    await filled(store, "a", 3)
    await done(store.fork(Fork("a", 1000, 2, append("b", 3))))
    logs = {name: await done(store.read(name, Range())) for name in ("a", "b")}
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute(f"UPDATE segments SET parent = {parent}, parent_seq = 3 WHERE id = 1")
        db.commit()
    assert {name: await done(store.read(name, Range())) for name in ("a", "b")} == logs
    assert len(await listed(store, spoken_in=False)) == 2
    assert (await done(store.sizes())).keys() == {"a", "b"}
    assert (await done(store.delete(["b"]))).keys() == {"b"}
    assert await done(store.delete(["a"])) == {"a": size(1, 3)}
    await filled(store, "c")


@pytest.mark.parametrize("damage", ["body = 12345", "body = 'täxt'", "type = x'00'"])
async def test_an_event_of_a_wrong_kind_is_told_and_the_others_are_read(
    open_store: Open, database: Path, damage: str
) -> None:
    store = open_store()
    await filled(store, "a", 3)
    await filled(store, "b")
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute(f"UPDATE events SET {damage} WHERE id = 1 << 31 | 2")
        db.commit()
    asked: list[Future[Any]] = [store.load("a"), store.whole("a"), store.read("a", Range())]
    for each in asked:
        with pytest.raises(StoreFailed, match=r"Event 2 of session a is damaged.*doctor"):
            await done(each)
    assert await done(store.read("a", Range(after=2))) == list(records(3, 3))
    assert (await loaded(store, "b")).row.head == 2


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_starting_touches_no_disk(open_store: Open, home: Path) -> None:
    open_store().close()
    assert not home.exists()


async def test_only_the_user_can_read_the_files(open_store: Open, home: Path) -> None:
    store = open_store()
    await filled(store, "a")
    assert mode_of(home) == 0o700
    found = {path.name: mode_of(path) for path in home.iterdir()}
    assert found[FILE_NAME] == 0o600
    assert set(found.values()) == {0o600}, found


async def test_a_closed_store_leaves_one_file(open_store: Open, home: Path) -> None:
    store = open_store()
    await filled(store, "a")
    await listed(store)
    store.close()
    assert [path.name for path in home.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_a_file_of_a_newer_version_is_refused_and_left(
    open_store: Open, database: Path, journal: str
) -> None:
    db = sqlite3.connect(database)
    db.execute(f"PRAGMA journal_mode = {journal}")
    db.execute("CREATE TABLE of_the_future (x)")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.commit()
    db.close()
    before = database.read_bytes()
    said = await refused(open_store)
    assert "newer version" in said
    assert "--home" in said
    assert database.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left(
    open_store: Open, database: Path
) -> None:
    garbage = b"this is not a database\n" * 500
    database.write_bytes(garbage)
    assert "damaged" in await refused(open_store)
    assert database.read_bytes() == garbage


async def test_a_file_in_the_place_of_the_folder_is_named(open_store: Open, home: Path) -> None:
    home.write_text("a file")
    assert str(home) in await refused(open_store)
    assert home.read_text() == "a file"


async def test_a_folder_in_the_place_of_the_file_is_named(open_store: Open, database: Path) -> None:
    database.mkdir()
    assert str(database) in await refused(open_store)


async def test_a_store_that_failed_to_open_is_tried_again(open_store: Open, home: Path) -> None:
    home.write_text("in the way")
    store = open_store()
    with pytest.raises(StoreFailed):
        await done(store.create(append("a", 0)))
    home.unlink()
    await filled(store, "a")
    assert await done(store.read("a", Range())) == list(records(1, 2))


async def test_a_full_disk_refuses_and_loses_nothing(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await filled(store, "a", 1)
    store.close()
    really_open = open_database

    def small(path: Path) -> sqlite3.Connection:
        db = really_open(path)
        db.execute("PRAGMA max_page_count = 16")
        return db

    monkeypatch.setattr(file, "open_database", small)
    store = open_store()
    big = Append(1, row("a", 2), (Record(2, "type", b"x" * 200_000),))
    waiting: list[Future[Any]] = [store.append(big), store.create(append("b", 0))]
    with pytest.raises(StoreFailed, match="disk space"):
        await done(waiting[0])
    await done(waiting[1])
    assert await done(store.read("a", Range())) == list(records(1, 1))
    await done(store.append(append("a", 1)))


async def test_a_lock_that_is_held_for_too_long_is_told_to_all_at_once(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_BUSY_TIMEOUT_S", 0.2)
    store = open_store()
    await filled(store, "a", 1)
    other = sqlite3.connect(home / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        # The first keeps the writer waiting; the others are one group behind it. Were each tried
        # alone, they would take a hundred times the patience, and this bound is below that.
        waiting = [store.create(append(f"s{number}", 0)) for number in range(100)]
        with anyio.fail_after(15):
            for future in waiting:
                with pytest.raises(StoreFailed, match="try again"):
                    await asyncio.wrap_future(future)
        assert await done(store.read("a", Range())) == list(records(1, 1))
    finally:
        other.execute("ROLLBACK")
        other.close()
    await done(store.append(append("a", 1)))


async def test_who_looks_into_the_database_takes_nothing_away(open_store: Open, home: Path) -> None:
    store = open_store()
    await filled(store, "a", 1)
    assert await done(store.read("a", Range()))  # both connections are open now
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT 1 FROM events')"
    await anyio.run_process([sys.executable, "-c", look, str(home / FILE_NAME)])
    assert (home / f"{FILE_NAME}-wal").exists()
    await done(store.append(append("a", 1)))
    with contextlib.closing(sqlite3.connect(home / FILE_NAME)) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (2,)


async def test_many_writes_share_a_commit(open_store: Open, home: Path) -> None:
    store = open_store()
    await filled(store, "a", 1)
    other = sqlite3.connect(home / FILE_NAME, isolation_level=None)
    commits: list[int] = []
    other.execute("BEGIN IMMEDIATE")
    waiting = [store.create(append(f"s{number}", 0)) for number in range(100)]
    before = other.execute("PRAGMA data_version").fetchone()[0]
    other.execute("ROLLBACK")
    for future in waiting:
        await done(future)
        commits.append(other.execute("PRAGMA data_version").fetchone()[0])
    other.close()
    assert commits[-1] != before
    assert len(set(commits)) <= 3


async def test_the_write_ahead_log_has_checkpoints_as_it_grows(
    open_store: Open, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAL_CHANGES", 60)
    monkeypatch.setattr(limits, "WAL_BYTES", 1024)  # and not lengthened before
    store = open_store()
    await filled(store, "s", 1)
    longest = 0
    for behind in range(1, 3001, 30):
        begun = [store.append(append("s", head)) for head in range(behind, behind + 30)]
        await done(begun[-1])
        await done(store.row("s"))  # reads come one after the other, and a checkpoint is one
        longest = max(longest, database.with_name(f"{FILE_NAME}-wal").stat().st_size)
    assert 0 < longest < 200_000
    assert (await loaded(store, "s")).row.head == 3001


# Who runs what


def test_an_owner_lives_until_it_is_closed(home: Path) -> None:
    mine, theirs = Owners(home / "run"), Owners(home / "run")
    assert not mine.alive(theirs.me)
    theirs.claim()
    theirs.claim()
    assert mine.alive(theirs.me)
    assert mine.alive(mine.me)
    theirs.close()
    theirs.close()
    assert not mine.alive(theirs.me)
    assert list((home / "run").iterdir()) == []


def test_the_marks_of_the_dead_are_swept(home: Path) -> None:
    (home / "run").mkdir(parents=True)
    (home / "run" / "dead.owner").touch()
    living, mine = Owners(home / "run"), Owners(home / "run")
    living.claim()
    mine.claim()
    names = {path.name for path in (home / "run").iterdir()}
    assert names == {f"{living.me}.owner", f"{mine.me}.owner"}
    assert mine.alive(living.me)
    living.close()
    mine.close()


def test_a_mark_is_for_the_user_alone(home: Path) -> None:
    mine = Owners(home / "run")
    mine.claim()
    assert mode_of(home / "run") == 0o700
    assert mode_of(home / "run" / f"{mine.me}.owner") == 0o600
    mine.close()


def test_a_mark_that_cannot_be_made_is_a_failure_of_the_store(home: Path) -> None:
    home.write_text("in the way")
    with pytest.raises(StoreFailed, match="data folder"):
        Owners(home / "run").claim()


@pytest.fixture
def creating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log is stored two events at a time."""
    monkeypatch.setattr(limits, "CREATED_BYTES", 2 * limits.KIB, raising=False)


async def test_a_long_log_is_stored_in_pieces_and_what_others_store_comes_between(
    open_store: OpenSqlite, creating: None
) -> None:
    store = open_store()
    await filled(store, "a", 1)
    order: list[str] = []
    long = store.create(Append(0, row("long", 50), said(1, 50)))
    long.add_done_callback(lambda _: order.append("long"))
    with asking(2):
        for head in (1, 2, 3):
            await done(store.append(append("a", head)))
            order.append("a")
            assert await done(store.row("long")) is None, "part of it is shown"
    await done(long)
    assert order == ["a", "a", "a", "long"]
    assert await seqs(store, "long") == [*range(1, 51)]
    hits, _ = await done(store.search("word", 100, None))
    assert len(hits) == 50


async def test_what_is_left_of_a_long_log_whose_id_is_taken_meanwhile_is_removed(
    open_store: OpenSqlite, home: Path, creating: None, removing: pytest.MonkeyPatch
) -> None:
    store = open_store()
    long = store.create(Append(0, row("a", 50), said(1, 50)))
    with asking(2):
        await filled(store, "a", 2)
    with pytest.raises(AlreadyThere):
        await done(long)
    await until_removed(store, home, (1, 2, 0, 0))


async def test_a_long_log_that_another_process_takes_for_given_up_is_stored_all_the_same(
    open_store: OpenSqlite, home: Path, creating: None, removing: pytest.MonkeyPatch
) -> None:
    store, other = open_store(), open_store()
    await filled(other, "b", 1)
    long = store.create(Append(0, row("a", 50), said(1, 50)))
    while not long.done():
        await done(other._writer.submit(lambda db: logs.remove(db, logs.given_up(db)), heavy=True))
        await anyio.sleep(0)
    await done(long)
    assert await seqs(store, "a") == [*range(1, 51)]
    hits, _ = await done(store.search("word", 100, None))
    assert len(hits) == 50
    await until_removed(store, home, (2, 51, 0, 50))


async def test_what_another_process_saw_as_given_up_stays_once_a_log_has_it(
    open_store: OpenSqlite, creating: None
) -> None:
    store, other = open_store(), open_store()
    await filled(other, "b", 1)
    long = store.create(Append(0, row("a", 50), said(1, 50)))
    seen: list[int] = []
    while not long.done():
        seen += await done(other._reader.submit(logs.given_up))
        await anyio.sleep(0)
    await done(long)
    assert seen, "nobody looked in time"
    await done(other._writer.submit(lambda db: logs.remove(db, sorted(set(seen))), heavy=True))
    assert await seqs(store, "a") == [*range(1, 51)]


async def test_of_a_long_message_so_much_is_indexed_at_once_as_others_can_wait_for(
    open_store: OpenSqlite, home: Path, removing: pytest.MonkeyPatch
) -> None:
    store = open_store()
    words = " ".join(f"w{number}" for number in range(4 * 256 * 1024 // 6))
    long = Append(0, row("a", 1), (spoken(1, f"heron {words} lake"),))
    await done(store.create(long))
    assert len((await done(store.search("heron", 5, None)))[0]) == 1
    with contextlib.closing(sqlite3.connect(home / FILE_NAME)) as db:
        assert sum(len(block) for (block,) in db.execute("SELECT block FROM said_data")) < 2_000_000
    await done(store.delete(["a"]))
    await until_removed(store, home, (0, 0, 0, 0))
    assert words_in_index(home) == 0
