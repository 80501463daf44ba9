"""A running turn: one answer of the model, from the session's history to its outcome.

The turn posts what happens to its session and decides nothing. It ends in exactly one of `done` and
`failed`, or is cancelled by its session; idle and absolute time-outs end it as a failure. A call
that fails before anything of its answer came is tried again, as `retry` says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import msgspec

from tertulia_protocol.config import SessionConfig, given_providers
from tertulia_protocol.errors import RpcError
from tertuliad import open_files
from tertuliad.providers.base import ANOTHER_TRY, Done, Message, ProviderFailed, Target
from tertuliad.sessions.credentials import Kept
from tertuliad.sessions.decide.answering import Outcome
from tertuliad.sessions.model_request import as_the_caller_knows, request_of
from tertuliad.sessions.retry import Tried, wait_before_retry
from tertuliad.sessions.world import World

log = logging.getLogger(__name__)

_LISTED = "models.list shows what can be used."
_NAMES_OF_OTHERS = (
    "The names of configured models do not apply to a session with a provider of its own."
)


class TurnEvents(Protocol):
    """Where a turn says what happens to it. `failed` and `retrying` name the model, if one was
    found, and `retrying` the seconds until the next try."""

    def delta(self, text: str, reasoning: str) -> None: ...
    def over(self) -> None: ...
    def retrying(self, failure: ProviderFailed, model: str | None, wait_s: float) -> None: ...
    def done(self, outcome: Outcome) -> None: ...
    def failed(self, failure: ProviderFailed, model: str | None) -> None: ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn starts from: the session as it was when its message was admitted."""

    session_id: str
    turn_id: str
    created_ms: int
    config: SessionConfig
    history: Callable[[], Awaitable[list[Message]]]
    headers: dict[str, str]


