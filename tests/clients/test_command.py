"""The command `tertulia`, as people and programs run it: real processes, pipes and terminals."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tertulia import Client, Timeout, limits
from tests.clients.command import TERTULIA, ok, run, running
from tests.clients.conftest import BOUND_S, Counted, Model, Served, announced, listening_port

PIECE = 65_536


def test_send_creates_and_resumes(home: Path) -> None:
    assert ok("send", "s1", "[[say:hello there]]") == "hello there\n"
    assert ok("send", "s1", "-", stdin="[[fake-history]] again\n").startswith("[[say:hello there]]")
    shown = ok("show", "s1")
    assert shown.index("you: [[say:hello there]]") < shown.index("model: hello there")
    assert "\x1b" not in shown


def test_send_json_is_a_line_for_each_event(home: Path) -> None:
    lines = ok("send", "s1", "[[fake-n3-d1]]", "--json").splitlines()
    types = [json.loads(line)["type"] for line in lines]
    assert types[0] == "user.message"
    assert "assistant.message_delta" in types
    assert types[-1] == "session.idle"


def test_a_key_is_accepted_once_and_answered_alike(home: Path) -> None:
    assert ok("send", "s1", "[[say:one]]", "--key", "k") == "one\n"
    assert ok("send", "s1", "[[say:two]]", "--key", "k") == "one\n"
    again = ok("send", "s1", "[[say:two]]", "--key", "k", "--json").splitlines()
    assert json.loads(again[0])["data"]["content"] == "[[say:one]]"
    assert "two" not in ok("show", "s1")


def test_a_message_is_sent_only_where_the_log_ends(home: Path) -> None:
    def ends_at() -> int:
        told = ok("call", "session.eventLog.tail", '{"sessionId": "s1"}')
        return int(json.loads(told)["seq"])

    ok("send", "s1", "[[say:one]]")
    seq = str(ends_at())
    assert ok("send", "s1", "[[say:two]]", "--expected-seq", seq) == "two\n"
    late = run("send", "s1", "[[say:three]]", "--expected-seq", seq)
    assert (late.returncode, late.stdout) == (1, "")
    assert late.stderr.startswith(f"tertulia: The session's log is at {ends_at()}, not at {seq}: ")
    error = json.loads(run("send", "s1", "x", "--expected-seq", seq, "--json").stderr)["error"]
    assert error["data"] == {"kind": "seq_moved", "seq": ends_at()}
    assert "no session s2" in run("send", "s2", "x", "--expected-seq", "0").stderr
    assert "three" not in ok("show", "s1")


def test_a_message_for_an_idle_session_alone_is_refused_while_a_turn_runs(served: Served) -> None:
    assert ok("send", "s1", "[[say:one]]", "--if-idle") == "one\n"
    with Client.connect(served.address) as client, client.resume_session("s1") as session:
        session.send("[[fake-hang]]")
        busy = run("send", "s1", "x", "--if-idle")
        assert (busy.returncode, busy.stdout) == (1, "")
        assert "without --if-idle it waits as well" in busy.stderr
        error = json.loads(run("send", "s1", "x", "--if-idle", "--json").stderr)["error"]
        assert error["data"]["kind"] == "turn_busy"
        assert not session.queue.list().items
        session.abort()


def test_an_immediate_message_goes_before_the_others_that_wait(served: Served) -> None:
    with Client.connect(served.address) as client, client.create_session("s1") as session:
        session.send("[[fake-hang]]")
        session.send("[[say:later]]")
        events = session.events()
        with running("send", "s1", "[[say:at once]]", "--immediate") as send:
            next(event for event in events if session.queue.list().steering)
            session.abort()
            assert send.stdout is not None
            assert send.stdout.read() == b"at once\n"
            assert send.wait(BOUND_S) == 0
        next(event for event in events if event.type == "session.idle")
    shown = ok("show", "s1")
    assert shown.index("model: at once") < shown.index("model: later")


def test_list_show_and_delete_speak_json(home: Path) -> None:
    ok("send", "s1", "[[say:hi]]")
    ok("send", "s2", "[[say:hi]]")
    listed = json.loads(ok("--json", "list"))["sessions"]
    assert {row["sessionId"] for row in listed} == {"s1", "s2"}
    shown = json.loads(ok("show", "s1", "--json"))
    assert shown["sessionId"] == "s1"
    assert "session.resume" not in [event["type"] for event in shown["events"]]
    done = run("delete", "s1", "s3", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["deleted"] == ["s1"]
    assert [failure["sessionId"] for failure in result["failed"]] == ["s3"]
    assert "s3" in done.stderr
    assert ok("list").split()[0] == "s2"


def test_models_says_what_can_be_used(home: Path) -> None:
    found = json.loads(ok("models", "--json"))["models"]
    assert any(model["id"].endswith("fake-n3") for model in found)
    assert "ready" in ok("models")


def test_the_home_may_stand_before_or_after_the_subcommand(tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    ok("--home", other, "send", "there", "[[say:x]]")
    assert "there" in ok("list", "--home", other)
    assert run("list").returncode == 1


READING = [
    ["list"],
    ["show", "s1"],
    ["log", "s1"],
    ["queue", "s1"],
    ["search", "lake"],
    ["usage"],
    ["rename", "s1", "Lake"],
    ["metadata", "s1"],
    ["metadata", "s1", "team=docs"],
    ["fork", "s1"],
    ["rewind", "s1"],
    ["export", "s1"],
    ["archive", "s1"],
    ["delete", "s1"],
    ["prune", "--older-than", "30d"],
    ["call", "session.list"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", READING)
def test_what_only_reads_or_changes_makes_no_home(tmp_path: Path, arguments: list[str]) -> None:
    typo = tmp_path / "hoem"
    done = run(*arguments, "--home", str(typo))
    assert done.returncode == (2 if arguments == ["doctor"] else 1)
    assert str(typo) in done.stderr
    assert "--home" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not typo.exists()


def test_options_may_stand_between_words(home: Path) -> None:
    ok("send", "s1", "--json", "[[say:one]]")
    assert json.loads(ok("metadata", "s1", "--json", "ticket=7", "--home", str(home), "done=true"))
    assert json.loads(ok("metadata", "s1", "--json"))["metadata"] == {"ticket": 7, "done": True}
    ok("send", "s2", "[[say:two]]")
    assert json.loads(ok("delete", "s1", "--json", "s2"))["deleted"] == ["s1", "s2"]
    assert "unrecognized arguments: --jsno" in run("delete", "s1", "--jsno", "s2").stderr


def test_a_folder_of_other_things_does_not_become_a_home_by_a_list(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    done = run("list", "--home", str(tmp_path / "letters"))
    assert done.returncode == 1
    assert list((tmp_path / "letters").iterdir()) == []


def test_a_home_with_nothing_but_a_configuration_is_one(begun: Path) -> None:
    assert json.loads(ok("list", "--json")) == {"sessions": []}


def test_models_needs_no_home_and_makes_none(home: Path) -> None:
    assert "ready" in ok("models")
    done = run("models", "--home", str(home))
    assert done.returncode == 0
    assert f"There is no {home}/config.toml" in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("method", ["ping", "rpc.discover", "models.list", "no.such"])
def test_a_call_that_is_about_no_session_needs_no_home_and_makes_none(
    home: Path, method: str
) -> None:
    done = run("call", method)
    assert (done.returncode == 0) == (method != "no.such")
    assert "No sessions are kept" not in done.stderr
    assert not home.exists()


def test_why_a_model_call_is_tried_again_is_said_while_it_is(home: Path) -> None:
    done = run("send", "s1", "[[fake-e503]]")
    assert done.returncode == 1
    *retries, last = done.stderr.splitlines()
    assert len(retries) == 4
    assert all("503" in line and "Trying again in" in line for line in retries)
    assert "Trying again" not in last
    assert "Trying again" not in run("send", "s1", "[[fake-e503]]", "--json").stderr


def test_a_retry_leaves_the_line_that_waits_on_a_line_of_its_own(
    home: Path, screens: list[Screen]
) -> None:
    send = opened(screens, "send", "s1", "[[fake-e503]]")
    assert send.rest() == 1
    assert "\x1b[Ktertulia: " in send.shown
    assert send.shown.count("Trying again in") == 4


def test_an_empty_answer_is_said_to_be_empty(home: Path) -> None:
    done = run("send", "s1", "[[say:]]")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "tertulia: The model's answer was empty.\n"


def test_an_empty_model_is_told_what_fits_and_no_more() -> None:
    done = run("send", "s1", "x", "--model", "")
    assert done.returncode == 2
    assert "`tertulia models` lists" in done.stderr
    assert "quotes" not in done.stderr


def test_why_a_daemon_does_not_start_is_said_first(begun: Path) -> None:
    (begun / "config.toml").write_text("nonsense =")
    first, second = run("list").stderr.splitlines()
    assert "is not TOML" in first
    assert second == "The daemon ended with exit code 1."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["call"], "attached to a session"),
        (["send"], "from then on"),
        (["prune"], "and not who is attached there"),
    ],
)
def test_the_help_tells_what_stays_of_a_command(arguments: list[str], said: str) -> None:
    assert said in " ".join(ok(*arguments, "--help").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nobody"], "There is no session nobody; see `tertulia list`."),
        (["delete", "nobody"], "There is no session nobody; see `tertulia list`."),
        (["send", "s1", "[[fake-e401]]"], "401"),
        (["send", "s1", ""], "nothing to send"),
        (["send", "../up", "hi"], "tertulia: A session id has"),
        (["list", "--connect", "unix:/nowhere/x.sock"], "tertulia serve"),
        (["list", "--connect", "nonsense"], "unix:/path"),
    ],
)
def test_what_fails_says_why_without_a_traceback(
    begun: Path, arguments: list[str], said: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("tertulia: ")
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ""


def test_with_json_an_error_is_the_one_of_the_wire(begun: Path) -> None:
    done = run("show", "nobody", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == -32001
    assert error["message"].startswith("Session not found: nobody")
    assert error["data"] == {"kind": "session_not_found", "sessionId": "nobody"}
    lines = run("archive", "a", "b", "--json").stderr.splitlines()
    assert [json.loads(line)["error"]["data"]["sessionId"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--json", "--connect", "unix:/nowhere/x.sock"], "tertulia serve"),
        (["import", "/nowhere/x.json", "--json"], "/nowhere/x.json"),
        (["send", "s1", "[[fake-e401]]", "--json"], "401"),
        (["call", "ping", "--connect", "unix:/nowhere/x.sock"], "tertulia serve"),
    ],
)
def test_with_json_what_failed_on_this_side_has_a_message_alone(
    begun: Path, arguments: list[str], said: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert set(error) == {"message"}
    assert said in error["message"]


def test_the_errors_of_a_call_are_those_of_the_wire(begun: Path) -> None:
    done = run("call", "session.name.get", '{"sessionId": "a b"}')
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == -32602
    assert error["data"]["path"] == "$.sessionId"


def test_the_help_tells_of_exit_codes_and_of_errors_for_programs() -> None:
    shown = ok("--help")
    assert "2: wrong usage" in shown
    assert '{"error": {"message": ...}}' in shown


def test_a_folder_that_was_removed_is_what_is_the_matter(begun: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *TERTULIA, "send", "s9", "hi"]
    done = subprocess.run(
        line, cwd=gone, capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("tertulia: the folder that you are in was removed.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["nonsense"], "choose from"),
        (["lst"], "there is no command 'lst': did you mean `tertulia list`?"),
        (["list", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["send"], "required: SESSION, TEXT"),
        (["send", "s1", "-hello"], "behind --"),
        (
            ["send", "s1", "what", "is", "3?"],
            "unrecognized arguments: is 3? (put a TEXT of several",
        ),
        (["chat", "--json"], "`tertulia chat` takes no --json"),
        (["serve", "--connect", "localhost:1"], "takes no --connect"),
        (["--token", "t", "demo"], "takes no --token"),
        (["list", "--home", ""], "name a folder, or leave --home out"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: tertulia" in done.stderr
    assert said in done.stderr


def test_wrong_usage_shows_the_usage_of_the_subcommand() -> None:
    assert "usage: tertulia send" in run("send", "s1", "what", "is").stderr
    assert "usage: tertulia chat" in run("chat", "--json").stderr


def test_the_help_passes_over_options_that_a_subcommand_refuses() -> None:
    assert "--json" in ok("send", "--help")
    assert "--json" not in ok("chat", "--help")
    assert "--connect" not in ok("doctor", "--help")


def test_a_home_that_cannot_be_used_is_named() -> None:
    done = run("--home", "/proc/tertulia", "list")
    assert done.returncode == 1
    assert "/proc/tertulia" in done.stderr


def test_a_message_may_begin_with_a_dash(home: Path) -> None:
    assert ok("send", "s1", "--", "-hello [[fake-history]]").startswith("-hello")


def test_version_and_help() -> None:
    assert ok("--version").startswith("tertulia ")
    for command in ("chat", "send", "list", "show", "delete", "serve", "models", "demo"):
        assert command in ok("--help")
        assert "usage:" in ok(command, "--help")


def test_serve_says_where_its_options_are() -> None:
    shown = ok("serve", "--help")
    for word in ("--port", "--socket", "tertuliad --help"):
        assert word in shown


def test_a_reader_that_leaves_is_no_error_text(home: Path) -> None:
    with subprocess.Popen(
        [*TERTULIA, "send", "s1", "[[fake-n2000-s500]]"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(timeout=BOUND_S)


@pytest.fixture(params=["left", "full"])
def unwritable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pipe that its reader has left, or a full disk; its file descriptor."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is written is written at the end
    if request.param == "left":
        reading, fd = os.pipe()
        os.close(reading)
    else:
        fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["--version"]])
def test_a_help_that_cannot_be_written_is_1(arguments: list[str], unwritable: int) -> None:
    done = subprocess.run(
        [*TERTULIA, *arguments],
        stdout=unwritable,
        stderr=subprocess.PIPE,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr in ("", "tertulia: No space left on device\n")


@pytest.mark.parametrize(("arguments", "code"), [(["nonsense"], 2), (["show", "s1"], 1)])
def test_what_cannot_be_told_has_its_exit_code_all_the_same(
    arguments: list[str], code: int, unwritable: int
) -> None:
    done = subprocess.run(
        [*TERTULIA, *arguments],
        stdout=unwritable,
        stderr=unwritable,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == code


def test_a_shared_daemon_of_the_home_is_used_and_left_alone(served: Served) -> None:
    ok("send", "s1", "[[say:hi]]")
    assert "s1" in ok("list", "--connect", served.address)
    assert served.process.poll() is None


def test_a_socket_that_a_dead_daemon_left_is_no_obstacle(served: Served) -> None:
    served.process.kill()
    served.process.wait(timeout=BOUND_S)
    assert Path(served.address.removeprefix("unix:")).exists()
    assert ok("send", "s1", "[[say:hi]]") == "hi\n"


def test_serve_becomes_the_shared_daemon(home: Path) -> None:
    socket = home / "run" / "tertuliad.sock"
    with subprocess.Popen(
        [*TERTULIA, "serve"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert str(socket) in announced(process)
        ok("send", "s1", "[[say:hi]]", "--connect", f"unix:{socket}")
        process.terminate()
        assert process.wait(timeout=BOUND_S) == 0
    assert not socket.exists()


def test_serve_hands_its_options_over(home: Path) -> None:
    with subprocess.Popen(
        [*TERTULIA, "serve", "--port", "0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        port = listening_port(process)
        assert "s1" not in ok("list", "--connect", f"localhost:{port}")
        process.terminate()
        process.wait(timeout=BOUND_S)


def test_a_token_given_to_serve_is_asked_for(home: Path) -> None:
    with subprocess.Popen(
        [*TERTULIA, "serve", "--port", "0", "--token", "opensesame"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        address = f"localhost:{listening_port(process)}"
        refused = run("list", "--connect", address, "--token", "wrong")
        assert refused.returncode == 1
        assert "TERTULIA_TOKEN" in refused.stderr
        ok("list", "--connect", address, TERTULIA_TOKEN="opensesame")
        process.terminate()
        process.wait(timeout=BOUND_S)


def test_a_refused_message_leaves_no_empty_session(home: Path) -> None:
    with subprocess.Popen(
        [*TERTULIA, "serve", "--max-body", "4096"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        announced(process)
        ok("send", "old", "[[say:hi]]")
        for session in ("new", "old"):
            assert run("send", session, "x" * 5000).returncode == 1
        rows = json.loads(ok("list", "--json"))["sessions"]
        assert [row["sessionId"] for row in rows] == ["old"]
        process.terminate()
        process.wait(timeout=BOUND_S)


def test_a_chat_whose_session_is_deleted_elsewhere_ends(served: Served) -> None:
    with running("chat", "s1") as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write(b"[[say:one]]\n")
        chat.stdin.flush()
        assert chat.stdout.readline() == b"one\n"
        ok("delete", "s1")
        _, stderr = chat.communicate(b"[[say:two]]\n[[say:three]]\n", timeout=BOUND_S)
    assert chat.returncode == 1
    assert stderr == b"tertulia: This session was deleted by another client.\n"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("send", "s1", "[[fake-n100000-d20]]"), b"The session was deleted while its turn ran."),
        (("chat", "s1"), b"This session was deleted by another client."),
    ],
)
def test_a_session_that_is_deleted_while_its_answer_streams_is_told_so(
    served: Served, command: tuple[str, ...], told: bytes
) -> None:
    with running(*command) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"[[fake-n100000-d20]]\n")
        process.stdin.flush()
        assert process.stdout.read(5)
        ok("delete", "s1")
        _, stderr = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert stderr == b"tertulia: %s\n" % told


def test_a_chat_that_nobody_sits_before_tells_by_its_exit_code_that_a_message_failed(
    begun: Path,
) -> None:
    said = run("chat", "s", stdin="[[fake-e401]]\n[[say:fine]]\n")
    assert (said.returncode, said.stdout) == (1, "fine\n")
    assert run("chat", "s", stdin="[[say:fine]]\n").returncode == 0


def test_a_chat_that_nobody_used_leaves_no_session(begun: Path) -> None:
    assert ok("chat", stdin="") == ""
    assert json.loads(ok("list", "--json"))["sessions"] == []
    ok("chat", "mine", stdin="")
    ok("chat", stdin="[[say:hi]]\n")
    rows = json.loads(ok("list", "--json"))["sessions"]
    assert len(rows) == 2
    assert "mine" in [row["sessionId"] for row in rows]


@contextmanager
def sending(session: str, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """A message whose answer is under way."""
    with subprocess.Popen(
        [*TERTULIA, "send", session, text], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"w0"
        try:
            yield process
        finally:
            process.kill()


def test_an_answer_that_another_client_stopped_is_a_failure_that_says_so(served: Served) -> None:
    with sending("s1", "[[fake-n100000-d20]]") as send:
        with Client.connect(served.address) as client:
            client.resume_session("s1").abort()
        _, stderr = send.communicate(timeout=BOUND_S)
    assert send.returncode == 1
    assert stderr == b"tertulia: The turn was aborted.\n"


def test_a_message_whose_daemon_goes_says_where_to_look(served: Served) -> None:
    with sending("s1", "[[fake-n100000-d20]]") as send:
        served.process.kill()
        _, stderr = send.communicate(timeout=BOUND_S)
    assert send.returncode == 1
    assert b"closed the connection. `tertulia show s1` shows whether it took" in stderr


def test_the_command_imports_no_event_loop(home: Path) -> None:
    program = """
