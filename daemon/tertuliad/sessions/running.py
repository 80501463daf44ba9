"""A session's turn in this process: whether it may start, its start and end, and what it reports.

What the model call tells becomes the session's commands, in their order: the session decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from tertulia_protocol.errors import Draining, Overloaded, SessionNotFound
from tertuliad import limits
from tertuliad.ids import new_id
from tertuliad.providers.base import Message, ProviderFailed
from tertuliad.replies import Reply, settled
from tertuliad.sessions import history
from tertuliad.sessions.decide import Decide, Decision, answering
from tertuliad.sessions.decide.answering import Outcome, Progress
from tertuliad.sessions.loading import made_of
from tertuliad.sessions.state import OpenTurn, SessionState, folded_history
from tertuliad.sessions.turn import Plan, Turn
from tertuliad.sessions.world import World
from tertuliad.store.base import Range, Store

log = logging.getLogger(__name__)


def admitted(decision: Decision, decide: Decide, state: SessionState, world: World) -> Decision:
    """The decision to start a turn, as far as the daemon may take one up: while it is stopping,
    messages that wait go on waiting, and others are refused. Marks the session as running."""
    if world.draining():
        if state.turn is None:
            raise Draining.of("starts no more turns")
        return decide(msgspec.structs.replace(state, pending=[]))
    waits_for_answer = decision.result is not None and state.turn is None
    if waits_for_answer and len(world.running) >= limits.TURNS_AT_ONCE:
        raise Overloaded(
            f"{limits.TURNS_AT_ONCE} turns run at once in this daemon, and it takes no more until"
            " one ends; try again.",
            retry_ms=limits.TURN_RETRY_MS,
        )
    world.owners.claim()
    world.running.add(state.id)
    return decision


class TurnHere:
    """The turn of one session, as far as this process runs it. Lives with the session's actor.
    `world.running` has the session from the decision to start a turn here to the turn's end."""

    __slots__ = ("_session_id", "_turn", "_world", "early", "lost")

    def __init__(self, session_id: str, world: World) -> None:
        self._session_id = session_id
        self._world = world
        self._turn: Turn | None = None
        self.early = False
        """It was begun while the commit that starts it is under way."""
        self.lost = False
        """Another process has ended it; who watches was not told yet."""

    @property
    def id(self) -> str | None:
        """Of the turn that runs here; None: none does."""
        return None if self._turn is None else self._turn.id

    @property
    def mid_answer(self) -> bool:
        """Whether something of its answer was passed on."""
        return self._turn is not None and self._turn.answered

    def start(
        self,
        state: SessionState,
        post: Callable[[Decide], Reply],
        tell: Callable[[Decide], None],
        end_failed: Callable[[str, BaseException], None],
    ) -> None:
        """Call the model for the turn that `state` has open; `post` takes what comes of it, `tell`
        the pieces of its answer, and `end_failed` its id with the reason why its end could not be
        done."""
        assert state.turn is not None
        world = self._world
        plan = Plan(
            session_id=state.id,
            turn_id=state.turn.id,
            created_ms=state.created_ms,
            config=state.config,
            history=partial(_history, world.store, state, state.turn),
            headers=world.request_headers.of(state.id, state.turn.message_id),
        )
        progress = Progress(turn_id=state.turn.id, message_id=new_id())
        log.debug("session %s: turn %s begins, model %s", state.id, plan.turn_id, plan.config.model)
        self._turn = Turn(plan, world, Reports(state.id, progress, post, tell, end_failed))
        world.running.add(state.id)  # the end of the turn before it has taken the mark away
        world.owners.beat_while(world.running, world.spawn)
        world.spawn(self._turn.run)

    def stop(self) -> None:
        """Hang up on the model, if a turn runs."""
        if self._turn is not None:
            self._turn.stop()
            self._turn = None
            self._world.running.discard(self._session_id)

    def over(self) -> None:
        """No turn is open, and none starts."""
        self.stop()
        self._world.running.discard(self._session_id)

    def not_started(self) -> None:
        """The turn that was decided to start does not."""
        if self.early:
            self.early = False
            self.stop()
        if self._turn is None:
            self._world.running.discard(self._session_id)

    def taken_over(self) -> None:
        """Another process has written to the log: a turn that ran here is lost."""
        self.lost = self.lost or self._turn is not None
        self.stop()


async def _history(store: Store, state: SessionState, turn: OpenTurn) -> list[Message]:
    """What the model reads, loaded where that was not needed until now. Where `turn` is over by
    then, more was folded since: it is loaded again for the next one."""
    if state.history is None:
        wanted = Range(before=state.seq + 1, types=history.TYPES)
        records = await settled(store.read(state.id, wanted))
        messages = await settled(made_of(store, records, partial(folded_history, records)))
        row = await settled(store.row(state.id))
        if row is None or row.created_ms != state.created_ms:
            raise SessionNotFound.of(state.id)  # what was read may be another session's
        if state.history is not None or state.turn is not turn:
            return messages
        state.history = messages
    return list(state.history)


class Reports:
    """What a turn says of its model call, as commands to its session. Lives with the turn."""

    __slots__ = ("_end_failed", "_post", "_progress", "_session_id", "_tell")

    def __init__(
        self,
        session_id: str,
        progress: Progress,
        post: Callable[[Decide], Reply],
        tell: Callable[[Decide], None],
        end_failed: Callable[[str, BaseException], None],
    ) -> None:
        self._session_id = session_id
        self._progress = progress
        self._post = post
        self._tell = tell
        self._end_failed = end_failed

    def delta(self, text: str, reasoning: str) -> None:
        """Pieces that come while a commit is under way wait together and leave as one."""
        progress = self._progress
        progress.text.append(text)
        progress.reasoning.append(reasoning)
        if not progress.unsent:
            progress.unsent = True
            self._tell(partial(answering.delta, progress=progress))

    def over(self) -> None:
        """The call is hung up on: what was posted and not done yet does not count."""
        self._progress.over = True

    def retrying(self, failure: ProviderFailed, model: str | None, wait_s: float) -> None:
        self._post(
            partial(
                answering.retrying,
                progress=self._progress,
                failure=failure,
                model=model,
                wait_s=wait_s,
            )
        )

    def done(self, outcome: Outcome) -> None:
        self._end(partial(answering.done, progress=self._progress, outcome=outcome))

    def failed(self, failure: ProviderFailed, model: str | None) -> None:
        turn_id = self._progress.turn_id
        log.debug("session %s: turn %s failed: %s", self._session_id, turn_id, failure.kind)
        self._end(partial(answering.failed, progress=self._progress, failure=failure, model=model))

    def _end(self, decide: Decide) -> None:
        self._post(decide).add_done_callback(self._check_end)

    def _check_end(self, done: Future[object]) -> None:
        if (error := done.exception()) is not None:
            self._end_failed(self._progress.turn_id, error)
