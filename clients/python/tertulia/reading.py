"""Following a session's log: from a cursor on, page by page, across lost connections. Pure.

`LogReader` is what both clients' iterators fold their pages into.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tertulia import calls, limits
from tertulia.calls import Call
from tertulia.errors import CursorExpired
from tertulia.records import Event, LogPage


class LogReader:
    """Where one reader of a log stands."""

    def __init__(self, session_id: str, cursor: str | None, types: Sequence[str] | None) -> None:
        self._session_id = session_id
        self._types = types
        self._events: deque[Event] = deque()
        self._cursor = self._behind_page = cursor

    @property
    def cursor(self) -> str | None:
        """Behind what was given out. Within a page it is the page's beginning, so that a reader
        that goes on from here sees some events again and misses none."""
        return self._cursor if self._events else self._behind_page

    def next(self) -> Event | None:
        """The next event that is here; None: ask for a page."""
        return self._events.popleft() if self._events else None

    def page(self) -> Call[LogPage]:
        """What to ask for."""
        return calls.read_log(
            self._session_id, self._behind_page, None, limits.LOG_WAIT_S, self._types, False
        )

    def take(self, page: LogPage) -> None:
        """Raises `CursorExpired` where the log is not the one that the cursor is of."""
        if page.expired:
            raise CursorExpired(
                f"The cursor is of another log than that of session {self._session_id}, which was"
                " made anew perhaps. Read from the beginning."
            )
        self._events.extend(page.events)
        self._cursor, self._behind_page = self._behind_page, page.cursor
