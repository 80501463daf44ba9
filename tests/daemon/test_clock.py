"""Times are written as clients read them, whatever the clock says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertuliad.clock import LATEST_MS, iso


@pytest.mark.parametrize(
    ("ms", "written"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (LATEST_MS, "9999-12-31T23:59:59.999Z"),
        (LATEST_MS + 1, "9999-12-31T23:59:59.999Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_is_written_in_utc(ms: int, written: str) -> None:
    assert iso(ms) == written


@given(st.integers())
def test_any_number_can_be_written(ms: int) -> None:
    assert len(iso(ms)) == len("1970-01-01T00:00:00.000Z")
