"""`tertulia chat`, whose daemon goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.command import TERTULIA, ok
from tests.clients.conftest import BOUND_S, Served, daemon_on, wait_until_gone

IMPATIENT = [
    sys.executable,
    "-c",
    "import sys; from tertulia import cli, limits;"
    " limits.RECONNECT_S = limits.SHARED_BACK_S = 0.2; sys.exit(cli.main())",
]
"""The command, which waits for no daemon to come back."""


@contextmanager
def chat(*arguments: str, program: list[str] = TERTULIA) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*program, "chat", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes], line: str) -> bytes:
    """Say a line; the first of the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line.encode() + b"\n")
    return process.stdout.readline()


def rest(process: subprocess.Popen[bytes], line: str) -> tuple[str, list[str]]:
    """Say a last line; what is said from there on, and the lines beside it."""
    out, err = process.communicate(line.encode() + b"\n", timeout=BOUND_S)
    return out.decode(), err.decode().splitlines()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(timeout=BOUND_S)


def test_a_chat_goes_on_in_the_daemon_that_comes_next(served: Served) -> None:
    with chat("s1") as talking:
        assert said(talking, "[[say:one]]") == b"one\n"
        kill(served.process)
        again = daemon_on(Path(served.address.removeprefix("unix:")))
        try:
            out, err = rest(talking, "[[fake-history]] two")
            assert talking.returncode == 0
            assert b"s1" in ok("list", "--connect", served.address).encode()
        finally:
            again.terminate()
            again.communicate(timeout=BOUND_S)
    assert out.startswith("[[say:one]]")  # the model was told of it
    assert "closed the connection. Connecting again." in err[0]
    assert err[1:] == ["Connected again: s1 goes on."]


def test_an_answer_that_was_cut_is_named_and_the_chat_goes_on(served: Served) -> None:
    """No shared daemon comes back: one of the chat's own takes its place."""
    with chat("s1", program=IMPATIENT) as talking:
        assert talking.stdin is not None
        assert talking.stdout is not None
        talking.stdin.write(b"[[fake-n100000-d20]] tell me of the sea\n")
        assert talking.stdout.read(2) == b"w0"
        kill(served.process)
        out, err = rest(talking, "[[say:still here]]")
    assert talking.returncode == 1  # an answer was lost
    assert out.endswith("\nstill here\n")
    assert "Connecting again." in err[0]
    assert err[1] == "Connected again: s1 goes on."
    assert err[2].startswith("“[[fake-n100000-d20]] tell me of the sea”: The daemon stopped")
    shown = ok("show", "s1")
    assert shown.count("tell me of the sea") == 1
    assert "error: The daemon stopped" in shown


def test_a_daemon_of_its_own_is_started_anew(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, pids = tmp_path / "daemon", tmp_path / "pids"
    program.write_text(f'#!/bin/sh\necho $$ >> "{pids}"\nexec {sys.executable} -m tertuliad "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("TERTULIAD", str(program))
    with chat("s1") as talking:
        assert said(talking, "[[say:one]]") == b"one\n"
        os.kill(first := int(pids.read_text()), signal.SIGKILL)
        wait_until_gone(first)
        out, err = rest(talking, "[[say:two]]")
    assert talking.returncode == 0
    assert out == "two\n"
    assert err[0] == "The daemon was ended by signal 9. Connecting again."
    assert len(pids.read_text().split()) == 2


def test_a_chat_whose_daemon_stays_away_ends_with_one_line(served: Served) -> None:
    with chat("s1", "--connect", served.address, program=IMPATIENT) as talking:
        assert said(talking, "[[say:one]]") == b"one\n"
        kill(served.process)
        out, err = rest(talking, "[[say:two]]\n[[say:three]]")
    assert talking.returncode == 1
    assert out == ""
    assert len(err) == 2
    assert err[1].startswith(f"tertulia: No daemon answers at {served.address}")
