"""The subcommands about many sessions, about one's past and queue, and about files."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tertulia import Client, DaemonFailed, launch, limits
from tertulia_protocol.methods.registry import METHODS
from tests.clients.command import TERTULIA, ok, run, running
from tests.clients.conftest import BOUND_S, Model, Served


def said(session_id: str, *texts: str) -> None:
    for text in texts:
        ok("send", session_id, f"[[say:{text}]]")


def loaded(*arguments: str) -> Any:
    return json.loads(ok(*arguments, "--json"))


def ids(*arguments: str) -> list[str]:
    return [row["sessionId"] for row in loaded("list", *arguments)["sessions"]]


def test_list_filters_orders_and_limits(served: Served) -> None:
    with Client.connect(served.address) as client:
        for session_id, name in (("b", "zebra"), ("a", "ape"), ("c", "monkey")):
            client.create_session(session_id).rename(name)
        client.update_metadata("a", {"team": "red", "size": 3, "big": True})
    assert ids("--order", "title") == ["a", "c", "b"]
    assert ids("--order", "created") == ["c", "a", "b"]
    limited = loaded("list", "--order", "title", "--limit", "2")
    assert [row["sessionId"] for row in limited["sessions"]] == ["a", "c"]
    assert limited["cursor"]
    assert "cursor" not in loaded("list", "--limit", "3")
    assert ids("--filter", "prefix=a") == ["a"]
    for member in ("metadata.team=red", "metadata.size=3", "metadata.big=true"):
        assert ids("--filter", member, "--filter", "named=true") == ["a"]
    assert ids("--filter", "metadata.team=red", "--filter", "metadata.size=4") == []
    done = run("list", "--order", "title", "--limit", "2")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["a", "c"]
    assert "There are more" in done.stderr
    assert "No session matches." in run("list", "--filter", "prefix=zz").stderr


def test_archived_sessions_are_listed_only_where_asked_for(served: Served) -> None:
    said("a", "x")
    said("b", "x")
    assert ok("archive", "a") == "archived a\n"
    assert ids() == ["b"]
    assert ids("--filter", "archived=true") == ["a"]
    assert "(archived)" in ok("list", "--filter", "archived=any")
    assert loaded("archive", "--undo", "a") == {"unarchived": ["a"], "failed": []}
    done = run("archive", "b", "nobody")
    assert (done.returncode, done.stdout) == (1, "archived b\n")
    assert done.stderr == "tertulia: There is no session nobody; see `tertulia list`.\n"
    ok("archive", "a")
    assert "archived=true` lists them" in run("list").stderr


def test_search_shows_where_it_was_said(served: Served) -> None:
    said("birds", "a heron\n\nby the lake")
    said("other", "nothing of it")
    found = ok("search", "heron", "lake")
    assert "birds  model, " in found
    assert "a heron  by the lake" in found
    assert "other" not in found
    hits = loaded("search", "heron", "lake")["hits"]
    assert {hit["session"]["sessionId"] for hit in hits} == {"birds"}
    assert "cursor" in loaded("search", "heron", "--limit", "1")
    assert "There are more" in run("search", "heron", "--limit", "1").stderr
    nothing = run("search", "pelican")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "Nothing was found.\n")


def test_a_search_is_as_long_as_its_limit_says(served: Served) -> None:
    count = limits.FOUND_AT_MOST + 10
    with Client.connect(served.address) as client:
        session = client.create_session("s")
        session.queue.pause()
        for number in range(count):
            session.send(f"[[say:yes]] heron {number}")
        session.queue.resume()
        session.send_and_wait("[[say:yes]] that is all")
        for limit in (count - 5, count, count + 5):
            found = loaded("search", "heron", "--limit", str(limit))
            assert len({hit["eventId"] for hit in found["hits"]}) == min(limit, count)
            assert ("cursor" in found) == (limit < count)
        session.fork()
    twice = run("search", "heron", "--limit", str(count - 5))
    assert twice.stdout.count("you, ") == 2 * (count - 5)
    assert "There are more" in twice.stderr


def test_metadata_is_kept_shown_and_taken_out(served: Served) -> None:
    said("s", "x")
    assert run("metadata", "s").stderr == "No metadata is kept.\n"
    given = ["team=the docs", "size=3", "ratio=-0.5", "big=true", "none=null", "sum=a=b"]
    assert ok("metadata", "s", *given).splitlines() == [
        "big    true",
        "none   null",
        "ratio  -0.5",
        "size   3",
        "sum    a=b",
        "team   the docs",
    ]
    assert ids("--filter", "metadata.size=3", "--filter", "metadata.team=the docs") == ["s"]
    kept = loaded("metadata", "s", "none=", "ratio=", "sum=", "nothing=")
    assert kept == {
        "sessionId": "s",
        "metadata": {"team": "the docs", "size": 3, "big": True},
        "archived": False,
    }
    with Client.connect(served.address) as client:
        client.update_metadata("s", {"big": None, "more": {"a": [1, None]}, "line": "a\nb"})
    assert ok("metadata", "s").splitlines() == [
        "line  a b",
        'more  {"a":[1,null]}',
        "size  3",
        "team  the docs",
    ]


def test_rename_and_fork_and_rewind(served: Served) -> None:
    said("s", "one", "two")
    assert loaded("rename", "s", "my", "plan") == {"sessionId": "s", "name": "my plan"}
    assert "my plan" in ok("list")
    assert ok("rename", "s", "our", "plan") == "renamed s: our plan\n"
    points = loaded("rewind", "s")["points"]
    second = points[1]["eventId"]
    assert second in ok("rewind", "s")
    assert ok("fork", "s", "--at", second, "--name", "before two", "--id", "f") == "f\n"
    assert "two" not in ok("show", "f")
    assert loaded("fork", "s")["sessionId"] != "s"
    assert loaded("rewind", "s", second) == {"sessionId": "s", "eventsRemoved": 4}
    assert "two" not in ok("show", "s")
    assert ok("rewind", "f", points[0]["eventId"]).endswith(" were left out of f\n")
    assert run("rewind", "f").stderr == "Nothing was said yet.\n"


def test_a_session_goes_through_a_file_and_a_pipe(served: Served, tmp_path: Path) -> None:
    said("s", "carry me")
    file = str(tmp_path / "s.json")
    assert ok("export", "s", file) == f"exported s to {file}\n"
    refused = run("export", "s", file)
    assert refused.returncode == 1
    assert refused.stderr == f"tertulia: There is a file {file} already: --force writes over it.\n"
    assert loaded("export", "s", file, "--force") == {"sessionId": "s", "file": file}
    piped = ok("export", "s")
    assert json.loads(piped) == json.loads(Path(file).read_text())
    assert ok("import", file, "--id", "t") == "t\n"
    assert ok("import", "-", "--id", "u", stdin=piped) == "u\n"
    assert ok("show", "u") == ok("show", "t") == ok("show", "s")
    assert run("import", file).stderr == (
        "tertulia: A session s exists already: --rename makes another id, --id ID gives one.\n"
    )
    assert loaded("import", file, "--rename")["sessionId"] not in ("s", "t", "u")
    odd = run("import", "-", stdin="nonsense")
    assert odd.returncode == 1
    assert odd.stderr.startswith("tertulia: There is no exported session in stdin: ")
    other = run("import", "-", stdin='{"a": 1}')
    assert (other.returncode, other.stderr) == (
        1,
        "tertulia: There is no exported session in stdin: format: is missing.\n",
    )
    folder = run("export", "s", str(tmp_path), "--force")
    assert folder.stderr == f"tertulia: {tmp_path} is a folder: name a file in it.\n"
    missing = run("import", str(tmp_path / "none"))
    assert missing.stderr == f"tertulia: No such file or directory: {tmp_path}/none\n"


def test_prune_deletes_nothing_unless_it_is_told_to(served: Served) -> None:
    said("old", "x")
    said("kept", "x")
    said("named", "x")
    ok("rename", "named", "My notes")
    shown = run("prune", "--older-than", "0", "--keep", "kept")
    assert shown.returncode == 0
    assert shown.stdout.split()[0] == "old"
    assert "kept" not in shown.stdout
    assert "1 session would go; 2 stay: " in shown.stderr
    assert "1 named by --keep" in shown.stderr
    assert "1 with a name (--named: those too)" in shown.stderr
    assert "Nothing was deleted yet" in shown.stderr
    assert len(ids()) == 3
    would = loaded("prune", "--older-than", "0h")
    assert (would["dryRun"], would["deleted"]) == (True, [])
    assert (would["reasons"], would["recent"]) == ({"named": "named"}, 0)
    young = loaded("prune", "--older-than", "1w", "--yes")
    assert (young["candidates"], young["recent"]) == ([], 3)
    typo = run("prune", "--older-than", "0", "--keep", "kept", "--keep", "Kept", "--yes")
    assert typo.returncode == 1
    assert "--keep Kept: there is no such session, and nothing was deleted" in typo.stderr
    assert len(ids()) == 3
    done = run("prune", "--older-than", "0", "--keep", "kept", "--yes")
    assert done.stdout == "deleted old\n"
    assert "Deleted 1 session, " in done.stderr
    assert "; 2 stay: " in done.stderr
    assert sorted(ids()) == ["kept", "named"]
    none = run("prune", "--older-than", "8w").stderr
    assert none == "Nothing would go; 2 stay: 2 not so old.\n"


def test_the_queue_is_shown_and_edited(served: Served) -> None:
    with Client.connect(served.address) as client:
        session = client.create_session("s")
        session.send("[[fake-hang]]")
        one, two = session.send("one"), session.send("two")
        assert [line.split() for line in ok("queue", "s").splitlines()] == [
            ["1", one, "one"],
            ["2", two, "two"],
        ]
        assert "(2 waiting)" in ok("list")
        assert ok("queue", "s", "--move", two, "1").split()[:2] == ["1", two]
        assert "uno" in ok("queue", "s", "--edit", one, "uno")
        items = loaded("queue", "s", "--remove", two)["items"]
        assert [item["id"] for item in items] == [one]
        assert "paused" in run("queue", "s", "--pause").stderr
        assert loaded("queue", "s")["paused"]
        assert not loaded("queue", "s", "--resume").get("paused")
        for edit in (["--remove", two], ["--edit", two, "x"], ["--move", two, "1"]):
            done = run("queue", "s", *edit)
            assert done.returncode == 1
            assert done.stderr == (
                f"tertulia: No message {two} waits in s; see `tertulia queue s`.\n"
            )
        for place in ("0", "x", "9" * 5000):
            assert "1 is the first" in run("queue", "s", "--move", one, place).stderr
        assert run("queue", "s", "--clear").stderr == "No message waits.\n"
        session.abort()


def test_usage_of_one_and_of_all(served: Served) -> None:
    assert run("usage").stderr == "No model was called yet.\n"
    said("a", "x", "y")
    said("b", "z")
    assert loaded("usage", "a")["turns"] == 2
    both = loaded("usage")
    assert both["turns"] == 3
    (model,) = both["models"].values()
    assert model["requests"] == 3
    assert model["outputTokens"] > 0
    assert ok("usage").splitlines()[1].split()[1] == "3"
    ok("send", "b", "[[say:x]]", "--model", "fake-n1")
    assert ok("usage").splitlines()[-1].startswith("in all")


def test_usage_names_a_model_as_it_is_chosen(home: Path, model: Model) -> None:
    home.mkdir()
    text = f'[providers.work]\nbase_url = "{model.base_url}"\nmodels = ["fake-n1"]\n'
    (home / "config.toml").write_text(text)
    ok("send", "a", "x", "--model", "work/fake-n1")
    listed = [each["id"] for each in loaded("models")["models"]]
    assert set(loaded("usage", "a")["models"]) == {"work/fake-n1"} <= {*listed}


def test_the_log_has_every_stored_event(served: Served) -> None:
    said("s", "one", "two")
    events = [json.loads(line) for line in ok("log", "s", "--json").splitlines()]
    shown = loaded("show", "s")["events"]
    assert [event["id"] for event in events] == [event["id"] for event in shown]
    lines = ok("log", "s").splitlines()
    assert [line.split()[2:4] for line in lines] == [[e["id"], e["type"]] for e in events]
    assert ok("log", "s", "--last", "2").splitlines() == lines[-2:]
    assert ok("log", "s", "--last", "0") == ""
    said_by_model = ok("log", "s", "--type", "assistant.message", "--type", "abort")
    assert [line.rpartition(" ")[2] for line in said_by_model.splitlines()] == ["one", "two"]


def test_a_long_text_is_cut_in_the_log(served: Served) -> None:
    said("s", "long " * 100)
    (line,) = ok("log", "s", "--type", "assistant.message").splitlines()
    assert line.endswith("…")


@pytest.mark.parametrize("arguments", [["send", "s", "-"], ["chat", "s"]])
def test_who_sends_into_a_paused_queue_is_told(served: Served, arguments: list[str]) -> None:
    said("s", "one")
    run("queue", "s", "--pause")
    with running(*arguments) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"[[say:two]]\n")
        process.stdin.close()
        assert b"`tertulia queue s --resume`" in process.stderr.readline()
        ok("queue", "s", "--resume")
        assert process.stdout.readline() == b"two\n"
        assert process.wait(BOUND_S) == 0


@pytest.mark.parametrize("first", [["--last", "1"], []])
def test_the_log_is_followed_until_ctrl_c(served: Served, first: list[str]) -> None:
    said("s", "one")
    with subprocess.Popen(
        [*TERTULIA, "log", "s", "--follow", "--json", "--type", "assistant.message", *first],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["data"]["content"] == "one"
        said("s", "two")
        assert json.loads(process.stdout.readline())["data"]["content"] == "two"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_followed_log_ends_with_its_session(served: Served) -> None:
    said("s", "one")
    with subprocess.Popen(
        [*TERTULIA, "log", "s", "--follow", "--last", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ok("delete", "s")
        _, err = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert err == b"tertulia: There is no session s; see `tertulia list`.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["rename", "nobody", "x"],
        ["metadata", "nobody"],
        ["metadata", "nobody", "a=b"],
        ["fork", "nobody"],
        ["rewind", "nobody"],
        ["export", "nobody"],
        ["queue", "nobody"],
        ["usage", "nobody"],
        ["log", "nobody"],
        ["log", "nobody", "--follow"],
    ],
    ids=" ".join,
)
def test_a_session_that_is_not_there_is_told_in_one_line(begun: Path, arguments: list[str]) -> None:
    done = run(*arguments)
    wanted = (1, "", "tertulia: There is no session nobody; see `tertulia list`.\n")
    assert (done.returncode, done.stdout, done.stderr) == wanted


def test_an_event_that_is_not_there_is_told_in_one_line(served: Served) -> None:
    said("s", "x")
    for arguments in (["fork", "s", "--at", "none"], ["rewind", "s", "none"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "tertulia: Event none not found in session s. `tertulia log` with the session shows the"
            " ids.\n"
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--filter", "nonsense"], "not KEY=VALUE"),
        (["list", "--filter", "cwd=/a", "--filter", "cwd=/b"], "cwd is given twice"),
        (["list", "--filter", "color=red"], "there is no key 'color'"),
        (["list", "--filter", "named=perhaps"], "true or false"),
        (["list", "--order", "size"], "invalid choice"),
        (["list", "--limit", "0"], "has to be 1 or more"),
        (["search"], "required: TEXT"),
        (["prune"], "required: --older-than"),
        (["prune", "--older-than", "soon"], "write 30d, 12h or 8w"),
        (["prune", "--older-than", "-3"], "is not an age"),
        (["prune", "--older-than", "99999999w"], "is more than 1000000 days"),
        (["rename", "s", "a\udcff"], "it is not valid UTF-8"),
        (["search", "a\udcff"], "it is not valid UTF-8"),
        (["metadata", "s", "team"], "'team' is not NAME=VALUE"),
        (["metadata", "s", "=red"], "'=red' is not NAME=VALUE"),
        (["metadata", "s", "a=\udcff"], "it is not valid UTF-8"),
        (["send", "s", "x", "--key", ""], "it is empty"),
        (["send", "s", "x", "--expected-seq", "x"], "not a whole number"),
        (["send", "s", "x", "--expected-seq", "1", "--model", "m"], "not allowed with --model"),
        (["send", "s", "x", "--model", ""], "it is empty"),
        (["list", "--connect", ""], "it is empty"),
        (["queue", "s", "--edit", "m", " "], "it is empty"),
        (["queue", "s", "--clear", "--pause"], "not allowed with"),
        (["log", "s", "--last", "x"], "not a whole number"),
        (["doctor", "--connect", "localhost:1"], "takes no --connect"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_wrong_usage_is_2(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


# The doctor: another program, found as the daemon is


CHECK = """
import os, signal, sys
if "--repair" in sys.argv:
    os.kill(os.getpid(), signal.SIGINT)
