"""A log that is followed from a cursor: nothing missed and nothing twice, whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tertulia import (
    AsyncClient,
    Client,
    ConnectionLost,
    CursorExpired,
    DaemonFailed,
    Event,
    LogPage,
    SessionNotFound,
)
from tertulia.reading import LogReader
from tests.clients.conftest import BOUND_S, Counted, Served, daemon_on


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


def test_pages_forward_and_backward_are_the_history(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        for prompt in ("one", "two"):
            session.send_and_wait(prompt, BOUND_S)
        wanted = session.messages()
        found: list[Event] = []
        page = session.read_log(limit=3)
        while True:
            found += page.events
            if not page.has_more:
                break
            page = session.read_log(page.cursor, limit=3)
        assert found == wanted
        last = session.read_log(limit=2, backward=True)
        assert list(last.events) == wanted[-2:]
        before = session.read_log(last.cursor, limit=2)
        assert list(before.events) == wanted[-4:-2]
        said = session.read_log(types=["assistant.message"]).events
        assert [event.type for event in said] == ["assistant.message"] * 2
        assert session.read_log(session.tail().cursor).events == ()


def test_a_read_waits_for_what_comes(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        end = session.tail()
        pages: list[LogPage] = []
        reader = threading.Thread(
            target=lambda: pages.append(session.read_log(end.cursor, wait=30.0))
        )
        reader.start()
        noted = session.log("news")
        reader.join(BOUND_S)
        assert [event.id for event in pages[0].events] == [noted]


def test_a_follower_sees_the_past_and_what_comes(home: Path) -> None:
    with Client.spawn(home=home) as client, client.create_session() as session:
        session.send_and_wait("one", BOUND_S)
        past = session.messages()
        follower = session.follow()
        assert [next(follower) for _ in past] == past
        noted = session.log("news")
        assert next(follower).id == noted
        later = session.follow(follower.cursor)
        noted = session.log("more news")
        assert next(later).id == next(follower).id == noted


def test_a_follower_ends_with_its_session(home: Path) -> None:
    with Client.spawn(home=home) as client:
        closed, deleted = client.create_session("closed"), client.create_session("deleted")
        quiet, loud = closed.follow(closed.tail().cursor), deleted.follow(deleted.tail().cursor)
        closed.close()
        client.delete_session("deleted")
        assert list(quiet) == []
        with pytest.raises(SessionNotFound):
            next(loud)


def test_a_follower_goes_on_where_a_killed_daemon_comes_back(home: Path) -> None:
    socket = home / "run" / "tertuliad.sock"
    first = daemon_on(socket)
    with Client.connect(f"unix:{socket}") as client:
        session = client.create_session("s")
        follower = session.follow()
        seen = [next(follower)]
        seen_all = threading.Event()

        def follow() -> None:
            for event in follower:
                seen.append(event)
                if event.data.get("message") == "the end":
                    break
            seen_all.set()

        thread = threading.Thread(target=follow)
        thread.start()
        session.log("before")
        first.kill()
        first.communicate(timeout=BOUND_S)
        second = daemon_on(socket)
        try:
            with (
                Client.connect(f"unix:{socket}") as other,
                other.resume_session("s") as writer,
            ):
                writer.log("the end")
                assert seen_all.wait(BOUND_S)
                thread.join(BOUND_S)
                assert ids(seen) == ids(writer.messages())
        finally:
            second.terminate()
            second.communicate(timeout=BOUND_S)


def test_a_spawned_daemon_that_died_is_started_anew(home: Path, counted: Counted) -> None:
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.create_session("s")
        followers = [session.follow(session.tail().cursor) for _ in range(2)]
        noted = session.log("kept")
        os.kill(counted.pids[0], signal.SIGKILL)
        assert [next(follower).id for follower in followers] == [noted, noted]
        assert len(counted.pids) == 2
        assert session.send_and_wait("[[say:again]]", BOUND_S).text == "again"


def test_a_follower_whose_daemon_stays_away_gives_up(served: Served) -> None:
    with Client.connect(served.address) as client:
        session = client.create_session("s")
        follower = session.follow(session.tail().cursor, patience=0.2)
        served.process.kill()
        with pytest.raises((ConnectionLost, DaemonFailed)):
            next(follower)


def test_a_follower_of_a_client_that_is_closed_ends_at_once(served: Served) -> None:
    client = Client.connect(served.address)
    session = client.create_session("s")
    follower = session.follow(session.tail().cursor, patience=10 * BOUND_S)
    ended = threading.Event()

    def follow() -> None:
        with pytest.raises(ConnectionLost, match="closed"):
            next(follower)
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    client.close()
    assert ended.wait(BOUND_S)
    thread.join(BOUND_S)


def ends(follower: Iterator[Event]) -> threading.Event:
    """Set once it has ended, in a thread of its own, and has given nothing."""
    ended = threading.Event()

    def follow() -> None:
        assert list(follower) == []
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    return ended


def test_a_session_that_is_closed_while_its_daemon_is_away_is_followed_no_more(
    served: Served,
) -> None:
    with Client.connect(served.address) as client:
        session = client.create_session("s")
        ended = ends(session.follow(session.tail().cursor, patience=10 * BOUND_S))
        served.process.kill()
        served.process.wait(BOUND_S)
        session.close()
        assert ended.wait(BOUND_S)


def test_a_session_that_is_closed_while_it_is_attached_to_again_stays_closed(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.create_session("s")
        follower = session.follow(session.tail().cursor)
        reconnect = client.reconnect

        def closing() -> None:
            reconnect()
            session.close()

        monkeypatch.setattr(client, "reconnect", closing)
        os.kill(counted.pids[0], signal.SIGKILL)
        assert ends(follower).wait(BOUND_S)
        with pytest.raises(SessionNotFound):
            session.tail()
        monkeypatch.undo()
        session.attach()
        noted = session.log("news")
        assert next(follower).id == noted


def test_a_session_that_is_closed_is_followed_no_more_though_another_one_goes_on(
    home: Path,
) -> None:
    with Client.spawn(home=home) as client, client.create_session("s") as other:
        session = client.resume_session("s")
        follower = session.follow(session.tail().cursor)
        session.close()
        noted = other.log("news")
        assert ends(follower).wait(BOUND_S)
        assert next(other.follow(follower.cursor)).id == noted


@pytest.mark.anyio
async def test_the_async_client_follows_no_closed_session_either(
    home: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient.spawn(home=home, command=counted.command) as client:
        session = await client.create_session("s")
        follower = session.follow((await session.tail()).cursor)
        reconnect = client.reconnect

        async def closing() -> None:
            await reconnect()
            await session.close()

        monkeypatch.setattr(client, "reconnect", closing)
        os.kill(counted.pids[0], signal.SIGKILL)
        with anyio.fail_after(BOUND_S):
            assert [event async for event in follower] == []
        with pytest.raises(SessionNotFound):
            await session.tail()


def test_the_cursor_of_another_log_is_refused(home: Path) -> None:
    with Client.spawn(home=home) as client:
        long = client.create_session("s")
        for number in range(5):
            long.log(str(number))
        end = long.tail().cursor
        client.delete_session("s")
        with client.create_session("s") as short:
            assert short.read_log(end).expired
            with pytest.raises(CursorExpired):
                next(short.follow(end))


def test_a_cursor_within_a_page_misses_nothing() -> None:
    reader = LogReader("s", None, None)
    events = tuple(Event(str(number), {}) for number in range(3))
    reader.take(LogPage(events, "c1", True))
    cursors = []
    while reader.next() is not None:
        cursors.append(reader.cursor)
    assert cursors == [None, None, "c1"]
    reader.take(LogPage(events[:2], "c2", False))
    assert reader.cursor == "c1"
    assert reader.page().params["cursor"] == "c2"
