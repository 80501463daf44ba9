"""The examples of the README run as they stand there, but for what is each reader's own: the path
of the daemon, its port, the model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import TERTULIAD, environment, tcp_daemon
from tests.support.model_thread import ModelThread

HERE = Path(__file__).resolve().parent
README = (HERE.parents[1] / "README.md").read_text("utf-8")
BOUND_S = 60.0

THEIRS = {
    "venv": "/path/to/.venv/bin/tertuliad",
    "path": "/path/to/tertuliad",
    "model": "my-model",
    "local": "local/smollm2-135m-instruct",
    "url": "http://127.0.0.1:11434/v1",
    "address": "localhost:4100",
    "until": "print(event.type)",
}
"""What stands in the README for what is the reader's own."""

pytestmark = pytest.mark.sdk


def example(language: str, mark: str) -> str:
    """The one block of this language that says `mark`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if mark in block)
    return str(found)


def fitted(text: str, **own: str) -> str:
    """`text` with each of what is the reader's own in its place."""
    for theirs, ours in own.items():
        assert THEIRS[theirs] in text
        text = text.replace(THEIRS[theirs], ours)
    return text


@pytest.fixture
def model() -> Iterator[ModelThread]:
    with ModelThread() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, model: ModelThread) -> Path:
    """A home whose configuration names the model."""
    place = tmp_path / "home"
    place.mkdir()
    lines = ["[providers.work]", f"base_url = {json.dumps(model.base_url)}", 'models = ["fake"]']
    (place / "config.toml").write_text("\n".join(lines))
    return place


def said(*command: str, home: Path) -> str:
    """What a program that ends well has printed."""
    path = f"{TERTULIAD.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=home,
        env=environment(home, {"PATH": path}),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(text: str, home: Path) -> str:
    return said(sys.executable, "-c", text, home=home)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node 20.19 or newer")
@pytest.mark.skipif(
    not (HERE / "node_modules" / "@github" / "copilot-sdk").is_dir(),
    reason="needs `npm ci` in tests/sdk (make test does it)",
)
def test_the_typescript_example(home: Path, model: ModelThread, tmp_path: Path) -> None:
    text = example("ts", "@github/copilot-sdk").replace(" as const", "")
    program = tmp_path / "example.mjs"
    program.write_text(fitted(text, venv=str(TERTULIAD), model="fake-history", url=model.base_url))
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    once = said("node", str(program), home=home)
    assert "How do I set up tsconfig?" in once
    again = said("node", str(program), home=home)
    assert again.count("How do I set up tsconfig?") == 2, "the session is there again"


def test_the_example_of_the_official_python_sdk(home: Path, model: ModelThread) -> None:
    text = fitted(example("python", "copilot"), path=str(TERTULIAD), model="work/fake")
    imports, body = text.split("\n\n", 1)
    body = f"async def main():\n{textwrap.indent(body, '    ')}"
    out = python(f"import asyncio\n{imports}\n{body}\nasyncio.run(main())", home)
    assert out.strip()
    assert len(model.chats) == 1


def test_the_example_of_the_python_client(home: Path, model: ModelThread) -> None:
    text = fitted(example("python", "Client.spawn()"), local="work/fake")
    out = python(f"import sys\n{text}", home)
    assert out.strip()
    last = [message["content"] for message in model.chats[-1].body["messages"]]
    assert last[-3:] == ["Say hello.", out.splitlines()[0], "And once more, slowly."]


def test_the_example_of_what_is_done_with_sessions(home: Path, model: ModelThread) -> None:
    text = example("python", "client.iter_sessions")
    with tcp_daemon(home, token=None) as daemon:
        address = f"localhost:{daemon.port}"
        before = f"""
            from tertulia import Client
            with Client.connect("{address}") as client:
                with client.create_session("plans", model="work/fake") as session:
                    session.send_and_wait("In a virtual environment.")
            """
        after = fitted(text, address=address, until="break")
        out = python(f"{textwrap.dedent(before)}\n{after}", home)
    assert "plans In a virtual environment." in out
    assert (home / "plans.json").exists()
    assert len(model.chats) == 2
