"""Changes that wait for their transaction, by who asked for them: of several, each has a turn.

What one asks for is made in its order. Those of different askers keep none: each session has one
change under way, and who asks for more waits for the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tertuliad.replies import Reply

if TYPE_CHECKING:
    import sqlite3

Work = Callable[["sqlite3.Connection"], Any]


class Change(msgspec.Struct):
    """Work that waits for its transaction, and who waits for it. `heavy`: it may take long; `bare`:
    it is done outside of a transaction."""

    work: Work
    reply: Reply
    heavy: bool = False
    bare: bool = False


class Changes:
    """On the event loop's thread only."""

    def __init__(self) -> None:
        self._by_asker: dict[int, deque[Change]] = {}
        """In the order of their turns."""

    def put(self, asker: int, change: Change) -> None:
        self._by_asker.setdefault(asker, deque()).append(change)

    def next_group(self, most: int) -> list[Change]:
        """What becomes one transaction: a heavy change alone, if it is somebody's turn for one;
        else one of each who has a light one, round after round, as long as there are any."""
        if not self._by_asker:
            return []
        first = next(iter(self._by_asker))
        if self._by_asker[first][0].heavy:
            return [self._taken(first)]
        group: list[Change] = []
        left = True
        while left:
            left = False
            for asker in list(self._by_asker):
                if len(group) < most and not self._by_asker[asker][0].heavy:
                    group.append(self._taken(asker))
                    left = True
        return group

    def last_group(self) -> list[Change]:
        """As much as can be one transaction, now that nobody waits for a turn any more."""
        group: list[Change] = []
        while self._by_asker:
            asker = next(iter(self._by_asker))
            if group and (group[0].bare or self._by_asker[asker][0].bare):
                break
            group.append(self._taken(asker))
        return group

    def _taken(self, asker: int) -> Change:
        """The asker's next change; what else it has waits behind the others."""
        changes = self._by_asker.pop(asker)
        change = changes.popleft()
        if changes:
            self._by_asker[asker] = changes
        return change
