"""Daemons, where a test does not need its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon, tcp_daemon


@pytest.fixture
def stdio(home: Path) -> Iterator[DaemonProcess]:
    """A daemon on pipes, for one test."""
    with stdio_daemon(home) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon on TCP that lets anyone in, for the tests of one module. It tries a model once."""
    home = tmp_path_factory.mktemp("shared") / "home"
    with tcp_daemon(home, "--allow-anonymous", "--turn-retries", "0", token=None) as daemon:
        yield daemon
