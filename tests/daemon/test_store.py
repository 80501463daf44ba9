"""What a store keeps, whichever it is; then what the SQLite store keeps besides.

The first half is the conformance suite: it is written against `store.base.Store` and the fixture
`open_store`, so that another store is tested by another way of opening it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.store import sqlite
from tertuliad.store.base import (
    AlreadyThere,
    Append,
    HeadMoved,
    ListFilter,
    Log,
    Record,
    Row,
    Store,
)
from tertuliad.store.owners import Owners
from tertuliad.store.sqlite import FILE_NAME, SCHEMA_VERSION, SqliteStore

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Open = Callable[[], Store]


@pytest.fixture
async def open_store(tmp_path: Path) -> Any:
    """Opens stores on one place, as several processes do; all are closed at the end."""
    opened: list[Store] = []
    call_soon = asyncio.get_running_loop().call_soon_threadsafe

    def open_one() -> Store:
        opened.append(SqliteStore(tmp_path / "home", call_soon))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


async def done(future: Future[T]) -> T:
    """What a store's future gives, within a bound."""
    with anyio.fail_after(20):
        return await asyncio.wrap_future(future)


def row(session_id: str, head: int, **more: Any) -> Row:
    return Row(
        **{"id": session_id, "created_ms": 1000, "modified_ms": 1000 + head, "head": head, **more}
    )


def records(first: int, last: int) -> tuple[Record, ...]:
    return tuple(Record(seq, "type", b'{"n":%d}' % seq) for seq in range(first, last + 1))


def append(session_id: str, behind: int, count: int = 1, **more: Any) -> Append:
    head = behind + count
    return Append(behind, row(session_id, head, **more), records(behind + 1, head))


async def filled(store: Store, session_id: str, events: int = 2) -> None:
    await done(store.create(append(session_id, 0, events)))


# The conformance suite


async def test_what_was_created_is_there(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 3)
    assert await done(store.load("a")) == Log(row("a", 3), list(records(1, 3)))
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
    assert await done(store.read("a", 0, None)) == list(records(1, 2))


