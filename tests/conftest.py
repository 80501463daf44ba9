"""What every test shares."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The daemon runs on anyio's asyncio backend only."""
    return "asyncio"


# Started in the background of a shell, pytest ignores SIGINT, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
