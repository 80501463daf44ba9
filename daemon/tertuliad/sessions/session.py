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
    Draining,
    Overloaded,
    RpcError,
    SeqMoved,
    SessionExists,
    SessionNotFound,
    StoreFailed,
    TurnBusy,
)
from tertuliad import limits
from tertuliad.clock import now_ms
from tertuliad.ids import new_id
from tertuliad.providers.base import Message, ProviderFailed
from tertuliad.replies import Reply, mapped, settled
from tertuliad.sessions import history
from tertuliad.sessions.decide import Decision, Draft, answering, turns
from tertuliad.sessions.decide.answering import Outcome, Progress
from tertuliad.sessions.listing import row_of
from tertuliad.sessions.sealed import Sealed, event_frame, seal
from tertuliad.sessions.state import (
    SessionState,
    apply,
    folded,
    folded_history,
    snapshot,
)
from tertuliad.sessions.turn import Plan, Turn, TurnEvents
from tertuliad.sessions.waits import Waits
from tertuliad.sessions.world import World
from tertuliad.store.base import AlreadyThere, Append, HeadMoved, Log, Range, Record, Row

log = logging.getLogger(__name__)

TAKEN_OVER = (
    "Another daemon on the same data folder has taken this session over, since this one did not"
    " answer for a while. The turn's answer is lost; send the message again."
)

Decide = Callable[[SessionState], Decision]
"""What a command makes of the state. Called again where the log had to be folded anew."""


class Command(msgspec.Struct, gc=False):
    """`decide` and who waits for it. `tries` counts commits that were refused."""

    decide: Decide
    reply: Reply
    tries: int = 0


