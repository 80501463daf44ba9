"""Commands whose daemon ends with them, in a home in which a message waits for its turn."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tertulia import Client
from tests.clients.command import ok
from tests.clients.conftest import Counted


@pytest.fixture(params=[False, True], ids=["stopped", "killed"])
def waiting(home: Path, counted: Counted, request: pytest.FixtureRequest) -> Path:
    """A home that a daemon left with a message that waits behind a turn. The one that was killed
    has not ended that turn."""
    with Client.spawn(home=home, command=counted.command) as client:
        session = client.create_session("s1")
        events = session.events()
        session.send("[[fake-n100000-d20]]")
        next(event for event in events if event.type == "assistant.message_delta")
        session.send("[[say:at last]]")
        if request.param:
            os.kill(counted.pids[0], signal.SIGKILL)
    return home


def row() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ok("list", "--json"))["sessions"][0]
    return found


@pytest.mark.parametrize(
    "arguments",
    [["show", "s1"], ["log", "s1"], ["queue", "s1"], ["rewind", "s1"], ["usage"], ["models"]],
)
def test_what_only_looks_leaves_it_waiting(waiting: Path, arguments: list[str]) -> None:
    ok(*arguments)
    assert row()["pending"] == 1
    assert "at last" in ok("queue", "s1")


def test_a_queue_that_goes_on_has_its_turns_before_the_daemon_ends(waiting: Path) -> None:
    ok("queue", "s1", "--resume")
    assert not row().get("pending")
    assert "model: at last" in ok("show", "s1")


def test_the_next_message_comes_behind_it(waiting: Path) -> None:
    assert ok("send", "s1", "[[say:and now]]") == "and now\n"
    shown = ok("show", "s1")
    assert shown.index("model: at last") < shown.index("model: and now")
