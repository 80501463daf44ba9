"""The models' HTTP, for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tertuliad.providers.http import Http


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    http = Http()
    yield http
    await http.aclose()
