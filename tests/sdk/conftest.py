"""Ways to reach the daemon, each as an official SDK takes it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, tcp_daemon

TOKEN = "the-token-of-the-tests"


@dataclass(frozen=True)
class Way:
    """`stdio` and `tcp`: the SDK starts the daemon. `uri`: it runs already, for everybody."""

    connection: str
    home: Path
    uri: str = ""
    token: str = ""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What an SDK left open is closed while its warnings are still those of its own test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A shared daemon that asks for a token."""
    home = tmp_path_factory.mktemp("running") / "home"
    with tcp_daemon(home, "--turn-retries", "0", token=TOKEN) as daemon:
        yield daemon


@pytest.fixture
def own(tmp_path: Path) -> Way:
    """A daemon of the test's own, on pipes."""
    return Way("stdio", tmp_path / "home")


@pytest.fixture(params=["stdio", "tcp", "uri"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    """Every way; what is running is used by other tests too, so it is left as it was found."""
    home = tmp_path / "home"
    if request.param != "uri":
        yield Way(request.param, home)
        return
    with tcp_daemon(home, "--turn-retries", "0", token=TOKEN) as daemon:
        yield Way("uri", home, f"localhost:{daemon.port}", TOKEN)
        assert daemon.process.poll() is None, "a client that came does not end it"