import sys
from tertulia.cli import main
assert main(["send", "s1", "[[say:hi]]"]) == 0
assert main(["list"]) == 0
assert not {"asyncio", "anyio", "aiohttp"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], timeout=BOUND_S, check=True)


@pytest.mark.parametrize(
    "module", ["typing", "argparse", "shutil", "tertulia_protocol.errors", "subprocess"]
)
def test_ctrl_c_while_it_is_imported_is_quiet(tmp_path: Path, module: str) -> None:
    interrupting = tmp_path / f"{module.partition('.')[0]}.py"
    interrupting.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run("list", PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


class Screen:
    """A command on a terminal of its own, and what it has shown."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self.fd, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*TERTULIA, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **env},
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.shown = ""
        self._seen = 0

    def until(self, text: str) -> None:
        """Wait until `text` is shown, behind what earlier waits have seen."""
        deadline = time.monotonic() + BOUND_S
        while (found := self.shown.find(text, self._seen)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not shown: {self.shown}"
            assert self._read(left), f"it ended before {text!r}: {self.shown}"
        self._seen = found + len(text)

    def _read(self, seconds: float) -> bool:
        """Take what is shown within so long; False at the end."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        try:
            data = os.read(self.fd, 4096) if ready else b""
        except OSError:
            return False
        self.shown += self._decoder.decode(data)
        return True

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def interrupt_prompt(self, text: str | None = None) -> None:
        """Ctrl-C at the prompt, until `text` is shown or, without one, it ends. A signal that comes
        between the prompt and readline's wait is seen with the next one, and both are one."""
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:
            self.interrupt()
            patience = time.monotonic() + 2.0
            while (left := patience - time.monotonic()) > 0:
                if not self._read(left) or (text and text in self.shown[self._seen :]):
                    return

    def rest(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + BOUND_S
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, f"it does not end: {self.shown}"
        return self.process.wait(timeout=BOUND_S)


@pytest.fixture
def screens() -> Iterator[list[Screen]]:
    made: list[Screen] = []
    yield made
    for screen in made:
        if screen.process.poll() is None:
            screen.process.kill()
            screen.process.wait(timeout=BOUND_S)
        os.close(screen.fd)


def opened(screens: list[Screen], *arguments: str, **env: Any) -> Screen:
    screens.append(Screen(*arguments, **env))
    return screens[-1]


def test_chat_converses_and_remembers(home: Path, screens: list[Screen]) -> None:
    chat = opened(screens, "chat", "s1")
    chat.until("> ")
    chat.type("[[say:first]]\n")
    chat.until("first\r\n")
    chat.until("> ")
    chat.type("[[fake-history]] second\n")
    chat.until("second")
    chat.until("> ")
    chat.type("\x04")
    assert chat.rest() == 0
    assert "s1" in chat.shown
    assert "Ctrl-D leaves" in chat.shown
    assert "/help too" in chat.shown
    assert "send s1 -" in chat.shown


def test_ctrl_c_stops_the_answer_and_not_the_chat(home: Path, screens: list[Screen]) -> None:
    chat = opened(screens, "chat", "s1")
    chat.until("> ")
    chat.type("[[fake-n100000-d20]]\n")
    chat.until("w0")
    chat.interrupt()
    chat.until("(stopped)")
    chat.until("> ")
    chat.type("[[say:still here]]\n")
    chat.until("still here\r\n")
    chat.until("> ")
    chat.interrupt_prompt("Ctrl-C again")
    chat.until("Ctrl-C again")
    chat.until("> ")
    chat.interrupt_prompt()
    assert chat.rest() == 130


@pytest.mark.parametrize("command", ["send", "chat"])
def test_ctrl_c_gives_up_the_own_message_and_nobody_elses(
    served: Served, screens: list[Screen], command: str
) -> None:
    with Client.connect(served.address) as client, client.create_session("s1") as session:
        events = session.events()
        session.send("[[fake-n100000-d20]]")
        next(event for event in events if event.type == "assistant.message_delta")
        words = ["[[say:never]]"] if command == "send" else []
        mine = opened(screens, command, "s1", *words)
        if command == "chat":
            mine.until("> ")
            mine.type("[[say:never]]\n")
        next(event for event in events if session.queue.list().items)
        mine.interrupt()
        if command == "send":
            assert mine.rest() == 130
        else:
            mine.until("(stopped)")
            mine.until("> ")
        assert not session.queue.list().items
        next(event for event in events if event.type == "assistant.message_delta")


def test_a_session_whose_provider_went_with_its_daemon_is_told_and_not_waited_for(
    home: Path, counted: Counted
) -> None:
    provider = {"type": "openai", "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "a-key"}
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.create_session("s1", model="m", provider=provider)
        session.queue.pause()
        session.send("it waits")
    for words in (["send", "s1", "x"], ["chat", "s1"], ["queue", "s1", "--resume"]):
        refused = run(*words)
        assert refused.returncode == 1
        assert "--clear` forgets" in refused.stderr
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.resume_session("s1")
        with pytest.raises(Timeout, match="key of its provider"):
            session.send_and_wait("one more", 0.5)
    assert "a program has to give" in run("queue", "s1").stderr
    ok("queue", "s1", "--clear")


def test_a_second_ctrl_c_leaves_while_the_model_answers(home: Path, screens: list[Screen]) -> None:
    """Where the abort itself does not come back: the daemon is stopped."""
    chat = opened(screens, "send", "s1", "[[fake-n100000-d20]]")
    chat.until("w0")
    chat.interrupt()
    chat.interrupt()
    assert chat.rest() == 130


def test_a_failed_turn_does_not_end_the_chat(home: Path, screens: list[Screen]) -> None:
    chat = opened(screens, "chat", "s1")
    chat.until("> ")
    chat.type("[[fake-e401]]\n")
    chat.until("401")
    chat.until("> ")
    chat.type("\x04")
    assert chat.rest() == 0


def test_chat_takes_lines_from_a_pipe(home: Path) -> None:
    assert ok("chat", "s1", stdin="[[say:one]]\n\n[[say:two]]\n") == "one\ntwo\n"


def test_colours_are_for_terminals_that_want_them(home: Path, screens: list[Screen]) -> None:
    ok("send", "s1", "[[say:hi]]")
    coloured = opened(screens, "show", "s1")
    assert coloured.rest() == 0
    assert "\x1b[3" in coloured.shown
    for plain in (
        opened(screens, "show", "s1", NO_COLOR="1"),
        opened(screens, "show", "s1", "--no-color"),
    ):
        assert plain.rest() == 0
        assert "\x1b[3" not in plain.shown


def test_a_model_cannot_write_control_codes_to_a_terminal(
    home: Path, screens: list[Screen]
) -> None:
    send = opened(screens, "send", "s1", "[[say:a\x1b]0;title\x07b]]")
    assert send.rest() == 0
    assert "\x1b]0;" not in send.shown
    assert "a]0;titleb" in send.shown


def test_a_dumb_terminal_gets_no_control_sequence(home: Path, screens: list[Screen]) -> None:
    send = opened(screens, "send", "s1", "[[fake-n3-slowstart600]]", TERM="dumb")
    assert send.rest() == 0
    assert "w0" in send.shown
    assert "\x1b" not in send.shown
    assert "waiting" not in send.shown


def test_a_terminal_may_be_given_what_is_no_utf8(home: Path, screens: list[Screen]) -> None:
    chat = opened(screens, "chat", "s1")
    chat.until("> ")
    os.write(chat.fd, b"[[fake-history]] caf\xff \xc3\xa9\n")
    for _ in ("the line as it is typed", "the answer"):
        chat.until("caf\ufffd \u00e9\r\n")
    chat.until("> ")
    chat.type("\x04")
    assert chat.rest() == 0


def test_a_line_or_a_text_that_is_too_long_for_a_message_is_refused_before_it_is_all_read(
    home: Path,
) -> None:
    """Standard input does not end: whoever read all of it would still be reading."""
    for arguments in (["chat", "s1"], ["send", "s1", "-"]):
        with running(*arguments) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                for _ in range(4 * limits.MESSAGE_CHARS // PIECE + 1):
                    process.stdin.write(b"x" * PIECE)
                    process.stdin.flush()
            assert process.wait(BOUND_S) == 1
            assert process.stderr is not None
            said = process.stderr.read().decode()
            assert str(limits.MESSAGE_CHARS) in said or str(4 * limits.MESSAGE_CHARS) in said
            assert "Traceback" not in said


def test_the_demo_plays_with_any_model(home: Path, screens: list[Screen]) -> None:
    lines = ok("demo", "--model", "fake-n30-d5")
    for topic in ("python", "typescript", "go"):
        assert f"[{topic}] w0" in lines
    assert "user-123-chat" in lines
    assert "their history goes with the demo's temporary home." in lines
    assert "Everything above happened" in lines
    shown = opened(screens, "demo", "--model", "fake-n30-d5", COLUMNS="100", LINES="30")
    assert shown.rest() == 0
    assert "│" in shown.shown


def test_the_demo_takes_the_homes_models_and_leaves_it_alone(home: Path, model: Model) -> None:
    home.mkdir()
    text = f'[providers.work]\nbase_url = "{model.base_url}"\nmodels = ["fake-n9-d5"]\n'
    (home / "config.toml").write_text(text)
    for where in ([], ["--home", str(home)]):
        assert "Everything above" in ok("demo", "--model", "work/fake-n9-d5", *where)
    assert [path.name for path in home.iterdir()] == ["config.toml"]


def test_the_demo_says_where_a_named_home_has_no_configuration(home: Path, tmp_path: Path) -> None:
    mistyped = tmp_path / "hoem"
    done = run("demo", "--model", "fake-n9-d5", "--home", str(mistyped))
    assert done.returncode == 0
    assert f"There is no {mistyped}/config.toml" in done.stderr
    assert not mistyped.exists()
    assert "config.toml" not in run("demo", "--model", "fake-n9-d5").stderr


def test_the_demo_says_what_the_embedded_model_lacks(home: Path, tmp_path: Path) -> None:
    """With its weights named where none are, it cannot run, and the demo ends with 1."""
    home.mkdir()
    (home / "config.toml").write_text(f'[embedded]\nmodel_path = "{tmp_path}/none.gguf"\n')
    done = run("demo", "--home", str(home))
    assert done.returncode == 1
    assert "none.gguf" in done.stderr


def test_a_demo_that_fails_is_1(home: Path) -> None:
    done = run("demo", "--model", "fake-e500")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Everything above happened" not in done.stdout