async def test_ids_differ_by_case(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a")
    await filled(store, "A")
    assert {found.id for found in await done(store.rows(ListFilter()))} == {"a", "A"}


async def test_an_append_stands_behind_the_head_it_names(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a", 2)
    await done(store.append(append("a", 2, 3, title="new")))
    found = await done(store.load("a"))
    assert found == Log(row("a", 5, title="new"), list(records(1, 5)))


@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_an_append_behind_another_head_is_refused_whole(
    open_store: Open, behind: int
) -> None:
    store = open_store()
    await filled(store, "a", 2)
    with pytest.raises(HeadMoved):
        await done(store.append(append("a", behind, 2, title="new")))
    assert await done(store.load("a")) == Log(row("a", 2), list(records(1, 2)))


async def test_an_append_to_no_session_is_refused(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(HeadMoved):
        await done(store.append(append("never", 0)))
    await filled(store, "a")
    await done(store.delete("a"))
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
    heads = {found.id: found.head for found in await done(store.rows(ListFilter()))}
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
    heads = {found.id: found.head for found in await done(store.rows(ListFilter()))}
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
    assert await done(store.delete("a")) is True
    assert await done(store.delete("a")) is False
    assert await done(store.load("a")) is None
    assert await done(store.row("a")) is None
    assert await done(store.read("a", 0, None)) == []
    await filled(store, "a", 1)
    assert await done(store.load("a")) == Log(row("a", 1), list(records(1, 1)))
    assert await done(store.read("b", 0, None)) == list(records(1, 1))


@pytest.mark.parametrize(
    ("after", "limit", "first", "last"),
    [(0, None, 1, 9), (0, 4, 1, 4), (4, 4, 5, 8), (8, 4, 9, 9), (9, 4, 1, 0), (0, 0, 1, 0)],
)
async def test_a_log_is_read_in_pages(
    open_store: Open, after: int, limit: int | None, first: int, last: int
) -> None:
    store = open_store()
    await filled(store, "a", 9)
    assert await done(store.read("a", after, limit)) == list(records(first, last))


async def test_the_list_begins_with_what_was_modified_last(open_store: Open) -> None:
    store = open_store()
    assert await done(store.rows(ListFilter())) == []
    assert await done(store.last_id()) is None
    for name, modified in (("a", 30), ("b", 10), ("c", 20), ("d", 20)):
        await done(store.create(append(name, 0, modified_ms=modified)))
    assert [found.id for found in await done(store.rows(ListFilter()))] == ["a", "d", "c", "b"]
    assert await done(store.last_id()) == "a"
    await done(store.append(append("b", 1, modified_ms=40)))
    assert await done(store.last_id()) == "b"


async def test_the_list_is_filtered_by_folder(open_store: Open) -> None:
    store = open_store()
    for name, cwd in (("a", "/x"), ("b", "/y"), ("c", None), ("d", "/x")):
        await done(store.create(append(name, 0, cwd=cwd)))
    found = await done(store.rows(ListFilter(cwd="/x")))
    assert {each.id for each in found} == {"a", "d"}
    assert await done(store.rows(ListFilter(cwd="/"))) == []


async def test_what_was_answered_is_there_after_reopening(open_store: Open) -> None:
    first = open_store()
    await filled(first, "a", 2)
    first.close()
    assert await done(open_store().read("a", 0, None)) == list(records(1, 2))


async def test_closing_does_what_was_asked_before(open_store: Open) -> None:
    store = open_store()
    waiting = [store.create(append(f"s{number}", 0)) for number in range(20)]
    store.close()
    for future in waiting:
        await done(future)
    rows: list[Row] = await done(open_store().rows(ListFilter()))
    assert len(rows) == 20


async def test_a_closed_store_says_so(open_store: Open) -> None:
    store = open_store()
    await filled(store, "a")
    store.close()
    store.close()
    with pytest.raises(StoreFailed, match="closed"):
        await done(store.append(append("a", 2)))
    with pytest.raises(StoreFailed, match="closed"):
        await done(store.load("a"))


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
    log = await done(open_store().read("a", 1, None))
    assert [record.seq for record in log] == list(range(2, 102))
    assert {record.seq: record.body for record in log} == won


async def test_of_two_hundred_appends_at_one_head_one_is_taken(open_store: Open) -> None:
    stores = [open_store(), open_store()]
    await filled(stores[0], "a", 1)
    waiting = [stores[number % 2].append(append("a", 1)) for number in range(200)]
    outcomes = [await _outcome(future) for future in waiting]
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, HeadMoved) for outcome in outcomes) == 199
    assert await done(stores[1].read("a", 0, None)) == list(records(1, 2))


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


# The SQLite store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


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
        await done(store.rows(ListFilter()))
    return writing.value.message


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
    await done(store.rows(ListFilter()))
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
    assert await done(store.read("a", 0, None)) == list(records(1, 2))


async def test_a_full_disk_refuses_and_loses_nothing(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await filled(store, "a", 1)
    store.close()
    really_open = sqlite.open_database

    def small(path: Path) -> sqlite3.Connection:
        db = really_open(path)
        db.execute("PRAGMA max_page_count = 16")
        return db

    monkeypatch.setattr(sqlite, "open_database", small)
    store = open_store()
    big = Append(1, row("a", 2), (Record(2, "type", b"x" * 200_000),))
    waiting: list[Future[Any]] = [store.append(big), store.create(append("b", 0))]
    with pytest.raises(StoreFailed, match="disk space"):
        await done(waiting[0])
    await done(waiting[1])
    assert await done(store.read("a", 0, None)) == list(records(1, 1))
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
        assert await done(store.read("a", 0, None)) == list(records(1, 1))
    finally:
        other.execute("ROLLBACK")
        other.close()
    await done(store.append(append("a", 1)))


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
