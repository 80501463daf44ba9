"""What other daemons on the same home write, for those who follow it or wait for it here.

The rules of this file:
- While some session is followed or waited for, one task asks the store from time to time whether
  another process has committed anything. Only then are rows read: a daemon that is alone on its
  home reads none, and one in which nobody minds anything has no task.
- Sessions are compared by their heads and by when they were made, which never changes: no clock
  has to be right, and a commit that took long is not missed. An id may be another session's by now.
- What has something under way here tells itself: its actor is fenced, and finds out.
- A turn whose process is gone is ended here, as by any command. One whose process is only silent is
  left alone: nobody has asked for anything.
- What others have deleted is gone here too: its turn is over, and nobody follows it any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

import anyio

from tertulia_protocol.errors import StoreFailed
from tertuliad import limits
from tertuliad.follow import Hub
from tertuliad.replies import settled
from tertuliad.sessions.decide import Decision
from tertuliad.sessions.registry import Sessions
from tertuliad.store.base import Known, Row, Store
from tertuliad.store.owners import Owners

if TYPE_CHECKING:
    from tertuliad.tasks import Spawn

log = logging.getLogger(__name__)


class Deleted(Protocol):
    """Learns that a session is gone, and whether a turn of it `ran` here."""

    def __call__(self, session_id: str, *, ran: bool) -> None: ...


class Others:
    """One for each daemon; outlives connections and sessions."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        sessions: Sessions,
        owners: Owners,
        *,
        changed: Callable[[Row], None],
        deleted: Deleted,
        spawn: Spawn,
    ) -> None:
        """`changed` learns of followed sessions that others have written to, `deleted` of those
        that they have deleted."""
        self._store = store
        self._hub = hub
        self._sessions = sessions
        self._owners = owners
        self._changed = changed
        self._deleted = deleted
        self._spawn = spawn
        self._watching = False
        self._failing = False
        self._seen: int | None = None
        """The store's number at the last look; None: there is something to read in any case."""
        self._turns: dict[str, str] = {}
        """The owners of the turns that run elsewhere, by followed session."""

    def watch(self) -> None:
        """Somebody follows a session: look until nobody does."""
        if not self._watching:
            self._watching = True
            self._spawn(self._watch)

    async def _watch(self) -> None:
        try:
            while self._hub.used or self._sessions.waited_for():
                await anyio.sleep(limits.OTHERS_LOOK_S)
                await self._look_again()
        finally:
            self._watching = False

    async def _look_again(self) -> None:
        try:
            await self.look()
        except StoreFailed as error:
            if not self._failing:
                log.warning("what other daemons write cannot be seen: %s", error)
            self._failing = True
        else:
            self._failing = False

    async def look(self) -> None:
        """Tell who follows here what others have written since the last look. Raises
        `StoreFailed`."""
        self._hub.read_again()
        number = self._store.commits_elsewhere()
        if number is None or number != self._seen:
            self._seen = number if await self._read() else None
        self._end_abandoned()

    async def _read(self) -> bool:
        """Read the rows of what is followed; False: some of it has to be read again."""
        known = list((self._sessions.waited_for() | self._hub.all_known()).items())
        self._turns, whole = {}, True
        for start in range(0, len(known), limits.OTHERS_AT_ONCE):
            asked = dict(known[start : start + limits.OTHERS_AT_ONCE])
            whole = await self._ask(asked) and whole
        return whole

    async def _ask(self, known: dict[str, Known]) -> bool:
        whole = True
        news = await settled(self._store.ahead(known))
        for row in news.rows:
            whole = self._take(row, known[row.id]) and whole
        for session_id in news.gone:
            whole = self._lose(session_id, known[session_id]) and whole
        return whole

    async def look_at(self, session_id: str) -> None:
        """As `look`, for one id, before a session of it is made or taken up: what is known here may
        be of one that is gone. Raises `StoreFailed`."""
        known = self._known(session_id)
        if known is not None:
            await self._ask({session_id: known})

    def _known(self, session_id: str) -> Known | None:
        """What those who mind the session know of it, or the session itself, if it is in memory."""
        return self._hub.known(session_id) or self._sessions.known(session_id)

    def _take(self, row: Row, asked: Known) -> bool:
        """Pass on what a row says; False: it may be of what is under way here."""
        elsewhere = row.owner not in (None, self._owners.me)
        known = self._known(row.id) or asked
        if known.created_ms != asked.created_ms:
            return False
        if self._sessions.works(row.id):
            return row.head <= known.head and not elsewhere
        if elsewhere:
            self._turns[row.id] = str(row.owner)
        self._hub.heard(row.id, row.head, elsewhere=elsewhere)
        if row.head > known.head:
            self._sessions.outdated(row.id)
            self._changed(row)
        return True

    def _lose(self, session_id: str, known: Known) -> bool:
        """A session that was `known` is gone; False: something of it is under way here, or has come
        in its place."""
        if self._known(session_id) != known:
            return False
        here = self._sessions.known(session_id)
        if here is not None and here.created_ms not in (0, known.created_ms):
            self._deleted(session_id, ran=False)  # what is in memory is the next one already
            return True
        ran = self._sessions.works(session_id)
        if not self._sessions.lose(session_id):
            return False
        self._deleted(session_id, ran=ran)
        return True

    def _end_abandoned(self) -> None:
        """A session that comes back into memory ends the turn that nobody runs any more."""
        for session_id, owner in list(self._turns.items()):
            minded = self._known(session_id) is not None
            if minded and self._owners.gone(owner):
                del self._turns[session_id]
                self._sessions.outdated(session_id)
                ended = self._sessions.post(session_id, lambda _: Decision())
                ended.add_done_callback(self._ended)

    def _ended(self, done: Future[object]) -> None:
        error = done.exception()
        if error is not None:
            log.info("a turn that was left open is still open: %s", error)
            self._seen = None
