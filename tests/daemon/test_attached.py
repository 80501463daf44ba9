"""Attachments become text that the model reads; what cannot be read is said, never raised."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tertuliad import limits
from tertuliad.sessions.attached import prompt_with
from tests.support.pair import pair


def with_one(tmp_path: Path, **item: Any) -> str:
    """What one attachment adds to the prompt, without its tags."""
    text = prompt_with("prompt", [item], str(tmp_path))
    head, _, rest = text.partition("\n\n")
    assert head == "prompt"
    first, *middle, last = rest.split("\n")
    assert first.startswith("<attached ")
    assert last == "</attached>"
    return "\n".join(middle)


def test_a_prompt_alone_stays_as_it_is() -> None:
    assert prompt_with(" prompt \n", [], None) == " prompt \n"


def test_a_file_is_read_where_the_session_works(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo")
    text = prompt_with("p", [{"type": "file", "path": "a.txt"}], str(tmp_path))
    assert text == 'p\n\n<attached file="a.txt">\none\ntwo\n</attached>'
    assert with_one(Path("/"), type="file", path=str(tmp_path / "a.txt")) == "one\ntwo"


def test_a_name_that_is_no_text_is_listed_as_far_as_it_can_be(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    assert with_one(tmp_path, type="directory", path=str(tmp_path)) == "caf?.txt"


def test_lines_are_counted_from_zero_and_the_last_is_included(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("zero\none\ntwo\nthree")
    shown = with_one(tmp_path, type="file", path="a.txt", lineRange={"start": 1, "end": 2})
    assert shown == "one\ntwo"


def test_a_daemons_database_is_not_read_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_text("what others said")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "sessions.db")
    for name in ("sessions.db", "notes.txt"):
        text = prompt_with("?", [{"type": "file", "path": str(tmp_path / name)}], None)
        assert "not read" in text
        assert "others" not in text


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_the_files_beside_the_database_are_not_read_either(tmp_path: Path, suffix: str) -> None:
    """To close a descriptor of its log's index is to let go of the locks that stand in it."""
    (tmp_path / f"sessions.db{suffix}").write_text("what others said")
    assert "not read" in with_one(tmp_path, type="file", path=f"sessions.db{suffix}")


def test_a_large_file_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ATTACHED_FILE_BYTES", 5)
    (tmp_path / "exact").write_text("12345")
    (tmp_path / "large").write_text("1234ä")
    assert with_one(tmp_path, type="file", path="exact") == "12345"
    assert with_one(tmp_path, type="file", path="large") == "1234\ufffd\n(the rest is left out)"


@pytest.mark.parametrize("path", ["gone", "gone/deeper", ".", "fifo", "a\x00b", "x" * 5000])
def test_what_is_no_file_is_said(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert with_one(tmp_path, type="file", path=path).startswith("(")


@pytest.mark.parametrize("path", ["gone", "file", "a\x00b", "x" * 5000])
def test_what_is_no_folder_is_said(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    assert with_one(tmp_path, type="directory", path=path).startswith("(cannot be listed: ")


def test_a_folder_is_listed_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    assert with_one(tmp_path, type="directory", path=".") == "a\nb\nc\nsub/"


def test_a_large_folder_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LISTED_ENTRIES", 2)
    for number in range(5):
        (tmp_path / f"{number}").touch()
    assert with_one(tmp_path, type="directory", path=".") == "0\n1\n(and 3 more)"


def test_a_selection_brings_its_own_text(tmp_path: Path) -> None:
    assert with_one(tmp_path, type="selection", filePath="gone.py", text="x = 1") == "x = 1"


def test_an_image_is_not_shown_as_text(tmp_path: Path) -> None:
    image = {"type": "blob", "mimeType": "image/png", "data": "aWJtZw=="}
    assert prompt_with("p", [image], str(tmp_path)) == "p"
    other = with_one(tmp_path, type="blob", mimeType="application/zip", data="aWJtZw==")
    assert "only images" in other


def test_an_unknown_kind_is_said(tmp_path: Path) -> None:
    assert "not known" in with_one(tmp_path, type="hologram", anything=1)


def test_a_name_cannot_leave_its_quotes(tmp_path: Path) -> None:
    text = prompt_with("p", [{"type": "file", "path": 'a"><b&'}], str(tmp_path))
    assert '<attached file="a&quot;><b&amp;">' in text


@pytest.mark.anyio
async def test_the_model_reads_what_the_file_said_when_it_was_sent(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("the password is swordfish")
    async with pair(tmp_path / "home") as (client, room):
        await client.create("a", workingDirectory=str(tmp_path))
        attachment = {"type": "file", "path": "notes.txt", "displayName": "notes"}
        await client.request(
            "session.send", {"sessionId": "a", "prompt": "look", "attachments": [attachment]}
        )
        user = (await client.next_event("user.message"))["data"]
        await client.next_event("session.idle")
        file.unlink()
        await client.turn("a", "and now?")
        assert user["content"] == "look"
        assert user["attachments"] == [attachment]
        assert "swordfish" in user["transformedContent"]
        second = room.model.calls[1].request
        assert "swordfish" in str(second.messages[-3].content)


@pytest.mark.anyio
async def test_what_a_member_is_does_not_matter_where_its_kind_is_not_known(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create("a")
        given = [{"type": "mine", "data": 5}, {"type": "file", "path": "/x", "data": True}]
        sent = {"sessionId": "a", "prompt": "x", "attachments": given}
        assert "messageId" in await client.request("session.send", sent)
