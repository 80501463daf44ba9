"""Which sessions a connection is attached to, and for whom. Pure.

To the daemon a connection is attached to a session or it is not; the objects of a program that
stand for that session may be many. The last of them that lets go ends the attachment, and nobody
does while a request to attach is under way: it would be undone by what was asked before its answer.
"""

from __future__ import annotations

from weakref import WeakSet


class Hold:
    """One `Session`'s share in its session's attachment: until it is released, and no longer than
    the session, or one of its feeds, is held by anybody. `closed`: the `Session` wants none."""

    __slots__ = ("__weakref__", "closed")

    def __init__(self) -> None:
        self.closed = False


class _Attachment:
    def __init__(self) -> None:
        self.holds: WeakSet[Hold] = WeakSet()
        self.asking = 0
        self.is_there = False


class Attachments:
    """Those of one connection, by session."""

    def __init__(self) -> None:
        self._by_session: dict[str, _Attachment] = {}

    def ask(self, session_id: str) -> None:
        """A request to attach goes out; `answered` follows."""
        self._by_session.setdefault(session_id, _Attachment()).asking += 1

    def answered(self, session_id: str, hold: Hold | None, *, granted: bool) -> bool:
        """The request is over; `hold` None: who made it is gone. Whether to detach, because those
        who held on have let go meanwhile."""
        attachment = self._by_session[session_id]
        attachment.asking -= 1
        if granted:
            attachment.is_there = True
            if hold is not None:
                attachment.holds.add(hold)
        return self._is_over(session_id, attachment)

    def has(self, session_id: str, hold: Hold) -> bool:
        """Whether `hold` keeps the session attached."""
        attachment = self._by_session.get(session_id)
        return attachment is not None and hold in attachment.holds

    def release(self, session_id: str, hold: Hold) -> bool:
        """Whether to detach: it was the last one. Nothing to do the second time."""
        if not self.has(session_id, hold):
            return False
        attachment = self._by_session[session_id]
        attachment.holds.remove(hold)
        return self._is_over(session_id, attachment)

    def forget(self, session_id: str) -> None:
        """The session was deleted: there is nothing to hold on to."""
        attachment = self._by_session.get(session_id)
        if attachment is not None:
            attachment.holds.clear()
            attachment.is_there = False
            self._is_over(session_id, attachment)

    def _is_over(self, session_id: str, attachment: _Attachment) -> bool:
        if attachment.asking or attachment.holds:
            return False
        del self._by_session[session_id]
        return attachment.is_there
