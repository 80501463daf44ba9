"""Eviction is invisible: a session that is dropped from memory after every step tells its clients
the same, answer by answer and event by event, as one that never was."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine import keeping, pace, talking
from tests.machine.engine import Engine
from tests.machine.ground import Ground
from tests.machine.rules import HOW, LONG, SETTINGS, WHICH, WHO
from tests.machine.test_engine_machine import STEPS

UNSURE = {
    talking.all_at_once,
    talking.abort_as_it_ends,
    pace.stop_reading,
    pace.hundreds_at_once,
    keeping.evict,
    keeping.crash,
    keeping.crash_in_next,
    keeping.leave_and_come_back,
}
"""What comes of these is a matter of moments, or is another property."""
SURE = [step for step in STEPS if step not in UNSURE]
FIRST = [(keeping.create, 0, 0, 1), (talking.send_plainly, 0, 0, 0), (talking.finish, 0, 0, 0)]
SCRIPTS = st.lists(st.tuples(st.sampled_from(SURE), WHO, WHICH, HOW), min_size=5, max_size=40)

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=[0-9]\.)[0-9a-f]{8}(?=\")")
"""Ids, and the mark that a cursor has of its log."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_MEASURED = {
    "duration",
    "timeToFirstTokenMs",
    "totalApiDurationMs",
    "sessionStartTime",
    "startTime",
    "durationMs",
    "freedBytes",
}
_SPREAD = {"retryMs"}
"""Said differently each time; that it is said is the same."""
Told = dict[str, list[Any]]


def told(engine: Engine) -> list[Told]:
    """What each client was told: by session its events, and by request its answer."""
    return [_told(client.frames.messages) for client in engine.clients]


def _told(frames: list[dict[str, Any]]) -> Told:
    found: Told = {}
    for frame in frames:
        if frame.get("method") == "session.event":
            found.setdefault(frame["params"]["sessionId"], []).append(frame["params"]["event"])
        elif "method" not in frame:
            found.setdefault(f"answer {frame['id']}", []).append(
                frame.get("result", frame.get("error"))
            )
    return found


def alike(told: list[Told]) -> str:
    """The same text for what differs in ids, times and spread waits only."""
    ids: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        return ids.setdefault(match[0], f"id{len(ids)}")

    text = json.dumps(_unmeasured(told), sort_keys=True, indent=1)
    return _TIME.sub("then", _ID.sub(renamed, text))


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: "some" if k in _SPREAD else _unmeasured(v)
            for k, v in value.items()
            if k not in _MEASURED
        }
    return [_unmeasured(each) for each in value] if isinstance(value, list) else value


def played(script: list[Any], *, forgetful: bool) -> str:
    ground = Ground()
    engine = Engine(ground)
    engine.forgetful = forgetful

    async def play() -> str:
        await engine.start()
        try:
            for step, who, which, how in [*FIRST, *script]:
                await step(engine, who, which, how)
                await engine.settle()
            return alike(told(engine))
        finally:
            await engine.daemon.end()

    try:
        return ground.run(play())
    finally:
        ground.close()


@settings(SETTINGS, max_examples=150 if LONG else 12)
@given(SCRIPTS)
def test_a_session_that_is_evicted_at_any_point_is_as_one_that_never_was(
    script: list[Any],
) -> None:
    assert played(script, forgetful=True) == played(script, forgetful=False)
