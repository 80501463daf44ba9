"""Two daemons on one data folder take the same session at the same moment, again and again.

What must hold after every race: each accepted message is in the log once, no refused one is, and
both daemons tell the same log, whose events form one chain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.daemon_process import stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Event, Wire


def races(home: Path, model: ModelThread, rounds: int) -> int:
    """How many messages were accepted. Raises `AssertionError` where something does not hold."""
    accepted: list[str] = []
    with stdio_daemon(home) as one, stdio_daemon(home) as two:
        wires = (one.wire, two.wire)
        session = one.wire.create(model.provider())
        two.wire.call("session.resume", sessionId=session, provider=model.provider())
        for number in range(rounds):
            accepted += _race(wires, session, number)
        logs = [wire.history(session) for wire in wires]
        assert logs[0] == logs[1]
        _check(logs[0], accepted)
        for wire in wires:
            _check_live(wire, session, logs[0])
    return len(accepted)


def _race(wires: tuple[Wire, Wire], session: str, number: int) -> list[str]:
    """Both send at once; the prompts that were accepted."""
    prompts = [f"[[say:{number}.{place}]]" for place in range(2)]
    asked = [
        wire.ask("session.send", {"sessionId": session, "prompt": prompt, "wait": True})
        for wire, prompt in zip(wires, prompts, strict=True)
    ]
    answers: list[dict[str, Any]] = [
        wire.answer(one) for wire, one in zip(wires, asked, strict=True)
    ]
    for answer in answers:
        if "error" in answer:
            assert answer["error"]["data"]["kind"] == "turn_busy", answer
    accepted = [
        prompt for prompt, answer in zip(prompts, answers, strict=True) if "result" in answer
    ]
    assert accepted, "nobody has won"
    return accepted


def _check(log: list[Event], accepted: list[str]) -> None:
    ids = [event["id"] for event in log]
    assert len(set(ids)) == len(ids), "an event is there twice"
    assert [event["parentId"] for event in log] == [None, *ids[:-1]], "the chain is broken"
    asked = [e["data"]["content"] for e in log if e["type"] == "user.message"]
    assert sorted(asked) == sorted(accepted)
    assert len(set(asked)) == len(asked)
    turns = [e["type"] for e in log if e["type"].startswith("assistant.turn_")]
    assert turns == ["assistant.turn_start", "assistant.turn_end"] * len(asked), "turns overlap"


def _check_live(wire: Wire, session: str, log: list[Event]) -> None:
    """What was sent live is a piece of the log: no gap, no repeat, also of the other's events."""
    seen = [event["id"] for event in wire.events(session) if not event.get("ephemeral")]
    ids = [event["id"] for event in log]
    start = ids.index(seen[0])
    assert seen == ids[start : start + len(seen)]
