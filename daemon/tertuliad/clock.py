"""The time, as the wire and the store have it."""

from __future__ import annotations

import datetime
import functools
import time


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


LATEST_MS = 253_402_300_799_999
"""The last one of the year 9999, behind which no time can be written."""


@functools.lru_cache(maxsize=64)
def iso(ms: int) -> str:
    """`ms` since 1970 as ISO 8601 in UTC, with milliseconds; what no calendar has is the nearest
    that one does. One command says the same several times."""
    ms = min(max(ms, 0), LATEST_MS)
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """Events come many to a second, and formatting is slow."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
