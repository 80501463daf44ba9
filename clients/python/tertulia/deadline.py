"""A time-out that several steps share: each of them has what those before it have left."""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec

from tertulia.calls import Call
from tertulia.errors import Timeout

T = TypeVar("T")


class Deadline:
    """`timeout` seconds from now; None: never."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._at = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """The seconds until then."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def bound(self, call: Call[T]) -> Call[T]:
        """`call` itself, or where there is less time than it has, one that ends by then."""
        left = self.left()
        if left is None or (call.timeout is not None and call.timeout <= left):
            return call
        return msgspec.structs.replace(call, timeout=left)

    def missed(self, state: str) -> Timeout:
        """What a turn ends with that was waited for; `state` says how far it was."""
        return Timeout(f"The turn did not end within {self._timeout:g} s", state)
