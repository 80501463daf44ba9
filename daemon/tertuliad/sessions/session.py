"""One session's actor: the only writer of its state and its log.

The rules of this file:
- Commands are done one at a time, each whole: decide, fold, commit, then answer, publish in order,
  and start or stop the turn. Nobody sees anything of a command before its commit; the model alone
  may be asked while the commit of its turn's start is under way, and is hung up on if that fails.
- There is no task here. A command that stores nothing is done inside `post`; otherwise the store's
  answer carries on, and commands wait in the inbox meanwhile. An idle session costs this object.
- A refused commit forgets the folded state: the log is folded anew. Where another process had
  written (`HeadMoved`), the command is decided again; a turn that ran here is lost then, and those
  who watch are told.
- `world.running` has the session from the decision to start a turn here to the turn's end.
- Whatever happens, the command's reply is completed, and a turn that began ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from tertulia_protocol import events
from tertulia_protocol.errors import (
    Overloaded,
    RpcError,
    SeqMoved,
    SessionNotFound,
    TurnBusy,
)
from tertuliad import limits
from tertuliad.askers import NOBODY, asker, asking
from tertuliad.clock import now_ms
from tertuliad.replies import Reply
from tertuliad.sessions import past_turns
from tertuliad.sessions.decide import Decide, Decision, turns
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.loading import Loaded, load
from tertuliad.sessions.refusals import Overtaken, exists, overtaken, runs_elsewhere
from tertuliad.sessions.running import TurnHere, admitted
from tertuliad.sessions.sealed import Sealed, fold_in, seal
from tertuliad.sessions.state import SessionState, snapshot
from tertuliad.sessions.telling import Telling
from tertuliad.sessions.world import World
from tertuliad.store.base import AlreadyThere, Append, HeadMoved, Known, Row

log = logging.getLogger(__name__)


class Command(msgspec.Struct):
    """`decide`, who waits for it, and who asked (`askers`). It is for the session that was made at
    `created_ms`, or 0: for whichever has the id. `tries` counts commits that were refused.
    `ends_turn` is the id of a turn that it ends, as nobody runs that any more."""

    decide: Decide
    reply: Reply
    asker: int = NOBODY
    created_ms: int = 0
    tries: int = 0
    ends_turn: str | None = None

    def decided(self, state: SessionState) -> Decision:
        """Raises `SessionNotFound` where it is for another session."""
        if self.created_ms not in (0, state.created_ms):
            raise SessionNotFound.of(state.id)
        return self.decide(state)


class Session:
    """Lives while it is in use; all that matters of it is in the store."""

    __slots__ = (
        "_busy",
        "_inbox",
        "_is_new",
        "_modified_ms",
        "_snapshot_seq",
        "_state",
        "_stored",
        "_telling",
        "_turn",
        "_world",
        "deletion",
        "gone",
        "id",
        "used_s",
    )

    def __init__(self, session_id: str, world: World, *, is_new: bool) -> None:
        self.id = session_id
        self._world = world
        self._is_new = is_new
        self._modified_ms = now_ms()
        self._state: SessionState | None = (
            SessionState(id=session_id, created_ms=self._modified_ms, history=[])
            if is_new
            else None
        )
        self._snapshot_seq = 0
        self._stored: Row | None = None
        """The row as it is in the store, if the state is that of the log."""
        self._inbox: list[Command] = []  # mostly empty, and then a tenth of an empty deque
        self._busy = False
        """A commit or a load is under way; its answer carries on."""
        self._turn = TurnHere(session_id, world)
        self._telling = Telling(world)
        self.used_s = 0.0
        """When it was last asked for something, or seen running: the registry's note."""
        self.gone = False
        """Deleted, or never there: the slot has to be dropped."""
        self.deletion: Reply | None = None
        """The answer to its deletion, until that is done. Its log can be read, and must not be."""

    @property
    def running(self) -> bool:
        """Whether a turn runs or a command is under way."""
        return self._turn_id is not None or self._busy or bool(self._inbox)

    @property
    def _turn_id(self) -> str | None:
        """The id of the turn that runs here, also where the state was forgotten; else of the one
        that is open in the log."""
        turn = None if self._state is None else self._state.turn
        return self._turn.id or (None if turn is None else turn.id)

    @property
    def in_use(self) -> bool:
        """Whether it runs, or somebody waits for what it will say."""
        return self.running or self.deletion is not None or self.waited_for

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for what it will say."""
        return self._telling.waits.any

    def post(self, decide: Decide, *, first: bool = False, created_ms: int = 0) -> Reply:
        """Have a command done when it is its turn; `first`: while a turn runs, before those that
        wait. Where none does, what it means to stop may be among them. With `created_ms` it is for
        the session that was made then, and for no other."""
        if self.gone:
            return Reply.failed(SessionNotFound.of(self.id))
        if len(self._inbox) >= limits.INBOX_COMMANDS + limits.URGENT_COMMANDS * first:
            return Reply.failed(
                Overloaded(
                    f"{limits.INBOX_COMMANDS} requests wait in session {self.id} already; try"
                    " again.",
                    retry_ms=limits.INBOX_RETRY_MS,
                )
            )
        return self._enqueue(decide, first=first, created_ms=created_ms)

    @property
    def created_ms(self) -> int:
        """0: it is not known yet."""
        known = self._state or self._stored
        return 0 if known is None else known.created_ms

    @property
    def known(self) -> Known:
        """What was published here, or read."""
        return Known(self._telling.seq, self.created_ms)

    @property
    def mid_answer(self) -> bool:
        """Whether pieces of an answer were told in the turn that runs here."""
        return self._turn.mid_answer

    def when_idle(self) -> Reply:
        """Completed when no turn runs and no message is pending."""
        reply = self._telling.waits.for_idle()
        self._work()
        return reply

    def when_quiet(self) -> Reply:
        """Completed when no turn runs."""
        reply = self._telling.waits.for_quiet()
        self._work()
        return reply

    def turn_of(self, message_id: str) -> Reply:
        """Answers a reply for the `TurnEnd` of an accepted message; None: its turn is over."""
        if self.gone:
            return Reply.failed(SessionNotFound.of(self.id))
        if self._state is not None:
            return Reply.of(self._waiting_for(message_id, self._state))
        return self._enqueue(lambda state: Decision(result=self._waiting_for(message_id, state)))

    def _waiting_for(self, message_id: str, state: SessionState) -> Reply | None:
        if state.turn is not None and state.turn.message_id == message_id:
            return self._telling.waits.for_turn(message_id, state.turn.id)
        waits = any(item.message_id == message_id for item in state.pending)
        return self._telling.waits.for_turn(message_id, None) if waits else None

    def delete(self, known: Row | None = None) -> Reply:
        """End the turn, if one runs, and remove the session; answers the bytes that it had, None
        where it was not there, or is not as `known` any more: it is in use."""
        if known is not None and self.running:
            return Reply.of(None)  # what is under way makes it another one
        reply = Reply()
        self.gone, self.deletion = True, reply
        ran = self._turn_id
        self._turn.stop()
        deleted = self._world.store.delete([self.id], known)
        deleted.add_done_callback(partial(self._deleted, reply, ran, known is not None))
        return reply

    def _deleted(
        self, reply: Reply, ran: str | None, may_stay: bool, done: Future[dict[str, int]]
    ) -> None:
        """`ran` is the id of a turn that was open, and whose model was hung up on."""
        error = done.exception()
        self.deletion = None
        if error is not None:
            self.gone = False
            reply.fail(error)
            if ran is not None:
                self._end_lost(ran, turns.UNDELETED)
            self._work()
            return
        if may_stay and self.id not in done.result():
            self.gone, self._state = False, None  # whether it is there, the next command finds out
            reply.give(None)
            self._work()
            return
        self.gone = True
        if ran is not None:
            self._telling.live(self._state or self._nowhere(), events.SessionIdle(aborted=True))
        self._fail_all(SessionNotFound.of(self.id))
        self._telling.waits.fail(SessionNotFound.of(self.id))
        log.debug("session %s was deleted", self.id)
        reply.give(done.result().get(self.id))

    def lose(self) -> bool:
        """Another process has deleted it; False: a command is under way, which finds that out."""
        if self._busy or self._inbox or self.deletion is not None:
            return False
        self.gone = True
        self._turn.stop()
        self._telling.waits.fail(SessionNotFound.of(self.id))
        return True

    # Doing commands

    def _enqueue(self, decide: Decide, *, first: bool = False, created_ms: int = 0) -> Reply:
        command = Command(decide, Reply(), asker=asker.get(), created_ms=created_ms)
        if first and self._turn_id is not None:
            self._inbox.insert(0, command)
        else:
            self._inbox.append(command)
        self._work()
        return command.reply

    def _tell(self, decide: Decide) -> None:
        """Have pieces of an answer shown: at once where nothing is under way, as nothing of them is
        stored and nobody is answered."""
        if self._busy or self._inbox or self._state is None:
            self._enqueue(decide, created_ms=self.created_ms)
        else:
            self._telling.pieces(self._state, decide(self._state).drafts)

    def _work(self) -> None:
        while self._inbox and not self._busy:
            if self._state is None:
                if self.deletion is not None:
                    return  # what is read now may be of the next session of its id
                if self.gone:
                    self._fail_all(SessionNotFound.of(self.id))
                    return
                self._load()
                continue
            command = self._inbox.pop(0)
            self._busy = True  # what an answer's receiver posts comes after what is published
            if not self._done(command, self._state):
                return
            self._busy = False
        if not self.running and self._telling.waits.any:
            self._telling.waits.quiet()
            if self._state is not None and not self._state.pending:
                self._telling.waits.idle()  # else nobody knows before the log is folded again

    def _done(self, command: Command, state: SessionState) -> bool:
        """Do a command; False: what it needs is under way, or was answered at once."""
        try:
            return self._do(command, state)
        except RpcError as error:
            if not self._looks_again(command, error):
                command.reply.fail(error)
        except Exception as error:  # noqa: BLE001 - whoever waits logs it under a reference
            self._state = None
            self._turn.not_started()
            command.reply.fail(error)
        return True

    def _looks_again(self, command: Command, error: RpcError) -> bool:
        """Before a command is refused because of where the session is, the log is folded anew:
        another process may have written to it. What runs a turn here knows where it is."""
        most = limits.COMMIT_TRIES if isinstance(error, Overtaken) else 1
        moved = isinstance(error, SeqMoved | TurnBusy | Overtaken)
        if not moved or command.tries >= most or self._turn.id is not None:
            return False
        command.tries += 1
        self._state = None
        self._inbox.insert(0, command)
        return True

    def _do(self, command: Command, state: SessionState) -> bool:
        decision = command.decided(state)
        if decision.after is not None:
            decision.after.add_done_callback(partial(self._found, command))
            return False
        if decision.starts_turn:
            decision = admitted(decision, command.decide, state, self._world)
        self._modified_ms = now_ms()
        sealed = seal(state, decision.drafts, self._modified_ms, decision.behind)
        known_head = state.seq
        records = fold_in(state, sealed)
        if not records:
            self._finish(command, decision, sealed, None)
            return True
        row = self._row(state)
        due = self._due_snapshot(state, decision)
        append = Append(known_head, row, records, decision.keep_to, due, self._stored)
        if decision.starts_turn and self._turn.id is None and state.history is not None:
            # A history that is not loaded yet has to be read from the store, message and all.
            self._turn.early = True
            self._start_turn(state)
        submit = self._world.store.create if self._is_new else self._world.store.append
        submit(append).add_done_callback(partial(self._committed, command, decision, sealed, row))
        return False

    def _found(self, command: Command, done: Future[object]) -> None:
        """What a command had to know first is known: it is decided now, before any other."""
        self._busy = False
        error = done.exception()
        if error is not None:
            command.reply.fail(error)
        else:
            self._inbox.insert(0, command)
        self._work()

    def _due_snapshot(self, state: SessionState, decision: Decision) -> bytes | None:
        """A snapshot every so many events, so that the session comes back quickly."""
        if decision.keep_to is not None or state.seq - self._snapshot_seq < limits.SNAPSHOT_EVENTS:
            return None
        self._snapshot_seq = state.seq
        return snapshot(state)

    def _committed(
        self,
        command: Command,
        decision: Decision,
        sealed: list[Sealed],
        row: Row,
        done: Future[None],
    ) -> None:
        error = done.exception()
        try:
            if error is None:
                self._finish(command, decision, sealed, row)
            else:
                self._not_committed(error, command)
        finally:
            self._busy = False
            self._work()

    def _finish(
        self, command: Command, decision: Decision, sealed: list[Sealed], row: Row | None
    ) -> None:
        """The commit holds: answer, publish, and let the turn go on. `row` None: nothing was
        stored. A turn's end is told before whoever asked for it is answered: who sends the next
        message then does not take it for that one's."""
        assert self._state is not None
        if decision.stops_turn:
            if not self._turn.early:  # else there was none, and the next one runs
                self._turn.stop()
            self._telling.publish(self._state, sealed)
            command.reply.give(decision.result)
        else:
            command.reply.give(decision.result)
            self._telling.publish(self._state, sealed)
        if row is not None:
            self._stored = row
            was_new, self._is_new = self._is_new, False
            self._telling.changed(row, is_new=was_new)
        if decision.keep_to is not None:
            if not self._state.pending:
                self._telling.waits.idle()  # no turn runs, and soon nobody knows any more
            self._state = None  # it holds what was left out: the next command folds anew
            return
        if self._state.turn is None:
            self._turn.over()
        if decision.starts_turn:
            if self.gone:
                self._turn.over()
            elif not self._turn.early:
                self._start_turn(self._state)
            self._turn.early = False
            self._world.request_headers.forget(self.id, self._state.last_message_id)
        for message_id in decision.taken_out:
            self._world.request_headers.forget(self.id, message_id)

    def _row(self, state: SessionState) -> Row:
        owner = self._world.owners.me if state.turn is not None else None
        return row_of(state, self._modified_ms, owner)

    # Loading and losing

    def _load(self) -> None:
        self._busy = True
        with asking(self._inbox[0].asker):
            loading = load(self._world.store, self.id)
        if loading.done():
            self._take_in(loading)
        else:
            loading.add_done_callback(self._loaded)

    def _loaded(self, done: Future[Loaded | None]) -> None:
        self._take_in(done)
        self._work()

    def _take_in(self, done: Future[Loaded | None]) -> None:
        """Go on with what was loaded. What those who are told of it ask for meanwhile waits in the
        inbox."""
        try:
            error = done.exception()
            if error is not None:
                self._fail_all(error)
            elif (loaded := done.result()) is None:
                self.gone = True
                self._lost_elsewhere()
                self._fail_all(SessionNotFound.of(self.id))
            elif not self.gone:
                self._take_up(loaded)
        finally:
            self._busy = False

    def _take_up(self, loaded: Loaded) -> None:
        if self.created_ms not in (0, loaded.row.created_ms):
            self._lost_elsewhere()  # another one has its id by now
        self._state = loaded.state
        self._snapshot_seq = loaded.snapshot_seq
        self._stored = loaded.row
        self._telling.seq = loaded.state.seq
        turn = loaded.state.turn
        is_ours = loaded.row.owner == self._world.owners.me
        if turn is None or turn.id != self._turn.id or not is_ours:
            self._turn.taken_over()
        if self._turn.lost:
            self._turn.lost = False
            self._telling.lost(loaded.state)
        self._settle_missed(loaded.state)
        if turn is not None and self._turn.id is None:
            self._recover(loaded, turn.id)

    def _lost_elsewhere(self) -> None:
        """The session that was known here, if one was, is gone: another process has deleted it."""
        self._turn.taken_over()
        if self._turn.lost:
            self._turn.lost = False
            self._telling.live(self._nowhere(), events.SessionIdle(aborted=True))
        self._telling.waits.fail(SessionNotFound.of(self.id))

    def _settle_missed(self, state: SessionState) -> None:
        """Answer who waits for a message that another process has handled."""
        if not self.waited_for:
            return
        known: dict[str, str | None] = {item.message_id: None for item in state.pending}
        if state.turn is not None and state.turn.message_id is not None:
            known[state.turn.message_id] = state.turn.id
        waits = self._telling.waits
        if missed := waits.missed(known):
            ends = past_turns.ends_of(self._world.store, self.id, missed)
            ends.add_done_callback(partial(waits.settle, missed))

    def forget(self) -> None:
        """What is in memory of it may be old, and somebody waits for it: the log is folded anew
        with the next command."""
        if not self.running and self.deletion is None:
            self._state = None

    def _recover(self, loaded: Loaded, turn_id: str) -> None:
        """End a turn that nobody runs any more, before anything else is done."""
        if self._world.owners.elsewhere(loaded.row.owner):
            self._answer_only(loaded.state)
            self._state = None
            return
        if self._inbox and self._inbox[0].ends_turn == turn_id:
            return
        world = self._world
        was_run = loaded.row.owner is not None  # else it came with a document: nobody asked for it
        go_on = was_run and not world.leave_waiting and world.has_keys(loaded.state)
        message = turns.UNSTORED if loaded.row.owner == world.owners.me else turns.INTERRUPTED
        self._interrupt_first(turn_id, message, self._recovered, go_on=go_on)

    def _interrupt_first(
        self,
        turn_id: str,
        message: str,
        done: Callable[[Future[object]], None],
        *,
        go_on: bool = True,
    ) -> None:
        """Put the end of a turn that nobody runs any more before all other commands; `done` learns
        what came of it."""
        decide = partial(turns.interrupt, message=message, go_on=go_on, turn_id=turn_id)
        end = Command(decide, Reply(), created_ms=self.created_ms, ends_turn=turn_id)
        end.reply.add_done_callback(done)
        self._inbox.insert(0, end)

    def _answer_only(self, state: SessionState) -> None:
        """Another process runs a turn: what would change something is refused."""
        while self._inbox:
            command = self._inbox.pop(0)
            if command.ends_turn is not None:  # somebody else does
                command.reply.give(None)
                continue
            try:
                decision = command.decided(state)
                if decision != Decision(result=decision.result):
                    raise runs_elsewhere(self.id)
                command.reply.give(decision.result)
            except Exception as error:  # noqa: BLE001 - whoever waits logs it under a reference
                command.reply.fail(error)

    def _recovered(self, done: Future[object]) -> None:
        """Where the turn's end cannot be stored, nothing else can be done either."""
        error = done.exception()
        if error is not None:
            self._fail_all(error)

    def _not_committed(self, error: BaseException, command: Command) -> None:
        was_new, self._state = self._is_new, None
        self._turn.not_started()
        if isinstance(error, AlreadyThere):
            self._is_new = False
            command.reply.fail(exists(self.id))
        elif isinstance(error, HeadMoved) and self.gone and self.deletion is None:
            command.reply.fail(SessionNotFound.of(self.id))
        elif isinstance(error, HeadMoved):
            self._turn.taken_over()
            command.tries += 1
            if command.tries > limits.COMMIT_TRIES:
                command.reply.fail(overtaken(self.id))
            else:
                self._inbox.insert(0, command)
        else:
            self.gone = was_new
            command.reply.fail(error)
            if was_new:
                self._fail_all(error)
            elif self.waited_for and command.ends_turn is None:
                self._enqueue(lambda _: Decision())  # whether it is idle, the log says

    def _fail_all(self, error: BaseException) -> None:
        while self._inbox:
            self._inbox.pop(0).reply.fail(error)

    # The turn

    def _start_turn(self, state: SessionState) -> None:
        post = partial(self._enqueue, created_ms=state.created_ms)
        self._turn.start(state, post, self._tell, self._end_failed)

    def _end_failed(self, turn_id: str, error: BaseException) -> None:
        """The turn's end could not be decided or stored: the turn is interrupted instead, so that
        it ends in any case."""
        if self.gone or isinstance(error, TurnBusy | SessionNotFound):
            return  # another daemon has taken the session over, and those who watch were told
        log.error("session %s: the end of a turn failed", self.id, exc_info=error)
        message = "The turn's end failed inside the daemon; its log has it."
        if isinstance(error, RpcError):
            message = f"The turn's end could not be stored: {error}"
        self._turn.stop()
        self._end_lost(turn_id, message)

    def _end_lost(self, turn_id: str, message: str) -> None:
        """End the turn, whose model was hung up on, before anything else is done."""
        self._interrupt_first(turn_id, message, self._interrupted)
        self._work()

    def _interrupted(self, done: Future[object]) -> None:
        """Where not even the interruption can be stored, those who watch are told; the log says it
        after a restart."""
        error = done.exception()
        if error is not None:
            self._telling.stuck(self._state or self._nowhere(), str(error))

    def _nowhere(self) -> SessionState:
        """Stands for a state that was forgotten."""
        return SessionState(id=self.id, created_ms=self.created_ms, seq=self._telling.seq)
