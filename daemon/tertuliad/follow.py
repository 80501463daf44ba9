"""Who follows which session, and how each one keeps up.

The rules of this file:
- A follower is a connection's cursor in a session's log: the seq of the last stored event it has.
- A session's frames are encoded once and shared by all of its followers.
- Subscriptions are a set: attaching twice adds nothing.
- Who follows a session follows the one that was made at that time, and hears and reads nothing of
  another one that has its id by now.
- What was published is durable, and nobody is told more: the log is read no further than that.
- A follower whose connection lags takes no more frames. What was only live is gone for it; what is
  stored it reads from the log once its outbox has drained, and where the session is idle by then it
  gets the `session.idle` that it has missed, once; where the session is deleted by then it gets a
  fresh one alone.
- The `session.idle` behind a failure is kept back for a moment (`IDLE_AFTER_ERROR_S`), and for as
  long as a message that came by then is on its way, and dropped where the next turn begins: a
  client that tries again as soon as it hears of the failure would take it for that turn's end.
- What another process on the same data folder wrote (`others`) is read from the log as well, once
  it is durable. Who reads the end of a turn there gets a fresh `session.idle`, and nobody else: it
  would be taken for the end of the turn that is just being asked for.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol

import anyio

from tertulia_protocol.errors import SessionNotFound, TurnBusy
from tertuliad import limits
from tertuliad.askers import asking
from tertuliad.sessions.facts import ends_turn, is_internal
from tertuliad.sessions.sealed import Published, event_frame, idle_frame
from tertuliad.store.base import Known, NotThere, Range, Record, Store

log = logging.getLogger(__name__)


class Outlet(Protocol):
    """What a follower needs of its connection."""

    asker: int
    """Whose turn it is when the log is read for it."""

    def offer(self, frame: bytes) -> bool: ...
    def send(self, frame: bytes) -> None: ...


class Pace(enum.Enum):
    """How a follower keeps up."""

    LIVE = "it takes frames as they come"
    BEHIND = "its outbox is full; once it has drained, the log is read"
    READING = "what it missed is being read from the log"
    UNREAD = "the log could not be read, and the next look tries again; or it is gone"


class Follower:
    """One connection's view of one session. Dies with either."""

    __slots__ = (
        "idle",
        "missed",
        "news",
        "outlet",
        "owed",
        "pace",
        "seq",
        "session_id",
    )

    def __init__(self, outlet: Outlet, session_id: str, seq: int, *, missed: bool) -> None:
        self.outlet = outlet
        self.session_id = session_id
        self.seq = seq
        """The last stored event that it has; those of before it was attached are read with
        getMessages."""
        self.pace = Pace.LIVE
        self.missed = missed
        """It has missed a piece of the answer that comes."""
        self.owed = False
        """It has missed a `session.idle`, or may have."""
        self.idle: bytes | None = None
        """The one it has missed, while it is true."""
        self.news: anyio.Event | None = None
        """Set when there is something new in the log, or nothing more will come."""

    def tell_news(self) -> None:
        """Wake who waits for news."""
        if self.news is not None:
            self.news.set()
            self.news = None

    def offer(self, frame: bytes) -> bool:
        """Give a frame to the connection; False: it is full, and the follower is behind."""
        taken = self.outlet.offer(frame)
        if not taken:
            self.pace, self.owed = Pace.BEHIND, True
        return taken


class _KeptBack:
    """A `session.idle` that is told a little later, unless a turn begins before: at the time of the
    `timer`, and not while one of the messages that are `coming` may begin one."""

    __slots__ = ("_due", "_tell", "coming", "idle", "timer")

    def __init__(self, idle: bytes, tell: Callable[[_KeptBack], object]) -> None:
        self.idle = idle
        self.coming = 0
        self._tell = tell
        loop = asyncio.get_running_loop()
        self._due = loop.time() + limits.IDLE_AFTER_ERROR_S
        self.timer = loop.call_at(self._due, tell, self)

    def wait_for(self, put: Future[object]) -> None:
        """A message is on its way, until `put` is done."""
        self.coming += 1
        self.timer.cancel()

        def done(_: Future[object]) -> None:
            self.coming -= 1
            if not self.coming:  # the turn that it begins is told in this round of the loop
                self.timer = asyncio.get_running_loop().call_at(self._due, self._tell, self)

        put.add_done_callback(done)


