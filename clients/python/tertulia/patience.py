"""Trying again: where the daemon refuses and says when (`RpcError.retry_ms`), and where it is gone.

    patiently(lambda: session.send("Hello"))

Whatever was refused so was not done, so that asking again does nothing twice. Every other error,
and a refusal without a time, is raised at once. `Backoff` is for whoever connects again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tertulia import limits
from tertulia.errors import RpcError

T = TypeVar("T")


def patiently(ask: Callable[[], T], within: float = limits.PATIENCE_S) -> T:
    """What `ask` gives, asked again while it is refused with a time. Raises the last refusal where
    the next try would come later than `within` seconds after the first."""
    patience = _Patience(within)
    while True:
        try:
            return ask()
        except RpcError as error:
            wait_s = patience.wait_s(error)
        time.sleep(wait_s)


async def patiently_async(ask: Callable[[], Awaitable[T]], within: float = limits.PATIENCE_S) -> T:
    """As `patiently`: `await patiently_async(lambda: session.send("Hello"))`."""
    import anyio  # whoever awaits has it

    patience = _Patience(within)
    while True:
        try:
            return await ask()
        except RpcError as error:
            wait_s = patience.wait_s(error)
        await anyio.sleep(wait_s)


class _Patience:
    """How long is waited before the next try: what the daemon says, and no less than twice the
    wait before, up to a bound."""

    def __init__(self, within: float) -> None:
        self._until = time.monotonic() + within
        self._waited_s = 0.0

    def wait_s(self, error: RpcError) -> float:
        """Raises `error` where there is no next try."""
        if error.retry_ms is None:
            raise error
        longer = min(2 * self._waited_s, limits.PATIENCE_LONGEST_WAIT_S)
        self._waited_s = max(error.retry_ms / 1000, longer)
        if time.monotonic() + self._waited_s > self._until:
            raise error
        return self._waited_s


class Backoff:
    """The waits between tries to reach a daemon again, in seconds."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._next = limits.RECONNECT_FIRST_WAIT_S

    def wait(self, now: float) -> float | None:
        """How long to wait before the next try; None: it is time to give up."""
        if now >= self._until:
            return None
        wait = min(self._next, max(0.0, self._until - now))
        self._next = min(self._next * 2, limits.RECONNECT_LONGEST_WAIT_S)
        return wait
