"""Promise 3 across processes: who follows a session in one daemon hears what another one on the
same home writes to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import types

TURN = [
    "user.message",
    "assistant.turn_start",
    "assistant.message",
    "assistant.turn_end",
]


@pytest.fixture
def pair(home: Path) -> Iterator[tuple[DaemonProcess, DaemonProcess]]:
    """Two daemons on one home, as two editors start them."""
    with stdio_daemon(home) as one, stdio_daemon(home) as other:
        yield one, other


def test_a_client_of_one_daemon_hears_a_turn_of_another(
    pair: tuple[DaemonProcess, DaemonProcess], model: ModelThread
) -> None:
    here, there = (daemon.wire for daemon in pair)
    session = here.create(model.provider())
    provider = {"model": "fake", "provider": model.provider()}
    there.call("session.resume", sessionId=session, **provider)
    there.turn(session, "[[say:from there]]")
    here.event(session, "session.idle")
    assert types(here.events(session))[-5:] == [*TURN, "session.idle"]

    cursor = here.call("session.eventLog.tail", sessionId=session)["cursor"]
    wanted = {"sessionId": session, "cursor": cursor, "waitMs": 30_000}
    poll = here.ask("session.eventLog.read", wanted)
    there.turn(session, "[[say:and again]]")
    assert here.answer(poll)["result"]["events"][0]["type"] == "user.message"
    here.event(session, "session.idle", 2)

    here.turn(session, "[[say:from here]]")
    there.event(session, "session.idle", 3)
    for wire in (here, there):
        seen = wire.stored(session)
        assert seen == wire.history(session)[-len(seen) :], "in order, without gap or repeat"
        assert types(seen)[-len(TURN) * 3 :] == TURN * 3
        assert len(wire.events(session, "session.idle")) == 3


def test_a_turn_whose_daemon_was_killed_ends_for_who_follows_it_in_another(
    pair: tuple[DaemonProcess, DaemonProcess], model: ModelThread
) -> None:
    here, there = (daemon.wire for daemon in pair)
    session = here.create(model.provider())
    there.call("session.resume", sessionId=session, provider=model.provider())
    there.call("session.send", sessionId=session, prompt="[[fake-n9-stall2]]")
    here.event(session, "assistant.turn_start")
    assert not here.events(session, "session.idle")
    pair[1].kill()
    here.event(session, "session.idle")
    assert here.events(session, "session.error")[0]["data"]["errorType"] == "turn_lost"
    here.turn(session, "[[say:it goes on]]")