class _Room:
    """The followers of one session, which was made at `created_ms`: mostly one, for which a tuple
    is a quarter of a dict. `head` is the last stored seq that was published; `elsewhere`: another
    process runs a turn; `kept_back`: a `session.idle` will be told soon."""

    __slots__ = ("created_ms", "elsewhere", "followers", "head", "kept_back")

    def __init__(self, told: Known) -> None:
        self.followers: tuple[Follower, ...] = ()
        self.head = told.head
        self.created_ms = told.created_ms
        self.elsewhere = False
        self.kept_back: _KeptBack | None = None

    def drop_idle(self) -> None:
        """A `session.idle` that was missed, or is kept back, is not true any more, or told
        otherwise."""
        for follower in self.followers:
            follower.idle = None
        if self.kept_back is not None:
            self.kept_back.timer.cancel()
            self.kept_back = None


class Hub:
    """One for each daemon; outlives connections and sessions."""

    def __init__(self, store: Store, running: Callable[[str], Future[bool]]) -> None:
        """`running` answers whether a turn of a session runs, once what was asked of it before is
        done."""
        self._store = store
        self._running = running
        self._rooms: dict[str, _Room] = {}
        self._by_outlet: dict[Outlet, dict[str, Follower]] = {}
        self._unread: set[Follower] = set()
        """Those for whom the log could not be read."""
        self._failing = False
        """The last read of a log has failed, and that was said."""

    def attach(
        self, outlet: Outlet, session_id: str, told: Known, *, mid_answer: bool = False
    ) -> None:
        """Follow the session from behind what was `told` of it; the second time there is nothing to
        do. `mid_answer`: pieces of an answer have been told already, which this one has missed. The
        room of another session of its id has to be closed before."""
        followed = self._by_outlet.setdefault(outlet, {})
        if session_id not in followed:
            follower = followed[session_id] = Follower(
                outlet, session_id, told.head, missed=mid_answer
            )
            room = self._rooms.setdefault(session_id, _Room(told))
            room.followers = (*room.followers, follower)

    def detach(self, outlet: Outlet, session_id: str) -> bool:
        """Stop following; False: it did not."""
        followed = self._by_outlet.get(outlet, {})
        follower = followed.pop(session_id, None)
        if follower is None:
            return False
        follower.tell_news()
        self._unread.discard(follower)
        if not followed:
            self._by_outlet.pop(outlet, None)
        room = self._rooms[session_id]
        room.followers = tuple(each for each in room.followers if each is not follower)
        if not room.followers:
            del self._rooms[session_id]
        return True

    def detach_all(self, outlet: Outlet) -> None:
        """The connection ended."""
        for session_id in list(self._by_outlet.get(outlet, ())):
            self.detach(outlet, session_id)

    def news(self, outlet: Outlet, session_id: str) -> anyio.Event | None:
        """Set by the session's next stored event, and when the outlet asks no more. None: it does
        not follow the session."""
        follower = self._by_outlet.get(outlet, {}).get(session_id)
        if follower is None:
            return None
        if follower.news is None:
            follower.news = anyio.Event()
        return follower.news

    def end_waits(self, outlet: Outlet) -> None:
        """The outlet asks no more: what it waits for is answered as it is."""
        for follower in self._by_outlet.get(outlet, {}).values():
            follower.tell_news()

    def close_room(self, session_id: str, *, ran: bool = False) -> set[Outlet]:
        """The session is gone; gives who followed it. Where its turn `ran`, or runs elsewhere, it
        is over with it. Whoever lags is told so behind what waits: there will be no log to catch up
        from."""
        room = self._rooms.get(session_id)
        if room is None:
            return set()
        followers = room.followers
        for follower in followers:
            if ran or room.elsewhere or follower.owed or room.kept_back:
                follower.outlet.send(idle_frame(session_id, None, aborted=True))
            self.detach(follower.outlet, session_id)
        room.drop_idle()
        return {follower.outlet for follower in followers}

    def follows(self, outlet: Outlet, session_id: str) -> bool:
        return session_id in self._by_outlet.get(outlet, ())

    def followed(self, outlet: Outlet) -> int:
        """How many sessions the outlet follows."""
        return len(self._by_outlet.get(outlet, ()))

    def followers(self, session_id: str) -> int:
        return len(self._in(session_id))

    @property
    def used(self) -> bool:
        """Whether anybody follows anything."""
        return bool(self._rooms)

    def known(self, session_id: str) -> Known | None:
        """What was published of a session up to now; None where nobody follows."""
        room = self._rooms.get(session_id)
        return None if room is None else Known(room.head, room.created_ms)

    def all_known(self) -> dict[str, Known]:
        """The same, of all that are followed."""
        return {name: Known(room.head, room.created_ms) for name, room in self._rooms.items()}

    def _in(self, session_id: str) -> tuple[Follower, ...]:
        room = self._rooms.get(session_id)
        return () if room is None else room.followers

    def publish(self, told: Published) -> None:
        """Give frames to all who keep up.

        Whoever has missed one of the pieces of an answer gets no more of them, but the whole, until
        a turn begins: what clients join has no hole, whatever else is stored meanwhile. The
        `session.idle` behind a failure is kept back for a moment.
        """
        room = self._rooms.get(told.session_id)
        if room is None:
            return
        if room.created_ms != told.created_ms and 0 not in (room.created_ms, told.created_ms):
            return
        frames, idle, seq = told.frames, told.idle, told.seq
        stores = seq > told.before
        if seq > room.head:
            room.head = seq
        if stores:
            room.elsewhere = False  # who stores something owns the log
        if told.begins or idle is not None:
            room.drop_idle()
        if told.failed and idle is not None:
            self._keep_back(told.session_id, room, idle)
            frames, idle = [frame for frame in frames if frame is not idle], None
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        for follower in room.followers:
            if follower.pace is Pace.UNREAD:
                self._catch_up(follower)
            elif follower.pace is not Pace.LIVE:
                pass
            elif follower.seq < told.before:
                # Another process has written to the log meanwhile; what is live here is dropped.
                follower.owed = follower.owed or bool(frames)
                self._catch_up(follower)
            elif told.pieces and follower.missed:
                continue
            elif not frames or follower.offer(joined):
                if seq > follower.seq:
                    follower.seq = seq
                follower.owed = follower.owed and idle is None
            if idle is not None and follower.pace is not Pace.LIVE:
                follower.idle, follower.owed = idle, True
            if told.pieces:
                follower.missed = follower.pace is not Pace.LIVE
            elif told.begins:
                follower.missed = False
            if stores:
                follower.tell_news()

    def _keep_back(self, session_id: str, room: _Room, idle: bytes) -> None:
        room.kept_back = _KeptBack(idle, partial(self._tell_kept_back, session_id))

    def _tell_kept_back(self, session_id: str, kept: _KeptBack) -> None:
        room = self._rooms.get(session_id)
        if room is not None and room.kept_back is kept:
            head = room.head
            self.publish(
                Published(session_id, room.created_ms, [kept.idle], head, head, idle=kept.idle)
            )

    def expect(self, session_id: str, put: Future[object]) -> None:
        """A message is on its way into the session; `put` is done once it is accepted, or is
        not."""
        room = self._rooms.get(session_id)
        if room is not None and room.kept_back is not None:
            room.kept_back.wait_for(put)

    def keep_nothing_back(self) -> None:
        """The daemon is stopping: what is kept back is told now."""
        for session_id, room in list(self._rooms.items()):
            if room.kept_back is not None:
                self._tell_kept_back(session_id, room.kept_back)

    def heard(self, session_id: str, head: int, *, elsewhere: bool) -> None:
        """The log goes to `head`, durably, and the session has nothing under way here; `elsewhere`:
        another process runs a turn."""
        room = self._rooms.get(session_id)
        if room is None:
            return
        room.elsewhere = elsewhere
        if elsewhere:
            room.drop_idle()
        if head <= room.head:
            return
        room.head = head
        for follower in room.followers:
            follower.idle = None
            if follower.pace in (Pace.LIVE, Pace.UNREAD) and follower.seq < head:
                self._catch_up(follower)
            follower.tell_news()

    def on_low(self, outlet: Outlet) -> None:
        """The connection's outbox has drained: its followers may catch up."""
        for follower in list(self._by_outlet.get(outlet, {}).values()):
            if follower.pace is Pace.BEHIND:
                self._catch_up(follower)

    def _catch_up(self, follower: Follower) -> None:
        """Read what it missed; what is published meanwhile is read too, or comes live."""
        follower.pace = Pace.READING
        room = self._rooms[follower.session_id]
        published = room.head
        missed = Range(
            after=follower.seq,
            before=published + 1,
            limit=limits.CATCH_UP_EVENTS,
            max_bytes=limits.READ_BYTES,
            created_ms=room.created_ms,
        )
        with asking(follower.outlet.asker):
            read = self._store.read(follower.session_id, missed)
        read.add_done_callback(partial(self._caught, follower, published))

    def _caught(self, follower: Follower, upto: int, done: Future[list[Record]]) -> None:
        """What was asked for up to the seq `upto` has come."""
        if not self._is_here(follower):
            return
        if (error := done.exception()) is not None:
            self._give_up_reading(follower, error)
            return
        self._failing = False
        room = self._rooms[follower.session_id]
        for record in done.result():
            follower.owed = follower.owed or ends_turn(record.type)
            if not is_internal(record.type) and not follower.offer(
                event_frame(follower.session_id, record.body)
            ):
                return  # the next drain goes on from here
            follower.seq = record.seq
        if not done.result() and follower.seq < upto == room.head:
            follower.pace = Pace.UNREAD  # another process has deleted the session
            return
        if follower.seq < room.head:
            self._catch_up(follower)
            return
        follower.pace = Pace.LIVE
        if follower.owed and not room.elsewhere:
            running = self._running(follower.session_id)
            running.add_done_callback(partial(self._tell_idle, follower))

    def _give_up_reading(self, follower: Follower, error: BaseException) -> None:
        if isinstance(error, NotThere | SessionNotFound):
            follower.pace = Pace.UNREAD  # it was deleted, and that will be told
            return
        if not self._failing:
            log.warning("a follower could not catch up: %s", error)
        self._failing = True
        follower.pace = Pace.UNREAD
        self._unread.add(follower)

    def read_again(self) -> None:
        """Some time has gone by: what could not be read may be readable now."""
        unread, self._unread = self._unread, set()
        for follower in unread:
            if self._is_here(follower) and follower.pace is Pace.UNREAD:
                self._catch_up(follower)

    def _tell_idle(self, follower: Follower, running: Future[bool]) -> None:
        """A `session.idle` is not stored: a follower that caught up gets what it has missed, or
        hears the end of what runs: here as it comes, in another process (`TurnBusy`) from the
        log."""
        if not (self._is_here(follower) and follower.pace is Pace.LIVE and follower.owed):
            return
        error = running.exception()
        if error is not None:
            if not isinstance(error, TurnBusy):
                self._give_up_reading(follower, error)
            return
        follower.owed = False
        if running.result() or self._rooms[follower.session_id].kept_back is not None:
            return
        if follower.offer(follower.idle or idle_frame(follower.session_id, None)):
            follower.idle = None

    def _is_here(self, follower: Follower) -> bool:
        """Whether it was not detached meanwhile, nor another attached in its place."""
        return self._by_outlet.get(follower.outlet, {}).get(follower.session_id) is follower
