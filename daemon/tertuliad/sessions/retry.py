"""Which failed model call is tried again, and when: pure.

A call is tried again only while nobody can have seen anything of its answer, only where whoever
failed says so (`ProviderFailed.retryable`), and only within the bounds of its turn. Times are in
seconds.
"""

from __future__ import annotations

import msgspec

from tertuliad import limits
from tertuliad.providers.base import ProviderFailed


class TurnLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one turn: further tries of a failed call, seconds in all, and seconds without
    a byte from the model; None: as `limits` says for streamed answers and for others."""

    retries: int = limits.TURN_RETRIES
    timeout_s: float = limits.TURN_TIMEOUT_S
    idle_timeout_s: float | None = None

    def patience_s(self, stream: bool) -> float:
        """How long the model may send nothing."""
        if self.idle_timeout_s is not None:
            return self.idle_timeout_s
        return limits.TURN_IDLE_TIMEOUT_S if stream else limits.NOT_STREAMED_TIMEOUT_S


class Tried(msgspec.Struct, frozen=True):
    """How far a turn has come when a call fails: tries before this one, the time since the first
    began, and whether something of the answer was passed on."""

    retries: int
    elapsed_s: float
    answered: bool


def wait_before_retry(
    failure: ProviderFailed, tried: Tried, bounds: TurnLimits, jitter: float
) -> float | None:
    """Seconds to wait before the next try; None: there is none.

    `jitter`, from 0 to 1, spreads the tries of many turns: a wait is between half and the whole of
    its step. A server that says when to come back is not asked earlier, and where it says later
    than we wait, not again.
    """
    if tried.answered or not failure.retryable:
        return None
    if tried.retries >= bounds.retries:
        return None
    step = min(limits.RETRY_FIRST_WAIT_S * 2.0**tried.retries, limits.RETRY_LONGEST_WAIT_S)
    wait = step * (0.5 + 0.5 * jitter)
    if failure.retry_after is not None:
        if failure.retry_after > limits.RETRY_AFTER_S:
            return None
        wait = max(wait, failure.retry_after)
    last = min(limits.RETRY_WINDOW_S, bounds.timeout_s)
    return wait if tried.elapsed_s + wait <= last else None
