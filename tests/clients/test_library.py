"""Many sessions through the blocking client: found, forked, described, carried, cleared away."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tertulia import (
    Client,
    InvalidParams,
    Session,
    SessionExists,
    SessionNotFound,
    TertuliaError,
    Usage,
)
from tertulia.library import Library
from tertulia.message_queue import MessageQueue
from tertulia.upkeep import Upkeep
from tests.clients.conftest import BOUND_S


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    with Client.spawn(home=home) as made:
        yield made


def talked(client: Client, session_id: str, *prompts: str) -> str:
    """A session in which so much was said; its id."""
    with client.create_session(session_id) as session:
        for prompt in prompts:
            session.send_and_wait(prompt, BOUND_S)
    return session_id


def ids_of(client: Client, **chosen: object) -> list[str]:
    return [info.session_id for info in client.sessions(**chosen)]  # type: ignore[arg-type]


def test_pages_of_any_size_are_the_whole_list(client: Client) -> None:
    for number in range(7):
        client.create_session(f"s{number}").close()
    whole = [info.session_id for info in client.sessions(order="created")]
    assert len(whole) == 7
    for size in (1, 3, 7, 100):
        paged = client.iter_sessions(page_size=size, order="created")
        assert [info.session_id for info in paged] == whole
    first = client.session_page(3, order="created")
    second = client.session_page(3, first.cursor, order="created")
    assert [info.session_id for info in (*first.items, *second.items)] == whole[:6]


def test_a_list_is_chosen_by_what_sessions_are(client: Client, tmp_path: Path) -> None:
    client.create_session("work-1", working_directory=tmp_path).rename("the plan")
    client.create_session("work-2")
    client.create_session("other")
    client.update_metadata("other", {"team": "red", "since": 3})
    client.archive_session("work-2")
    assert ids_of(client, prefix="work") == ["work-1"]
    assert ids_of(client, prefix="work", archived="any") == ["work-2", "work-1"]
    assert ids_of(client, archived=True) == ["work-2"]
    assert ids_of(client, named=True) == ["work-1"]
    assert ids_of(client, cwd=str(tmp_path)) == ["work-1"]
    assert ids_of(client, metadata={"team": "red"}) == ["other"]
    assert ids_of(client, metadata={"team": "blue"}) == []
    named = client.session_info("work-1")
    assert named is not None
    assert (named.named, named.summary) == (True, "the plan")
    assert client.session_info("nobody") is None
    assert client.find_session("oth") == "other"
    assert client.find_session("work") is None


def test_metadata_is_changed_member_by_member(client: Client) -> None:
    client.create_session("s")
    client.update_metadata("s", {"a": 1, "b": {"c": [None]}})
    kept = client.update_metadata("s", {"a": None, "d": "x"})
    assert kept.metadata == {"b": {"c": [None]}, "d": "x"} == client.metadata("s").metadata
    assert client.archive_session("s").archived
    assert not client.archive_session("s", False).archived
    with pytest.raises(SessionNotFound):
        client.metadata("nobody")
    with pytest.raises(InvalidParams, match="bytes"):
        client.update_metadata("s", {"much": "x" * 100_000})


def test_a_search_finds_what_was_said_on_all_its_pages(client: Client) -> None:
    for number in range(5):
        talked(client, f"s{number}", f"[[say:the heron number{number} flies]]")
    hits = list(client.search("heron flies", page_size=2))
    assert {hit.session.session_id for hit in hits} == {f"s{number}" for number in range(5)}
    assert {hit.type for hit in hits} == {"user.message", "assistant.message"}
    hit = next(client.search("number3"))
    assert hit.session.session_id == "s3"
    start, end = hit.snippet.highlights[0]
    assert hit.snippet.text[start:end] == "number3"
    assert list(client.search("pelican")) == []
    page = client.search_page("heron", limit=3)
    assert len(page.items) == 3
    assert page.cursor is not None


def test_a_fork_begins_as_its_source(client: Client) -> None:
    with client.create_session("source", "fake-history") as source:
        source.send_and_wait("one", BOUND_S)
        source.send_and_wait("two", BOUND_S)
        second = source.rewind_points()[1]
        assert second.user_message == "two"
        with source.fork(second.event_id, name="before two", new_session_id="fork") as fork:
            text = fork.send_and_wait("three", BOUND_S).text
            assert "one" in text
            assert "two" not in text
            assert fork.name() == "before two"
    whole = client.fork_session("source")
    info = client.session_info(whole)
    assert info is not None
    assert info.parent_session_id == "source"
    with pytest.raises(SessionExists):
        client.fork_session("source", new_session_id="fork")
    with pytest.raises(SessionNotFound):
        client.fork_session("nobody")
    with pytest.raises(InvalidParams, match="not found"):
        client.fork_session("source", "no-event")


def test_a_session_is_carried_in_a_file(client: Client, home: Path, tmp_path: Path) -> None:
    talked(client, "s", "[[say:carry me]]")
    file = tmp_path / "s.json"
    client.export_to("s", file)
    assert file.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        client.export_to("s", file)
    client.export_to("s", file, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path != home] == ["s.json"]
    with pytest.raises(SessionExists):
        client.import_from(file)
    renamed = client.import_from(file, rename=True)
    assert client.import_from(file, "copy") == "copy"
    wanted = client.export_session("s")["events"]
    for session_id in (renamed, "copy"):
        *events, last = client.export_session(session_id)["events"]
        assert events == wanted
        assert last["event"]["type"] == "tertulia.copied"
    with Client.spawn(home=tmp_path / "elsewhere") as other:
        assert other.import_from(file) == "s"
        assert [hit.session.session_id for hit in other.search("carry")] == ["s", "s"]


def test_the_readme_tells_of_every_call_and_of_no_other() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (table,) = re.findall(r"^\| of a `Client` .*?\n\n", readme, re.MULTILINE | re.DOTALL)
    told = {*re.findall(r"`(\w+)(?:\([^`]*\))?`", table)}
    kinds = (Client, Session, MessageQueue)
    assert all(any(hasattr(kind, name) for kind in kinds) for name in told - {"Client", "Session"})
    offered = {
        name
        for kind in (Library, Upkeep, MessageQueue)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    assert len(offered) > 30
    assert offered - {"do", "attach"} <= told


def test_a_failed_export_leaves_what_was_there(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_session("s")
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for path in (old, new):
        with pytest.raises(OSError, match="No space"):
            client.export_to("s", path, overwrite=True)
    assert old.read_text() == "old"
    assert not new.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["old"]


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00"])
def test_a_file_that_holds_no_json_object_is_told_by_its_name(
    client: Client, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "odd.json"
    file.write_text(text)
    with pytest.raises(TertuliaError, match=r"no exported session in .*odd\.json: "):
        client.import_from(file)


def test_a_document_is_refused_with_the_place_of_its_fault(client: Client) -> None:
    document = client.export_session(talked(client, "s", "hi"))
    with pytest.raises(InvalidParams, match="version"):
        client.import_session({**document, "version": 99}, "t")
    with pytest.raises(InvalidParams, match="events"):
        client.import_session({**document, "events": "none"}, "t")
    assert ids_of(client) == ["s"]


def test_a_text_where_ids_or_words_are_expected_is_refused(client: Client) -> None:
    session = client.create_session("n")
    with pytest.raises(TypeError, match="several ids"):
        client.delete_sessions("n")
    with pytest.raises(TypeError, match="several ids"):
        client.prune(0, dry_run=False, exclude="n")
    with pytest.raises(TypeError, match="a prompt is a str"):
        session.send(b"hello")  # type: ignore[arg-type]
    assert client.session_info("n") is not None


def test_a_prune_says_first_what_would_go(client: Client) -> None:
    for session_id in ("a", "named", "kept"):
        talked(client, session_id, "hi")
    with client.resume_session("named") as named:
        named.rename("keep me")
    would = client.prune(0, exclude=["kept"])
    assert would.dry_run
    assert (would.going, would.deleted) == (("a",), ())
    assert set(would.skipped) == {"named", "kept"}
    assert len(ids_of(client)) == 3
    done = client.prune(0, dry_run=False, exclude=["kept"])
    assert done.deleted == ("a",)
    assert done.freed_bytes > 0
    assert set(client.prune(0, include_named=True).going) == {"named", "kept"}
    assert client.prune(1).candidates == ()


def test_many_are_deleted_at_once(client: Client) -> None:
    for session_id in ("a", "b", "c"):
        talked(client, session_id, "hi")
    assert client.sizes().keys() == {"a", "b", "c"}
    freed = client.delete_sessions(["a", "b", "nobody"])
    assert freed.keys() == {"a", "b"}
    assert all(freed.values())
    assert ids_of(client) == ["c"]


def test_usage_adds_up_over_all_sessions(client: Client) -> None:
    talked(client, "a", "hi", "hi")
    talked(client, "b", "hi")
    client.archive_session("b")
    one, other, both = client.usage("a"), client.usage("b"), client.usage()
    assert (one.turns, other.turns, both.turns) == (2, 1, 3)
    assert both == one + other
    assert both.total.requests == 3
    assert both.total.output_tokens == one.total.output_tokens + other.total.output_tokens > 0
    with pytest.raises(SessionNotFound):
        client.usage("nobody")
    assert Usage().total.requests == 0


def test_a_name_that_is_mistyped_is_told_and_not_passed_over(client: Client) -> None:
    given: dict[str, Any] = {"prefx": "a-"}
    for listing in (client.sessions, client.iter_sessions):
        with pytest.raises(TypeError, match="prefix"):
            list(listing(**given))
    with pytest.raises(TypeError, match="systemmessage"):
        client.create_session("s", systemmessage="x")
    with client.create_session("s", client_name="tests") as session:
        given = {"ifidle": True}
        for send in (session.send, session.stream):
            with pytest.raises(TypeError, match="if_idle"):
                send("x", **given)
        with pytest.raises(TypeError, match="if_idle"):
            session.queue.insert(0, "x", **given)
        assert session.messages()[-1].type == "session.start"
    with pytest.raises(TypeError, match="modl"):
        client.resume_session("s", modl="x")


def test_what_is_deleted_meanwhile_is_not_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    talked(client, "a", "[[say:x]]")
    talked(client, "b", "[[say:x]]")
    rows = client.sessions()
    both = client.usage()
    client.delete_session("a")
    monkeypatch.setattr(client, "iter_sessions", lambda **_: iter(rows))
    assert client.usage().total == client.usage("b").total
    assert client.usage().total != both.total
