"""A home whose path is too deep for the address of its daemon's socket."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tertulia import AsyncClient, Client
from tertulia_protocol import layout
from tests.clients.command import TERTULIA, ok, run
from tests.clients.conftest import BOUND_S, announced
from tests.clients.test_node_client import NODE, play

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has a way round it")


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / ("folder-in-a-folder/" * 8) / "home"
    monkeypatch.setenv("TERTULIA_HOME", str(home))
    return home


@pytest.fixture
def socket(deep: Path) -> Iterator[Path]:
    """That of a shared daemon."""
    path = layout.shared_socket(deep)
    assert len(str(path)) > layout.SOCKET_PATH_BYTES
    with subprocess.Popen(
        [*TERTULIA, "serve"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        try:
            assert str(path) in announced(process)
            yield path
        finally:
            process.terminate()
            process.wait(timeout=BOUND_S)
    assert not path.exists()


def test_its_shared_daemon_is_found_and_is_for_its_user_alone(socket: Path) -> None:
    ok("send", "s1", "[[say:hi]]", TERTULIAD="/nowhere/tertuliad")  # none is started
    with Client.connect(f"unix:{socket}") as client:
        assert [info.session_id for info in client.sessions()] == ["s1"]
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


@pytest.mark.anyio
async def test_the_async_client_reaches_it(socket: Path) -> None:
    async with AsyncClient.connect(f"unix:{socket}") as client:
        assert await client.ping("x") == "pong: x"


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_client_for_node_reaches_it(socket: Path, deep: Path) -> None:
    found = play(
        """
        const told = (promise) => promise.catch((e) => e.message);
        const client = await Client.connect(first);
        const { message } = await client.request("ping", { message: "x" });
        await client.close();
        out([message, ...await Promise.all(rest.map((each) => told(Client.connect(each))))]);
        """,
        f"unix:{socket}",
        f"unix:{socket}.not",
        f"unix:{deep}/nowhere/x.sock",
    )
    assert found[0] == "pong: x"
    assert f"No daemon at unix:{socket}.not: run tertulia serve" in found[1]
    assert f"No daemon at unix:{deep}/nowhere/x.sock: run tertulia serve" in found[2]


def test_where_nothing_listens_the_path_is_named(deep: Path) -> None:
    done = run("list", "--connect", f"unix:{layout.shared_socket(deep)}")
    assert done.returncode == 1
    assert f"No daemon answers at unix:{deep}" in done.stderr
    assert "tertulia serve" in done.stderr
    assert not deep.exists()


def test_a_name_that_no_address_can_hold_is_refused_with_advice(home: Path) -> None:
    done = run("serve", "--socket", str(home / ("s" * 120)))
    assert done.returncode == 1
    assert "Choose a shorter --socket." in done.stderr
    assert "Traceback" not in done.stderr
