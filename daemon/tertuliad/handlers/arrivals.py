"""Messages that are on their way into their sessions: those of one session are accepted in the
order in which they came, though what is attached to one is still being read."""

from __future__ import annotations

from tertuliad.replies import Reply


class Arrivals:
    """Outlives every connection."""

    def __init__(self) -> None:
        self._last: dict[str, Reply] = {}
        """Per session, what is settled once its last message that is on its way has gone in."""

    def ahead(self, session_id: str) -> Reply | None:
        """What the next message waits for."""
        return self._last.get(session_id)

    def enter(self, session_id: str) -> Reply:
        """A message is on its way, until the reply has a result."""
        last = self._last[session_id] = Reply()
        last.add_done_callback(lambda _: self._gone_in(session_id, last))
        return last

    def _gone_in(self, session_id: str, message: Reply) -> None:
        if self._last.get(session_id) is message:
            del self._last[session_id]
