"""The sessions that are in memory, by id: found, made, brought back from the store, let go.

Outlives every connection. A slot for a stored session is made by the first command to it, which
waits in its inbox until the log is folded. Idle slots are let go, after a time or when there are
too many, the one used longest ago first: nobody can tell, since all that matters of a session is in
the store. A slot stays while its turn runs, a command is under way or somebody waits for its turn.
When another daemon has written to the home, all that are idle are let go before the next command:
what is in memory of them may be old.

One task looks at all slots from time to time, and is there only while there are slots: a session
has neither a task nor a timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import anyio

from tertulia_protocol.errors import SessionNotFound
from tertuliad import limits
from tertuliad.replies import Reply, all_settled, then
from tertuliad.sessions import past_turns
from tertuliad.sessions.decide import Decide, Decision, turns
from tertuliad.sessions.refusals import exists
from tertuliad.sessions.session import Session
from tertuliad.sessions.state import SessionState
from tertuliad.sessions.world import World
from tertuliad.store.base import Known, Row

log = logging.getLogger(__name__)


class Sessions:
    """One for each daemon. `hot` idle sessions are kept in memory, none of them for longer than
    `idle_s` and a quarter of it; 0: whatever the time."""

    def __init__(
        self,
        world: World,
        hot: int = limits.HOT_SESSIONS,
        idle_s: float = limits.SESSION_IDLE_S,
    ) -> None:
        self._world = world
        self._hot = hot
        self._idle_s = idle_s
        self._live: OrderedDict[str, Session] = OrderedDict()
        self._looking = False
        """The task that looks for idle slots is there."""
        self._commits: int | None = None
        """The store's number of what other daemons wrote, when it last told one."""
        self._answered = 0
        """Commands since idle slots were looked for. Each leaves one at most, so that there is no
        need to look behind each of them, while many are busy."""

    def create(self, session_id: str, command: Decide) -> Reply:
        """A new session whose first command is `command`; fails with `SessionExists`. Where one of
        its id is being deleted, that is waited for."""
        before = self._live.get(session_id)
        if before is not None and before.deletion is not None:
            return _behind(before.deletion, partial(self.create, session_id, command))
        self._let_go_old(session_id)
        session = self._slot(session_id)
        if session is None:
            session = self._taken_in(Session(session_id, self._world, is_new=True))
            return self._watched(session, session.post(command))
        final = Reply()

        def looked(done: Future[object]) -> None:
            error = done.exception()
            if isinstance(error, SessionNotFound):
                self.create(session_id, command).add_done_callback(final.follow)
            else:
                final.fail(error or exists(session_id))

        # The slot may be of an id that was asked for and turns out not to be stored.
        self._watched(session, session.post(lambda _: Decision())).add_done_callback(looked)
        return final

    def post(
        self, session_id: str, command: Decide, *, first: bool = False, created_ms: int = 0
    ) -> Reply:
        """Have `command` done by a session, which is brought back if need be: by the one that was
        made at `created_ms`, or 0: by whichever has the id."""
        return self._asked(
            session_id,
            lambda session: session.post(command, first=first, created_ms=created_ms),
        )

    def go_on(self, session_id: str) -> Reply:
        """Start the turn of a message that was left waiting, unless it waits for a key."""

        def command(state: SessionState) -> Decision:
            return turns.go_on(state) if self._world.has_keys(state) else Decision()

        return self.post(session_id, command)

    def delete(self, session_id: str, known: Row | None = None) -> Reply:
        """Remove a session, live or stored, if it is as `known`; answers the bytes it had, None:
        there was none, or it stays."""
        session = self._brought_back(session_id)
        if session.deletion is not None:
            return _behind(session.deletion, partial(self.delete, session_id, known))
        return self._watched(session, session.delete(known))

    def lose(self, session_id: str) -> bool:
        """Let go of a session that another process has deleted, with the turn that runs here.
        False: a command is under way, which will find it out."""
        session = self._slot(session_id)
        return session is None or session.lose()

    def when_idle(self, session_id: str) -> Reply:
        """Completed when no turn of the session runs and no message is pending; at once where it is
        not live."""
        session = self._slot(session_id)
        return Reply.of(None) if session is None else session.when_idle()

    def when_quiet(self, session_id: str) -> Reply:
        """Completed when no turn of the session runs; at once where it is not live."""
        session = self._slot(session_id)
        return Reply.of(None) if session is None else session.when_quiet()

    def turn_of(self, session_id: str, message_id: str) -> Reply:
        """Completed with the `TurnEnd` of a message that was accepted, now or before."""
        world = self._world

        def ended(waiting: Reply | None) -> Reply:
            return waiting or past_turns.end_of(
                world.store, world.owners.elsewhere, session_id, message_id
            )

        asked = self._asked(session_id, lambda session: session.turn_of(message_id))
        return then(asked, ended)

    def mid_answer(self, session_id: str) -> bool:
        """Whether pieces of an answer were told in the turn that runs here."""
        session = self._live.get(session_id)
        return session is not None and session.mid_answer

    def known(self, session_id: str) -> Known | None:
        """What was published or read of a session; None: it is not in memory, or being deleted."""
        session = self._slot(session_id)
        return None if session is None else session.known

    def just_told(self, session_id: str) -> Known:
        """As `known`, also of a session that is being deleted: for whoever it has just answered."""
        session = self._live.get(session_id)
        return Known(0) if session is None else session.known

    def waited_for(self) -> dict[str, Known]:
        """The same of those that somebody waits for."""
        return {each.id: each.known for each in self._live.values() if each.waited_for}

    def works(self, session_id: str) -> bool:
        """Whether a turn of the session runs here, or a command is under way."""
        session = self._slot(session_id)
        return session is not None and session.running

    def running(self, session_id: str) -> Reply:
        """Answers whether a turn of the session runs, once what was asked before is done."""
        session = self._slot(session_id)
        if session is not None:
            return session.post(lambda state: Decision(result=state.turn is not None))
        return Reply.of(False)

    def interrupt_all(self, message: str) -> list[Reply]:
        """End every running turn, as the daemon stops; what is pending stays pending."""
        return [
            session.post(lambda state: turns.interrupt(state, message, go_on=False), first=True)
            for session in self._live.values()
            if session.running
        ]

    def let_go(self, keep: int = 0) -> None:
        """Drop idle sessions from memory until `keep` of them are left."""
        idle = [session for session in self._live.values() if not session.in_use]
        for session in idle[: max(0, len(idle) - keep)]:
            del self._live[session.id]

    def release(self, session_id: str) -> None:
        """Drop one session from memory, unless it has something to do, or somebody waits for it."""
        session = self._slot(session_id)
        if session is not None and not session.in_use:
            del self._live[session_id]

    def release_soon(self, session_id: str) -> None:
        """The same, once it has told what it answers now."""
        asyncio.get_running_loop().call_soon(self.release, session_id)

    def outdated(self, session_id: str) -> None:
        """Another process has written to it: what is in memory is old. Who waits for something of
        it is answered from the log."""
        self.release(session_id)
        session = self._slot(session_id)
        if session is not None and not session.running:
            session.forget()
            self.post(session_id, lambda _: Decision())

    def let_go_idle(self) -> None:
        """Drop the sessions that nobody has used for too long."""
        now = time.monotonic()
        for session in list(self._live.values()):
            if session.in_use:
                session.used_s = now
            elif now - session.used_s >= self._idle_s:
                del self._live[session.id]
                log.debug("session %s left memory", session.id)

    @property
    def in_memory(self) -> int:
        """How many sessions are."""
        return len(self._live)

    async def _look(self) -> None:
        try:
            while self._live:
                await anyio.sleep(max(self._idle_s / 4, limits.SESSION_LOOK_S))
                self.let_go_idle()
        finally:
            self._looking = False

    def _taken_in(self, session: Session) -> Session:
        session.used_s = time.monotonic()
        self._live[session.id] = session
        if self._idle_s and not self._looking:
            self._looking = True
            self._world.spawn(self._look)
        return session

    def _let_go_old(self, session_id: str) -> None:
        """Let go of the sessions that another daemon may have written to. Where it cannot be told
        now whether one has, that is the session that is asked; the others come when they are
        asked."""
        number = self._world.store.commits_elsewhere()
        if number is None:
            asked = self._live.get(session_id)
            old = [] if asked is None else [asked]
        elif number == self._commits:
            return
        else:
            self._commits, old = number, list(self._live.values())
        for session in old:
            if session.in_use:
                session.forget()
            else:
                del self._live[session.id]

    def _asked(self, session_id: str, ask: Callable[[Session], Reply]) -> Reply:
        """What a session answers, which is brought back if need be. While it is being deleted it is
        asked later, if it stays; if it goes, this fails: the next session of its id was not
        meant."""
        session = self._brought_back(session_id)
        if session.deletion is not None:

            def answered() -> Reply:
                if session.gone:
                    return Reply.failed(SessionNotFound.of(session_id))
                return self._asked(session_id, ask)

            return _behind(session.deletion, answered)
        return self._watched(session, ask(session))

    def _brought_back(self, session_id: str) -> Session:
        self._let_go_old(session_id)
        session = self._live.get(session_id)
        if session is None or (session.gone and session.deletion is None):
            return self._taken_in(Session(session_id, self._world, is_new=False))
        session.used_s = time.monotonic()
        self._live.move_to_end(session_id)
        return session

    def _slot(self, session_id: str) -> Session | None:
        """The session, if it is in memory and neither gone nor being deleted. One that is being
        deleted keeps its slot all the same: another one would read the log that is about to go, and
        outlive it."""
        session = self._live.get(session_id)
        if session is not None and session.gone:
            if session.deletion is None:
                del self._live[session_id]
            return None
        return session

    def _watched(self, session: Session, reply: Reply) -> Reply:
        """Drop the slot once it turns out that there is no such session, and others if there are
        too many."""

        def check(_: Future[object]) -> None:
            left = session.gone and session.deletion is None
            if left and self._live.get(session.id) is session:
                del self._live[session.id]
            self._answered += 1
            idle = len(self._live) - len(self._world.running)
            if idle > 2 * self._hot and self._answered >= self._hot:
                self._answered = 0
                self.let_go(self._hot)

        reply.add_done_callback(check)
        return reply


def _behind(first: Reply, ask: Callable[[], Reply]) -> Reply:
    """What `ask` answers, asked once `first` has come out, however."""
    return then(all_settled([first]), lambda _: ask())
