"""A scripted model and a data folder for the clients' tests; the daemon is the real one."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
BOUND_S = 60.0
"""Nothing a test waits for takes so long; reaching it is a failure and not a measurement."""


class Model:
    """A scripted model in a process of its own. Lives for the whole run."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    @property
    def provider(self) -> dict[str, Any]:
        return {"type": "openai", "baseUrl": self.base_url, "apiKey": "key-of-a-test"}

    @property
    def requests(self) -> int:
        """How many requests it has had."""
        root = self.base_url.removesuffix("/v1")
        with urllib.request.urlopen(f"{root}/stats", timeout=BOUND_S) as response:
            return int(json.load(response)["requests"])


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    script = REPO / "tests" / "support" / "scripted_model.py"
    with subprocess.Popen(
        [sys.executable, str(script), "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Model(f"http://127.0.0.1:{int(line.rpartition(':')[2])}/v1")
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=BOUND_S)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model) -> Path:
    """An environment in which the scripted model is the only provider; the home's path."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith(("TERTULIA", "COPILOT", "OPENAI")):
            monkeypatch.delenv(name)
    for name in ("COLUMNS", "LINES", "NO_COLOR"):  # how text is shown is the tests' affair
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("TERTULIA_HOME", str(home))
    monkeypatch.setenv("COPILOT_PROVIDER_BASE_URL", model.base_url)
    monkeypatch.setenv("COPILOT_MODEL", "fake-n3")
    monkeypatch.setenv("NO_PROXY", "*")
    return home


@pytest.fixture
def home(environment: Path) -> Path:
    return environment


@pytest.fixture
def begun(home: Path) -> Path:
    """A home without sessions, which commands that make none take for one."""
    home.mkdir()
    (home / "config.toml").touch()
    return home


class Counted:
    """A command that starts the daemon and keeps the process id of every start."""

    def __init__(self, log: Path) -> None:
        self._log = log
        program = (
            "import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n');"
            " os.execv(sys.executable, [sys.executable, '-m', 'tertuliad', *sys.argv[2:]])"
        )
        self.command = [sys.executable, "-c", program, str(log)]

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "pids")


def wait_until_gone(pid: int) -> None:
    """Until process `pid` has ended; fails after the bound."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], BOUND_S)
    finally:
        os.close(fd)
    assert ready, f"process {pid} is still there"


class Served:
    """A shared daemon in a process of its own, and its unix socket."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self.process = process
        self.address = f"unix:{socket}"


@pytest.fixture
def served(home: Path) -> Iterator[Served]:
    """A shared daemon on the socket where clients of the same home look for it."""
    socket = home / "run" / "tertuliad.sock"
    process = daemon_on(socket)
    try:
        yield Served(process, socket)
    finally:
        process.terminate()
        process.communicate(timeout=BOUND_S)


def daemon_on(socket: Path) -> subprocess.Popen[bytes]:
    """A shared daemon that listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tertuliad", "--socket", str(socket)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        announced(process)
    except BaseException:
        process.kill()
        process.communicate(timeout=BOUND_S)
        raise
    return process


def announced(process: subprocess.Popen[bytes]) -> str:
    """The line in which a daemon says where it listens; it is ready then."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], BOUND_S)
    line = process.stdout.readline().decode() if ready else ""
    assert "listening on" in line, f"{line!r}, exit code {process.poll()}"
    return line


def listening_port(process: subprocess.Popen[bytes]) -> int:
    """The port that a daemon announces."""
    found = re.search(r"listening on port (\d+)", announced(process))
    assert found
    return int(found[1])
