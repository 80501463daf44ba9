"""Deletions that reach the disk when the test says so, as if they waited behind others."""

from __future__ import annotations

from typing import NamedTuple

import anyio
import pytest

from tertuliad.replies import Reply
from tertuliad.store.base import Row
from tests.support.pair import Room


class Held(NamedTuple):
    """The ids that were asked for, and what lets them go on once it is set."""

    asked: list[str]
    may_go: anyio.Event


def hold_deletions(room: Room, monkeypatch: pytest.MonkeyPatch) -> Held:
    """From here on, until the patch is undone."""
    delete, held = room.store.delete, Held([], anyio.Event())

    def later(session_ids: list[str], known: Row | None) -> Reply:
        held.asked.extend(session_ids)
        final = Reply()

        async def go() -> None:
            await held.may_go.wait()
            delete(session_ids, known).add_done_callback(final.follow)

        room.world.spawn(go)
        return final

    monkeypatch.setattr(room.store, "delete", later)
    return held