print(sys.argv[1:], os.environ["SEEN"], sys.flags.safe_path)
sys.exit(2)
"""


@pytest.fixture
def check(tmp_path: Path) -> dict[str, str]:
    """An environment whose `tertuliad.doctor` tells how it was started, and gives 2."""
    package = tmp_path / "doctor" / "tertuliad"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "doctor.py").write_text(CHECK)
    return {"PYTHONPATH": f"{package.parent}:{':'.join(sys.path)}", "SEEN": "the environment"}


def test_the_doctor_is_the_check_itself(home: Path, check: dict[str, str]) -> None:
    done = run("doctor", **check)
    assert done.returncode == 2
    assert done.stdout == f"['--home', '{home}'] the environment True\n"
    elsewhere = run("doctor", "--home", "/elsewhere", "--json", **check).stdout
    assert "['--home', '/elsewhere', '--json']" in elsewhere
    assert run("doctor", "--repair", **check).returncode in (130, -signal.SIGINT)


def program(folder: Path, first_line: str) -> str:
    folder.mkdir(parents=True)
    script = folder / "tertuliad"
    script.write_text(f"{first_line}\n")
    script.chmod(0o755)
    return str(script)


def test_the_daemons_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERTULIAD", program(tmp_path / "named", f"#!{sys.executable}"))
    assert launch.daemon_python() == sys.executable
    venv = program(tmp_path / "venv", "#!/bin/sh")
    (tmp_path / "venv" / "python").symlink_to(sys.executable)
    link = tmp_path / "tertuliad"
    link.symlink_to(venv)
    monkeypatch.setenv("TERTULIAD", str(link))
    assert launch.daemon_python() == str(tmp_path / "venv" / "python")
    monkeypatch.setenv("TERTULIAD", program(tmp_path / "odd", "#!/bin/sh"))
    with pytest.raises(DaemonFailed, match="which Python"):
        launch.daemon_python()


def test_the_readme_names_every_command(home: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (block,) = re.findall(r"\*\*On the command line\*\*:\n\n```sh\n(.*?)```", readme, re.DOTALL)
    told = re.findall(r"^tertulia (\w+)", block, re.MULTILINE)
    offered = re.findall(r"^ {4}(\w+) ", ok("--help"), re.MULTILINE)
    assert len(offered) > 15
    assert sorted({*told}) == sorted(offered)


def test_what_has_no_command_is_called_by_its_own_name(served: Served) -> None:
    said("a", "one")
    snapshot = json.loads(ok("call", "session.metadata.snapshot", '{"sessionId": "a"}'))
    assert snapshot["sessionId"] == "a"
    piped = ok("call", "session.name.get", "-", stdin='{"sessionId": "a"}')
    assert json.loads(piped) == json.loads(ok("call", "session.name.get", '{"sessionId": "a"}'))
    listed = json.loads(ok("call", "rpc.discover"))["methods"]
    assert {each["name"] for each in listed} == {*METHODS}


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "reason"),
    [
        (["session.name.get", '{"sessionId": "a b"}'], "", 1, "$.sessionId: "),
        (["session.nothing"], "", 1, "session.nothing"),
        (["session.name.get", "-"], '{"sessionId"', 1, "not a JSON object"),
        (["session.name.get", "[]"], "", 2, "not a JSON object"),
        ([], "", 2, "METHOD"),
    ],
)
def test_what_cannot_be_called_is_said_in_the_words_of_the_wire(
    served: Served, arguments: list[str], stdin: str, code: int, reason: str
) -> None:
    done = run("call", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, "")
    assert reason in done.stderr
