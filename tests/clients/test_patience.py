"""A refusal that says when to try again is tried again, and any other is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tertulia import (
    Client,
    InvalidParams,
    Overloaded,
    RpcError,
    Session,
    TurnBusy,
    patiently,
    patiently_async,
)
from tertulia.patience import Backoff
from tests.clients.conftest import BOUND_S


class Refusing:
    """Raises its errors one after the other, then answers."""

    def __init__(self, *errors: RpcError) -> None:
        self.errors = list(errors)

    def ask(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "taken"

    async def ask_async(self) -> str:
        return self.ask()


def soon() -> Overloaded:
    return Overloaded("full", retry_ms=1)


@pytest.mark.parametrize(
    ("data", "retry_ms"),
    [
        ({"retryMs": 250}, 250),
        ({}, None),
        (None, None),
        ({"retryMs": "soon"}, None),
        ({"retryMs": -1}, None),
        ({"retryMs": 0}, None),
        ({"retryMs": True}, None),
    ],
)
def test_an_error_says_when_to_try_again(data: Any, retry_ms: int | None) -> None:
    assert RpcError(-1, "no", data).retry_ms == retry_ms


def test_what_is_refused_with_a_time_is_asked_again() -> None:
    assert patiently(Refusing(soon(), TurnBusy("busy", retry_ms=1), soon()).ask) == "taken"


@pytest.mark.anyio
async def test_what_is_refused_with_a_time_is_asked_again_by_a_task() -> None:
    assert await patiently_async(Refusing(soon(), soon()).ask_async) == "taken"
    with pytest.raises(InvalidParams):
        await patiently_async(Refusing(InvalidParams("no")).ask_async)


@pytest.mark.parametrize("final", [Overloaded("never"), InvalidParams("no"), ValueError("ours")])
def test_what_waiting_does_not_help_is_raised_at_once(final: Any) -> None:
    refusing = Refusing(soon(), final, soon())
    with pytest.raises(type(final)) as raised:
        patiently(refusing.ask)
    assert raised.value is final
    assert len(refusing.errors) == 1


def test_patience_ends_with_the_refusal() -> None:
    refusing = Refusing(Overloaded("full", retry_ms=10**9), soon())
    with pytest.raises(Overloaded, match="full"):
        patiently(refusing.ask)
    with pytest.raises(Overloaded):
        patiently(refusing.ask, within=0)
    assert refusing.ask() == "taken"


def test_a_message_for_an_idle_session_is_sent_once_it_is_idle(home: Path) -> None:
    def send(session: Session) -> str:
        try:
            return session.send("hello", if_idle=True)
        except TurnBusy:
            session.abort()
            raise

    with Client.spawn(home=home) as client:
        session = client.create_session("s", "fake-history")
        session.send("[[fake-hang]]")
        assert patiently(lambda: send(session), within=BOUND_S)


def test_a_backoff_waits_longer_each_time_and_ends_at_its_time() -> None:
    backoff = Backoff(10.0)
    waits = []
    now = 0.0
    while (wait := backoff.wait(now)) is not None:
        waits.append(wait)
        now += wait
    assert waits == sorted(waits[:-1]) + waits[-1:]
    assert sum(waits) == pytest.approx(10.0)
    assert max(waits) <= 2.0
