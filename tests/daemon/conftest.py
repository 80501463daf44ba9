"""What several tests of a daemon begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tertuliad import limits
from tests.support.frames_client import FramesClient
from tests.support.pair import Room, pair


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[FramesClient, Room]]:
    """A client, and the daemon that it is connected to."""
    async with pair(tmp_path / "home") as parts:
        yield parts


@pytest.fixture
def looks_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other daemons write is not looked for until the test does."""
    monkeypatch.setattr(limits, "OTHERS_LOOK_S", 1e6)
