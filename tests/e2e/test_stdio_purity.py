"""Promise 6: in stdio mode nothing but frames reaches standard output, whatever prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.daemon_process import stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import said

NOISE = "noise-of-a-library"
NOISY_IMPORTS = f"""
import os, sys

class Noisy:
    def find_spec(self, name, path=None, target=None):
        if name in ("aiohttp", "pylsp_jsonrpc", "sqlite3", "tertuliad.daemon", "uvloop"):
            print("{NOISE}", name, flush=True)
            os.write(1, b"{NOISE} written\\n")
            os.system("echo {NOISE} of a child")

sys.meta_path.insert(0, Noisy())
"""
"""Libraries that print when they are imported: to the file, to the descriptor, in a child."""


@pytest.fixture
def noisy(tmp_path: Path) -> dict[str, str]:
    """An environment in which the daemon's libraries print."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NOISY_IMPORTS)
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), before]))}


@pytest.mark.parametrize("level", ["none", "all"])
def test_every_byte_on_stdout_is_a_frame_through_turns_that_fail_and_turns_that_do_not(
    home: Path, model: ModelThread, level: str
) -> None:
    with stdio_daemon(home, "--turn-retries", "0", "--log-level", level) as daemon:
        session = daemon.wire.create(model.provider(), streaming=True)
        for prompt in ("[[say:fine]]", "[[fake-e500]]", "[[fake-n3-cut1]]", "[[fake-nonsense]]"):
            daemon.wire.turn(session, prompt)
        daemon.wire.send_bytes(b"Content-Length: abc\r\n\r\n")
        assert daemon.wait() == 0
        daemon.wire.until_end()
        assert daemon.wire.fault is None
        if level == "none":
            assert daemon.stderr == ""


def test_what_a_library_prints_goes_to_stderr(
    home: Path, model: ModelThread, noisy: dict[str, str]
) -> None:
    with stdio_daemon(home, "--turn-retries", "0", "--log-level", "all", env=noisy) as daemon:
        session = daemon.wire.create(model.provider())
        assert said(daemon.wire.turn(session, "[[say:heard]]")) == ["heard"]
        daemon.wire.close()
        assert daemon.wait() == 0
        daemon.wire.until_end()
        assert daemon.wire.fault is None
        assert f"{NOISE} aiohttp" in daemon.stderr
        assert f"{NOISE} written" in daemon.stderr
        assert f"{NOISE} of a child" in daemon.stderr
        assert NOISE.encode() not in daemon.received


def test_a_parent_that_never_reads_stderr_does_not_hold_the_daemon_up(
    home: Path, model: ModelThread
) -> None:
    """Its pipe is filled to the brim beforehand, so that the first line finds no room."""
    full, into = os.pipe()
    os.set_blocking(into, False)
    try:
        while os.write(into, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(into, True)
    with stdio_daemon(home, "--turn-retries", "0", "--log-level", "all", stderr=into) as daemon:
        os.close(into)
        session = daemon.wire.create(model.provider())
        for _ in range(3):
            assert daemon.wire.turn(session, "[[fake-e500]]")[-1]["type"] == "session.idle"
        daemon.wire.close()
        assert daemon.wait() == 0
    os.close(full)
