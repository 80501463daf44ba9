"""Those who were refused together do not come back together."""

from __future__ import annotations

import os
from typing import Any


def spread(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """The `data` of an error with its `retryMs` between once and twice of what it was."""
    if not data or "retryMs" not in data:
        return data
    share = int.from_bytes(os.urandom(4)) / 2**32
    return {**data, "retryMs": data["retryMs"] + int(data["retryMs"] * share)}
