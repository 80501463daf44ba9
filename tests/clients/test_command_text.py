"""What the command reads and writes: encodings, full disks, times, warnings."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import cast

import pytest

from tertulia import Client
from tertulia.records import Event
from tertulia.session import Session, TurnStream
from tertulia.talk import speak
from tertulia.turn import Turn
from tests.clients.command import TERTULIA, ok, run
from tests.clients.conftest import BOUND_S


def test_lines_that_are_no_utf8_are_mended(home: Path) -> None:
    said = ok("chat", "s1", stdin="[[fake-history]] caf\udce9 \u00e9\n")
    assert "caf\ufffd \u00e9" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_answer_that_stdout_cannot_encode_is_shown_as_far_as_it_can(
    home: Path, encoding: str
) -> None:
    done = run("send", "s1", "[[say:a\u65e5b]]", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a?b\n", "")
    assert "a?b" in ok("show", "s1", PYTHONIOENCODING=encoding)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale that decodes no other letters."""


def test_a_locale_without_letters_takes_and_keeps_what_is_utf8(home: Path) -> None:
    ok("send", "s1", "[[say:été]]", **ASCII)
    assert "été" in ok("show", "s1")
    assert json.loads(ok("search", "été", "--json", **ASCII))["hits"]
    ok("rename", "s1", "Ünïcode", "名", **ASCII)
    ok("fork", "s1", "--name", "é", "--id", "f1", **ASCII)
    named = [
        json.loads(ok("call", "session.name.get", f'{{"sessionId": "{s}", "é": "é"}}', **ASCII))
        for s in ("s1", "f1")
    ]
    assert [each["name"] for each in named] == ["Ünïcode 名", "é"]
    with Client.spawn(home=home) as client:
        client.update_metadata("f1", {"ort": "Zürich"})
    listed = json.loads(ok("list", "--filter", "metadata.ort=Zürich", "--json", **ASCII))
    assert [row["sessionId"] for row in listed["sessions"]] == ["f1"]


def test_a_name_that_the_locale_cannot_decode_is_shown_as_it_is(
    begun: Path, tmp_path: Path
) -> None:
    for env in (ASCII, {}):
        for name in ("hömé", "h\udcff"):
            missing = str(tmp_path / name)
            assert f"kept in {missing}: " in run("list", "--home", missing, **env).stderr
    ok("send", "s1", "[[say:x]]", **ASCII)
    file = str(tmp_path / "é.json")
    assert ok("export", "s1", file, **ASCII) == f"exported s1 to {file}\n"
    told = json.loads(ok("export", "s1", file, "--force", "--json", **ASCII))
    assert told == {"sessionId": "s1", "file": file}
    error = json.loads(run("export", "s1", file, "--json", **ASCII).stderr)["error"]
    assert f"There is a file {file} already" in error["message"]


def test_a_method_that_is_no_text_is_wrong_usage() -> None:
    done = run("call", "a\udcff")
    assert (done.returncode, done.stdout) == (2, "")
    assert "it is not valid UTF-8" in done.stderr


def test_json_is_utf8_whatever_the_encoding_of_stdout(home: Path) -> None:
    lines = ok("send", "s1", "[[say:\u65e5]]", "--json", PYTHONIOENCODING="ascii").splitlines()
    assert "\u65e5" in [json.loads(line)["data"].get("content") for line in lines]


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["send", "s1", "[[say:x]]"]])
def test_a_full_disk_is_told_in_one_line(home: Path, arguments: list[str]) -> None:
    ok("send", "s0", "[[say:x]]")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*TERTULIA, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
    told = "tertulia: No space left on device\n"
    if "--json" in arguments:
        told = '{"error": {"message": "No space left on device"}}\n'
    assert (done.returncode, done.stderr) == (1, told)


def test_a_closed_stdout_is_no_traceback(begun: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *TERTULIA, "list"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [(["chat", "s1"], 0, ""), (["send", "s1", "-"], 1, "tertulia: There is nothing to send")],
)
def test_a_closed_stdin_has_nothing_in_it(
    begun: Path, arguments: list[str], status: int, told: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *TERTULIA, *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == status
    assert done.stderr.startswith(told)
    assert "Traceback" not in done.stderr


def test_a_reader_who_has_left_before_the_version_is_no_traceback() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [*TERTULIA, "--version"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        timeout=BOUND_S,
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_too_few_files_for_a_daemon_are_told_as_that(home: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 8; exec "$@"', "sh", *TERTULIA, "send", "s1", "x"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert "ulimit -n" in done.stderr
    assert "TERTULIAD" not in done.stderr, "the program is where it is looked for"


@pytest.mark.parametrize("arguments", [["list"], ["doctor"], ["serve"], ["send", "s1", "x"]])
def test_the_home_of_a_user_whom_nobody_knows_is_told_of(home: Path, arguments: list[str]) -> None:
    done = run("--home", "~nobody-has-this-name/home", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("tertulia: The folder ~nobody-has-this-name/home cannot be found")


def test_a_remark_stays_off_stdout_where_stderr_is_closed(begun: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *TERTULIA, "search", "heron"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_list_tells_the_time_of_this_machine(home: Path) -> None:
    ok("send", "s1", "[[say:x]]")
    row = json.loads(ok("list", "--json"))["sessions"][0]
    east = timezone(timedelta(hours=5, minutes=45))
    then = datetime.fromisoformat(row["modifiedTime"]).astimezone(east)
    assert f"{then:%Y-%m-%d %H:%M}" in ok("list", TZ="EAST-5:45")


def test_an_answer_that_was_cut_says_so_on_stderr(home: Path) -> None:
    done = run("send", "s1", "[[fake-n10-length]]")
    assert done.returncode == 0
    assert done.stdout.startswith("w0")
    assert "most tokens" in done.stderr
    assert done.stderr.startswith("tertulia: ")
    assert "most tokens" not in done.stdout
    assert "warning:" in ok("show", "s1")
    assert run("send", "s1", "[[fake-n10]]").stderr == ""


class Streamed:
    """A session that says what a daemon told: its client read too slowly for all of the deltas."""

    def stream(self, _prompt: str) -> TurnStream:
        turn = Turn("m", "tell me of the sea")
        return TurnStream(cast(Session, self), turn, self._events())

    def _events(self) -> Iterator[Event]:
        for said in ("The sea ", "is "):
            yield Event("assistant.message_delta", {"messageId": "m", "deltaContent": said})
        yield Event("assistant.message", {"messageId": "m", "content": "The sea is wide.\n"})


def test_what_the_deltas_left_out_is_said_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    speak(cast(Session, Streamed()), "tell me of the sea")
    assert capsys.readouterr().out == "The sea is wide.\n"
