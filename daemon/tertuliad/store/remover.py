"""What was deleted, or left by a rewind, is removed by and by: who writes does not wait for it.

The rules of this file:
- What is to be removed was given up by a commit before; nothing leads to it.
- Each piece is a transaction of its own, behind the changes that wait by then, and there is a pause
  before it.
- What a process leaves over, because it ends or because the disk is full, the next one finds when
  it indexes what it has stored. Two processes that remove the same do no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from tertuliad import limits
from tertuliad.store import logs

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger(__name__)

Submit = Callable[[Callable[["sqlite3.Connection"], list[int]]], Future[list[int]]]
"""Has a piece of work done as one transaction."""


class Remover:
    """Has one piece under way, or waits before the next, while something is left."""

    def __init__(
        self,
        *,
        look: Callable[[], Future[list[int]]],
        submit: Submit,
        call_later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        """`look` finds all that was given up."""
        self._call_later = call_later
        self._look: Callable[[], Future[list[int]]] | None = look
        self._submit = submit
        self._left: list[int] = []
        self._busy = False
        self._closed = False

    def take(self, segments: list[int]) -> None:
        """Segments of which something is left."""
        self._left += segments
        if self._left and not self._busy:
            self._busy = True
            self._call_later(limits.REMOVE_PAUSE_S, self._go_on)

    def look_once(self) -> None:
        """Look for what an earlier process has left over."""
        if self._look is not None:
            self._look().add_done_callback(self._found)
            self._look = None

    def close(self) -> None:
        self._closed = True

    def _found(self, done: Future[list[int]]) -> None:
        if done.exception() is None:
            self.take(done.result())

    def _go_on(self) -> None:
        self._busy = bool(self._left) and not self._closed
        if self._busy:
            piece, self._left = self._left, []
            self._submit(partial(logs.remove, segments=piece)).add_done_callback(self._removed)

    def _removed(self, done: Future[list[int]]) -> None:
        error = done.exception()
        if error is None:
            self._left += done.result()
        elif not self._closed:
            log.warning("what was deleted takes room until the next start: %s", error)
        self._call_later(limits.REMOVE_PAUSE_S, self._go_on)
