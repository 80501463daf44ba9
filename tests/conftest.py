"""What every test shares."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The daemon runs on anyio's asyncio backend only."""
    return "asyncio"