class Session:
    """Lives while it is in use; all that matters of it is in the store."""

    __slots__ = (
        "_busy",
        "_early",
        "_inbox",
        "_is_new",
        "_lost_turn",
        "_modified_ms",
        "_snapshot_seq",
        "_state",
        "_told_seq",
        "_turn",
        "_waits",
        "_world",
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
        self._inbox: list[Command] = []  # mostly empty, and then a tenth of an empty deque
        self._busy = False
        """A commit or a load is under way; its answer carries on."""
        self._turn: Turn | None = None
        self._early = False
        """The turn was begun while the commit that starts it is under way."""
        self._lost_turn = False
        """Another process has ended the turn that ran here; who watches was not told yet."""
        self._told_seq = 0
        """The last stored seq that was published or read."""
        self._waits = Waits()
        self.used_s = 0.0
        """When it was last asked for something, or seen running: the registry's note."""
        self.gone = False
        """Deleted, or never there: the slot has to be dropped."""

    @property
    def running(self) -> bool:
        """Whether a turn runs or a command is under way."""
        turn = self._state is not None and self._state.turn is not None
        return turn or self._busy or bool(self._inbox)

    @property
    def in_use(self) -> bool:
        """Whether it runs, or somebody waits for what it will say."""
        return self.running or self._waits.any

    def post(self, decide: Decide, *, first: bool = False) -> Reply:
        """Have a command done when it is its turn; `first`: while a turn runs, before those that
        wait. Where none does, what it means to stop may be among them."""
        if self.gone:
            return _refused(SessionNotFound.of(self.id))
        if len(self._inbox) >= limits.INBOX_COMMANDS + limits.URGENT_COMMANDS * first:
            return _refused(Overloaded(f"Too many requests wait in session {self.id}; try again."))
        return self._enqueue(decide, first=first)

    def when_idle(self) -> Reply:
        """Completed when no turn runs and no message is pending."""
        return self._waits.for_idle()

    def turn_of(self, message_id: str) -> Reply | None:
        """Completed with the `TurnEnd` of an accepted message; None: its turn is over."""
        state = self._state
        if state is None:
            return None
        if state.turn is not None and state.turn.message_id == message_id:
            return self._waits.for_turn(message_id, state.turn.id)
        waits = any(item.message_id == message_id for item in state.pending)
        return self._waits.for_turn(message_id, None) if waits else None

    def delete(self) -> Reply:
        """End the turn, if one runs, and remove the session; answers the bytes that it had, None
        where it was not there."""
        self.gone = True
        if self._turn is not None and not self._early:
            self._tell_live(events.SessionIdle(aborted=True))
        self._stop_turn()
        reply = Reply()

        def deleted(done: Future[dict[str, int]]) -> None:
            error = done.exception()
            if error is not None:
                self.gone, self._state = False, None
                reply.fail(error)
                return
            self._fail_all(SessionNotFound.of(self.id))
            self._waits.fail(SessionNotFound.of(self.id))
            log.debug("session %s was deleted", self.id)
            reply.give(done.result().get(self.id))

        self._world.store.delete([self.id]).add_done_callback(deleted)
        return reply

    # Doing commands

    def _enqueue(self, decide: Decide, *, first: bool = False) -> Reply:
        command = Command(decide, Reply())
        if first and self._state is not None and self._state.turn is not None:
            self._inbox.insert(0, command)
        else:
            self._inbox.append(command)
        self._work()
        return command.reply

    def _work(self) -> None:
        while self._inbox and not self._busy:
            if self._state is None:
                self._busy = True
                self._world.store.load(self.id).add_done_callback(self._loaded)
                return
            command = self._inbox.pop(0)
            self._busy = True  # what an answer's receiver posts comes after what is published
            if not self._done(command, self._state):
                return
            self._busy = False

    def _done(self, command: Command, state: SessionState) -> bool:
        """Do a command; False: its commit is under way, or was answered at once."""
        try:
            return self._do(command, state)
        except RpcError as error:
            if not self._looks_again(command, error):
                command.reply.fail(error)
        except Exception as error:  # noqa: BLE001 - whoever waits logs it under a reference
            self._state = None
            self._forget_start()
            command.reply.fail(error)
        return True

    def _looks_again(self, command: Command, error: RpcError) -> bool:
        """Before a command is refused because of where the session is, the log is folded anew:
        another process may have written to it. What runs a turn here knows where it is."""
        if not isinstance(error, SeqMoved | TurnBusy) or command.tries or self._turn is not None:
            return False
        command.tries += 1
        self._state = None
        self._inbox.insert(0, command)
        return True

    def _do(self, command: Command, state: SessionState) -> bool:
        decision = command.decide(state)
        if decision.starts_turn:
            decision = self._may_start(command, state, decision)
        self._modified_ms = now_ms()
        sealed = seal(state, decision.drafts, self._modified_ms)
        stored = [item for item in sealed if item.seq]
        if not stored:
            self._finish(command, decision, sealed)
            return True
        known_head = state.seq
        for item in stored:
            apply(state, item.seq, item.type, item.id, item.data)
        append = Append(
            known_head,
            self._row(state),
            tuple(Record(item.seq, item.type, item.body) for item in stored),
            decision.keep_to,
            self._due_snapshot(state, decision),
        )
        if decision.starts_turn and self._turn is None and state.history is not None:
            # A history that is not loaded yet has to be read from the store, message and all.
            self._early = True
            self._start_turn(state)
        submit = self._world.store.create if self._is_new else self._world.store.append
        submit(append).add_done_callback(partial(self._committed, command, decision, sealed))
        return False

    def _may_start(self, command: Command, state: SessionState, decision: Decision) -> Decision:
        """The decision, as far as a daemon may take up a turn that is stopping: messages that wait
        go on waiting, and others are refused."""
        world = self._world
        if world.draining():
            if state.turn is None:
                raise Draining("The daemon is stopping and starts no more turns.")
            return command.decide(msgspec.structs.replace(state, pending=[]))
        waits_for_answer = decision.result is not None and state.turn is None
        if waits_for_answer and len(world.running) >= limits.TURNS_AT_ONCE:
            raise Overloaded(
                f"{limits.TURNS_AT_ONCE} turns run at once in this daemon, and it takes no more."
            )
        world.owners.claim()
        world.running.add(self.id)
        return decision

    def _due_snapshot(self, state: SessionState, decision: Decision) -> bytes | None:
        """A snapshot every so many events, so that the session comes back quickly."""
        if decision.keep_to is not None or state.seq - self._snapshot_seq < limits.SNAPSHOT_EVENTS:
            return None
        self._snapshot_seq = state.seq
        return snapshot(state)

    def _committed(
        self, command: Command, decision: Decision, sealed: list[Sealed], done: Future[None]
    ) -> None:
        error = done.exception()
        try:
            if error is None:
                self._finish(command, decision, sealed)
            else:
                self._not_committed(error, command, decision)
        finally:
            self._busy = False
            self._work()

    def _finish(self, command: Command, decision: Decision, sealed: list[Sealed]) -> None:
        """The commit holds: answer, publish, and let the turn go on."""
        if decision.stops_turn:
            self._stop_turn()
        command.reply.give(decision.result)
        self._publish(sealed)
        assert self._state is not None
        if decision.keep_to is not None:
            self._state = None  # it holds what was left out: the next command folds anew
            return
        if self._state.turn is None:
            self._turn = None
            self._world.running.discard(self.id)
            self._waits.idle()
        if decision.starts_turn:
            if not self._early and not self.gone:
                self._start_turn(self._state)
            self._early = False
            self._world.forget_headers(self.id, self._state.last_message_id)

    def _publish(self, sealed: list[Sealed]) -> None:
        assert self._state is not None
        self._waits.see(sealed)
        frames = [event_frame(self.id, item.body) for item in sealed if item.shown]
        added = sum(1 for item in sealed if item.seq)
        seq = self._told_seq = self._state.seq
        if sealed:
            self._world.publish(self.id, frames, seq - added, seq)
        if added:
            was_new, self._is_new = self._is_new, False
            row = self._row(self._state)
            if was_new:
                log.debug("session %s was created", self.id)
            self._world.lifecycle("session.created" if was_new else "session.updated", row)

    def _tell_live(self, *data: events.EventData) -> None:
        """Publish events that are not stored, outside of any command."""
        if self._state is not None:
            drafts = tuple(Draft(item, live_only=True) for item in data)
            self._publish(seal(self._state, drafts, now_ms()))

    def _row(self, state: SessionState) -> Row:
        owner = self._world.owners.me if state.turn is not None else None
        return row_of(state, self._modified_ms, owner)

    # Loading and losing

    def _loaded(self, done: Future[Log | None]) -> None:
        self._busy = False
        error = done.exception()
        found = None if error is not None else done.result()
        if found is None:
            self.gone = error is None
            self._fail_all(error or SessionNotFound.of(self.id))
            return
        try:
            state = folded(found)
        except (msgspec.MsgspecError, ValueError) as fault:
            log.error("session %s cannot be folded: %s", self.id, fault)
            self._fail_all(_unreadable(self.id))
            return
        if state is None:
            self._load_whole(found.row)
            return
        self._snapshot_seq = state.seq - len(found.records)
        self._state = state
        self._told_seq = state.seq
        if self._lost_turn:
            self._tell_lost()
        self._recover(state, found.row.owner)
        self._work()

    def _load_whole(self, row: Row) -> None:
        """The snapshot is of another version: fold the log from its beginning."""
        self._busy = True
        read = self._world.store.read(self.id, Range(before=row.head + 1))
        whole = mapped(read, lambda records: Log(row, None, records))
        whole.add_done_callback(self._loaded)

    def _recover(self, state: SessionState, owner: str | None) -> None:
        """End a turn that nobody runs any more, before anything else is done."""
        if state.turn is None or self._turn is not None:
            return
        owners = self._world.owners
        if owner is not None and owner != owners.me and owners.alive(owner):
            self._state = None
            self._fail_all(_runs_elsewhere(self.id))
            return
        go_on = self._world.has_keys(self.id, state.config)
        reply = Reply()
        reply.add_done_callback(self._recovered)
        self._inbox.insert(0, Command(partial(turns.interrupt, go_on=go_on), reply))

    def _recovered(self, done: Future[object]) -> None:
        """Where the turn's end cannot be stored, nothing else can be done either."""
        error = done.exception()
        if error is not None:
            self._fail_all(error)

    def _not_committed(self, error: BaseException, command: Command, decision: Decision) -> None:
        was_new, self._state = self._is_new, None
        if self._early:
            self._early = False
            self._stop_turn()
        self._forget_start()
        if isinstance(error, AlreadyThere):
            self._is_new = False
            command.reply.fail(exists(self.id))
        elif isinstance(error, HeadMoved) and command.tries < limits.COMMIT_TRIES:
            command.tries += 1
            self._lost_turn = self._lost_turn or self._turn is not None
            self._stop_turn()
            self._inbox.insert(0, command)
        else:
            self.gone = was_new
            command.reply.fail(error)
            if was_new:
                self._fail_all(error)

    def _tell_lost(self) -> None:
        """The log says how the turn ended: who follows reads that, and has this besides."""
        self._lost_turn = False
        error = events.SessionError(error_type="interrupted", message=TAKEN_OVER)
        self._tell_live(error, events.SessionIdle())
        self._waits.fail(StoreFailed(TAKEN_OVER))

    def _fail_all(self, error: BaseException) -> None:
        while self._inbox:
            self._inbox.pop(0).reply.fail(error)

    # The turn

    def _start_turn(self, state: SessionState) -> None:
        assert state.turn is not None
        progress = Progress(turn_id=state.turn.id, message_id=new_id())
        plan = Plan(
            session_id=self.id,
            config=state.config,
            history=partial(self._history, state),
            headers=self._world.headers_of(self.id, state.turn.message_id),
        )
        told = TurnEvents(
            delta=partial(self._on_delta, progress),
            retrying=partial(self._on_retry, progress),
            done=partial(self._on_done, progress),
            failed=partial(self._on_failed, progress),
        )
        log.debug(
            "session %s: turn %s begins, model %s", self.id, progress.turn_id, plan.config.model
        )
        self._turn = Turn(plan, self._world, told)
        self._world.owners.beat_while(self._world.running, self._world.spawn)
        self._world.spawn(self._turn.run)

    async def _history(self, state: SessionState) -> list[Message]:
        """What the model reads, loaded where that was not needed until now."""
        if state.history is None:
            wanted = Range(before=state.seq + 1, types=history.TYPES)
            records = await settled(self._world.store.read(self.id, wanted))
            if state.history is None:
                state.history = folded_history(records)
        return list(state.history)

    def _forget_start(self) -> None:
        """The turn that was decided to start does not."""
        if self._turn is None:
            self._world.running.discard(self.id)

    def _stop_turn(self) -> None:
        if self._turn is not None:
            self._turn.stop()
            self._turn = None
            self._world.running.discard(self.id)

    def _on_delta(self, progress: Progress, text: str, reasoning: str) -> None:
        """Pieces that come while a commit is under way wait together and leave as one."""
        progress.text.append(text)
        progress.reasoning.append(reasoning)
        if not progress.unsent:
            progress.unsent = True
            self._enqueue(partial(answering.delta, progress=progress))

    def _on_retry(
        self, progress: Progress, failure: ProviderFailed, model: str | None, wait_s: float
    ) -> None:
        self._enqueue(
            partial(
                answering.retrying, progress=progress, failure=failure, model=model, wait_s=wait_s
            )
        )

    def _on_done(self, progress: Progress, outcome: Outcome) -> None:
        self._end_turn(partial(answering.done, progress=progress, outcome=outcome))

    def _on_failed(self, progress: Progress, failure: ProviderFailed, model: str | None) -> None:
        log.debug("session %s: turn %s failed: %s", self.id, progress.turn_id, failure.kind)
        self._end_turn(partial(answering.failed, progress=progress, failure=failure, model=model))

    def _end_turn(self, decide_end: Decide) -> None:
        """However the end is decided, it comes: a failure on the way interrupts the turn."""
        reply = self._enqueue(decide_end)

        def check(done: Future[object]) -> None:
            error = done.exception()
            if error is None or self.gone:
                return
            log.error("session %s: the end of a turn failed", self.id, exc_info=error)
            message = f"The turn's end could not be stored: {error}"
            if not isinstance(error, RpcError):
                message = "The turn's end failed inside the daemon; its log has it."
            self._stop_turn()
            self._enqueue(partial(turns.interrupt, message=message)).add_done_callback(told)

        def told(done: Future[object]) -> None:
            if done.exception() is not None:
                # Not even that: those who watch learn it, the log says it after a restart.
                self._tell_stuck(str(done.exception()))
                self._waits.fail(StoreFailed(str(done.exception())))

        reply.add_done_callback(check)

    def _tell_stuck(self, message: str) -> None:
        drafts = (
            Draft(events.SessionError(error_type="store", message=message), live_only=True),
            Draft(events.SessionIdle()),
        )
        nowhere = self._state or SessionState(
            id=self.id, created_ms=self._modified_ms, seq=self._told_seq
        )
        frames = [event_frame(self.id, item.body) for item in seal(nowhere, drafts, now_ms())]
        self._world.publish(self.id, frames, self._told_seq, self._told_seq)
        self._waits.fail(StoreFailed(message))


def _refused(error: RpcError) -> Reply:
    reply = Reply()
    reply.fail(error)
    return reply


def exists(session_id: str) -> SessionExists:
    """The refusal to make a session of an id that is taken."""
    return SessionExists(
        f"A session {session_id} exists already. Attach to it with session.resume, or create with"
        ' "ifExists": "resume".',
        {"sessionId": session_id},
    )


def _runs_elsewhere(session_id: str) -> TurnBusy:
    return TurnBusy(
        f"A turn of session {session_id} runs in another daemon on the same data folder; wait"
        " until it ends, or talk to that daemon.",
        {"sessionId": session_id, "retryMs": 1000},
    )


def _unreadable(session_id: str) -> RpcError:
    return RpcError(
        -32008,
        f"The stored log of session {session_id} cannot be read. It was left as it is:"
        " `tertulia doctor` looks into it.",
        {"kind": "store_failed", "sessionId": session_id},
    )
