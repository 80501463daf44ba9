"""A daemon that kills itself with SIGKILL at a named step, and whose bounds are tiny.

Started as a script in the place of `tertuliad`, with its options. `TORTURE_DIES_AT` is the step and
which time it comes, as in `admit.stored:3`; without it, it dies when others kill it. The product
knows nothing of this: the doors between its parts are watched from here.

| step | when |
|---|---|
| `<write>.asked` | before the store is asked for this write |
| `<write>.storing` | in the next 2 ms: while it waits, is made or is synced, on whatever thread |
| `<write>.stored` | it is committed, and nobody was told |
| `call.asked`, `call.told` | before and after a turn finds its model |
| `tool.asked`, `tool.told` | before and after pieces of tool calls are put together |
| `<event>.asked`, `<event>.told` | before and after followers get the event |
| `evict.asked`, `evict.done` | before and after idle sessions are let go |
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tertuliad import limits

if __name__ == "__main__":
    # Before what reads them is imported. Who imports the names of the steps keeps its own bounds.
    limits.HOT_SESSIONS = 1
    limits.SNAPSHOT_EVENTS = 16
    limits.WAL_CHANGES = 5
    limits.INDEX_PAUSE_S, limits.INDEX_LATE_S = 0.05, 0.1

from tertuliad import entry
from tertuliad.follow import Hub
from tertuliad.models import Models
from tertuliad.providers.openai_answer import ToolCalls
from tertuliad.sessions.registry import Sessions
from tertuliad.sessions.sealed import Published
from tertuliad.store.base import Append
from tertuliad.store.sqlite import SqliteStore

VARIABLE = "TORTURE_DIES_AT"
WRITES = ("create", "admit", "queue", "end", "rewind", "snapshot", "fork", "delete")
EVENTS = ("user.message", "assistant.message_delta", "assistant.turn_end", "session.idle")
STEPS = (
    *(f"{write}.{when}" for write in WRITES for when in ("asked", "storing", "stored")),
    *(f"{event}.{when}" for event in EVENTS for when in ("asked", "told")),
    "call.asked",
    "call.told",
    "tool.asked",
    "tool.told",
    "evict.asked",
    "evict.done",
)
LONGEST_COMMIT_S = 0.002


class Death:
    """Counts the steps, and comes at the one that was named."""

    def __init__(self, wanted: str) -> None:
        self._step, _, number = wanted.partition(":")
        self._number = int(number or 1)
        self._counts: Counter[str] = Counter()

    def at(self, step: str) -> None:
        if self._is_now(step):
            os.kill(os.getpid(), signal.SIGKILL)

    def soon(self, step: str) -> None:
        """Some time in the next two milliseconds, whatever goes on then."""
        if self._is_now(step):
            threading.Thread(target=self._later, daemon=True).start()

    def _is_now(self, step: str) -> bool:
        self._counts[step] += 1
        return step == self._step and self._counts[step] == self._number

    def _later(self) -> None:
        time.sleep(random.random() * LONGEST_COMMIT_S)
        os.kill(os.getpid(), signal.SIGKILL)


def kinds(append: Append) -> list[str]:
    """What an append does."""
    types = {record.type for record in append.records}
    found = {
        "admit": "user.message" in types,
        "queue": bool(types & {"tertulia.message_queued", "tertulia.queue_changed"}),
        "end": "assistant.turn_end" in types,
        "rewind": append.keep_to is not None,
        "snapshot": append.snapshot is not None,
    }
    return [kind for kind, is_so in found.items() if is_so]


def watch(death: Death) -> None:
    """Put the steps around the doors of the store, the hub, the models and the registry."""

    def around_write(name: str, kinds_of: Callable[[Any], list[str]]) -> None:
        original = getattr(SqliteStore, name)

        def write(store: Any, given: Any, *more: Any) -> Any:
            for kind in kinds_of(given):
                death.at(f"{kind}.asked")
                death.soon(f"{kind}.storing")
            future = original(store, given, *more)

            def stored(_: object) -> None:
                for kind in kinds_of(given):
                    death.at(f"{kind}.stored")

            future.add_done_callback(stored)
            return future

        setattr(SqliteStore, name, write)

    around_write("append", kinds)
    for name in ("create", "fork", "delete"):
        around_write(name, lambda _, name=name: [name])  # type: ignore[misc]
    _around_publish(death)
    _around_resolve(death)
    _around_tools(death)
    _around_let_go(death)


def _around_publish(death: Death) -> None:
    original = Hub.publish

    def publish(hub: Hub, told: Published) -> None:
        joined = b"".join(told.frames)
        shown = [event for event in EVENTS if f'"type":"{event}"'.encode() in joined]
        for event in shown:
            death.at(f"{event}.asked")
        original(hub, told)
        for event in shown:
            death.at(f"{event}.told")

    setattr(Hub, "publish", publish)  # noqa: B010 - a door, not a member


def _around_resolve(death: Death) -> None:
    original = Models.resolve

    async def resolve(models: Models, *given: Any) -> Any:
        death.at("call.asked")
        target = await original(models, *given)
        death.at("call.told")
        return target

    setattr(Models, "resolve", resolve)  # noqa: B010


def _around_tools(death: Death) -> None:
    original = ToolCalls.add

    def add(calls: ToolCalls, choice: int, pieces: Any) -> int:
        death.at("tool.asked")
        size = original(calls, choice, pieces)
        death.at("tool.told")
        return size

    setattr(ToolCalls, "add", add)  # noqa: B010


def _around_let_go(death: Death) -> None:
    original = Sessions.let_go

    def let_go(sessions: Sessions, keep: int = 0) -> None:
        death.at("evict.asked")
        original(sessions, keep)
        death.at("evict.done")

    setattr(Sessions, "let_go", let_go)  # noqa: B010


if __name__ == "__main__":
    watch(Death(os.environ.get(VARIABLE, "")))
    entry.main()