class Turn:
    """Dies with its model call, or with the last one that is tried."""

    def __init__(self, plan: Plan, world: World, events: TurnEvents) -> None:
        self.id = plan.turn_id
        self._plan = plan
        self._world = world
        self._events = events
        self._scope: anyio.CancelScope | None = None
        """Of the try that is under way, or of the wait for the next."""
        self._stopped = False
        self.answered = False
        """Something of the answer was passed on."""

    def stop(self) -> None:
        """Close the call to the model; nothing is posted any more."""
        self._stopped = True
        self._events.over()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        started, retries = time.monotonic(), 0
        last = anyio.current_time() + self._world.turn_limits.timeout_s
        while not self._stopped and (wait := await self._try(last, started, retries)) is not None:
            retries += 1
            with anyio.CancelScope() as self._scope:
                await anyio.sleep(wait)

    async def _try(self, last: float, started: float, retries: int) -> float | None:
        """Call the model, until the clock says `last`; seconds until it is called again."""
        target: Target | None = None
        outcome: Outcome | None = None
        try:
            with anyio.CancelScope(deadline=last) as scope:
                self._scope = scope
                target = await self._target()
                outcome = await self._call(target, last, scope)
            if self._stopped:
                return None
            if outcome is None:
                raise self._timed_out(last)
        except ProviderFailed as failure:
            name = target.display_name if target else None
            tried = Tried(retries, time.monotonic() - started, self.answered)
            jitter = os.urandom(1)[0] / 255
            wait = wait_before_retry(failure, tried, self._world.turn_limits, jitter)
            if wait is not None:
                self._events.retrying(failure, name, wait)
            else:
                self._events.failed(self._explained(failure), name)
            return wait
        except Exception as error:  # noqa: BLE001 - a turn always ends with an event
            self._events.failed(_unexpected(error), None)
        else:
            self._events.done(outcome)
        return None

    async def _target(self) -> Target:
        plan = self._plan
        kept = self._kept()
        target = None if kept is None else kept.target(plan.config.model)
        if target is None:
            config = plan.config
            given = given_providers(config) if kept is None else kept.providers(config.models)
            try:
                target = await self._world.resolve(plan.config.model, given)
            except RpcError as error:
                raise ProviderFailed("unavailable", error.message) from error
            if kept is not None:
                kept.found(plan.config.model, target)
        return as_the_caller_knows(target, plan.config)

    def _kept(self) -> Kept | None:
        return self._world.credentials.of(self._plan.session_id, self._plan.created_ms)

    def _explained(self, failure: ProviderFailed) -> ProviderFailed:
        """With what only the session knows: a key that was given to an earlier process is gone with
        it, and a provider that the session brought has other models than those that are listed."""
        kept = self._kept()
        given = given_providers(self._plan.config) if kept is None else kept.given
        if failure.kind == "authentication" and given is not None and kept is None:
            failure.message += (
                " Keys are never stored: resume the session with its provider and key."
            )
        elif failure.kind == "model_not_found":
            own = given is not None and given.provider is not None
            failure.message += f" {_NAMES_OF_OTHERS if own else _LISTED}"
        return failure

    async def _call(self, target: Target, last: float, scope: anyio.CancelScope) -> Outcome | None:
        """What came of the call; None: it was given up."""
        plan = self._plan
        try:
            history = await plan.history()
        except RpcError as error:  # of the store: it says what to do
            raise ProviderFailed("server_error", error.message) from error
        request = request_of(plan.config, target, history, plan.headers)
        started = time.monotonic()
        first: float | None = None
        done: Done | None = None
        silence = _Silence(scope, self._world.turn_limits.patience_s(request.stream), last)
        async for piece in target.provider.stream(request):
            if scope.cancel_called:
                return None  # it comes so fast that no cancellation gets between
            if isinstance(piece, Done):
                done = piece
                continue
            silence.broken()
            if piece.text or piece.reasoning:
                if first is None:
                    first = time.monotonic()
                self.answered = True
                self._events.delta(piece.text, piece.reasoning)
        if done is None:
            raise ProviderFailed("bad_response", f"The model's answer has no end. {ANOTHER_TRY}")
        return Outcome(
            done=done,
            target=target,
            duration_ms=(time.monotonic() - started) * 1000,
            first_delta_ms=None if first is None else (first - started) * 1000,
        )

    def _timed_out(self, last: float) -> ProviderFailed:
        allowed = self._world.turn_limits
        if anyio.current_time() >= last:
            text = (
                f"The turn took longer than the {allowed.timeout_s:g} s that one may take, and was"
                " ended. Ask for less at once, or start the daemon with a longer --turn-timeout."
            )
        else:
            patience = allowed.patience_s(bool(self._plan.config.streaming))
            text = (
                f"The model sent nothing for {patience:g} s, and the turn was ended. Try again, use"
                " a faster model, or start the daemon with a longer --turn-idle-timeout."
            )
        return ProviderFailed("timeout", text, retryable=True)


class _Silence:
    """Cancels `scope` once nothing was heard for `patience` seconds, or the clock says `last`.

    A timer costs more than a delta, so that it is set anew after a while only, and comes that much
    too late.
    """

    def __init__(self, scope: anyio.CancelScope, patience: float, last: float) -> None:
        self._scope = scope
        self._clock = asyncio.get_running_loop().time  # anyio's, without the way to it
        self._late = min(patience / 8, 1.0)
        self._patience = patience + self._late
        self._last = last
        self._due = 0.0
        self.broken()

    def broken(self) -> None:
        """Something was heard."""
        now = self._clock()
        if now >= self._due:
            self._due = now + self._late
            self._scope.deadline = min(self._last, now + self._patience)


def _unexpected(error: Exception) -> ProviderFailed:
    if open_files.are_short(error):
        return ProviderFailed("server_error", open_files.told())
    reference = os.urandom(4).hex()
    log.error("unexpected error in a turn %s", reference, exc_info=error)
    return ProviderFailed(
        "server_error", f"An error inside the daemon; its log has it under {reference}."
    )
