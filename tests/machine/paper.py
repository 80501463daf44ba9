"""What the engine has to do, on paper: sessions as lists in memory, without the engine's code.

The rules of this file:
- A `Paper` is one session. Each of its public methods is a command as a client gives it; it writes
  down what is stored and what those who watch are told, in order, and gives the answer's facts.
- `Refused` is an error answer; what was refused has changed nothing.
- `Book.committed` is called after each transaction of the engine: a crash may leave any of these
  states, and no other.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from tests.machine.book import (
    PENDING_MESSAGES,
    REMEMBERED_KEYS,
    Book,
    Event,
    Kept,
    Message,
    Refused,
    Turn,
    Written,
    title_of,
)


class Paper(Written):
    """One session."""

    # A session begins

    @staticmethod
    def create(book: Book, session: str, model: str, streaming: bool) -> Paper:
        if session in book.papers:
            raise Refused("session_exists")
        paper = book.papers[session] = Paper(book, session, Kept(model, streaming))
        paper._store("session.start", model)
        paper._store("tertulia.configured")
        paper._committed()
        return paper

    def fork(self, child_id: str, before: Event | None, name: str | None) -> Paper:
        if before is not None and before.seq <= 1:
            raise Refused("invalid_params")
        if child_id in self.book.papers:
            raise Refused("session_exists")
        upto = self.head if before is None else before.seq - 1
        log = [event for event in self.log if event.seq <= upto]
        child = self.book.papers[child_id] = Paper(self.book, child_id, log[-1].kept)
        child.log, child.head, child.parent = log, upto, self.id
        child.inherited_turns = child.kept.turns
        child._store("tertulia.forked")
        child._end_cut_turn()
        if name is not None:
            child.name = name
            child._store("tertulia.named", name)
        child._committed()
        return child

    def _end_cut_turn(self) -> None:
        """A turn whose end was left behind does not go on here."""
        bounds = [e.type for e in self.log if e.type.startswith("assistant.turn_")]
        if bounds and bounds[-1] == "assistant.turn_start":
            self._store("assistant.turn_end")

    def imported(self, session: str, renamed: dict[str, str]) -> Paper:
        """The session of a document that was exported as this one was, some prompts changed."""
        paper = copy.deepcopy(self, {id(self.book): self.book})
        if session in self.book.papers:
            raise Refused("session_exists")
        paper.id, paper.number, paper.told = session, paper._numbered(), []
        for message in paper.waiting:
            message.prompt = renamed.get(message.prompt, message.prompt)

        def renewed(kept: Kept) -> Kept:
            return replace(kept, words=renamed.get(kept.words or "", kept.words))

        paper.kept = renewed(paper.kept)
        paper.log = [
            replace(e, said=renamed.get(str(e.said), e.said), kept=renewed(e.kept))
            for e in paper.log
        ]
        if paper.turn is not None:
            paper.turn.orphan = paper.turn.imported = True
        if session != self.id:
            paper.inherited_turns, paper.calls = paper.kept.turns, 0
            paper._store("tertulia.copied")
        self.book.papers[session] = paper
        paper._committed()
        return paper

    # Messages and their turns

    def touch(self) -> None:
        """Whatever is asked of a session first ends a turn that nobody runs."""
        if self.turn is not None and self.turn.orphan:
            self._end("turn_lost", go_on=not self.turn.imported)
            self._committed(aside=True)

    def go_on(self) -> None:
        """Take up what waits."""
        self.touch()
        if self.turn is None and self.waiting and not self.paused:
            self._begin(self.waiting.pop(0))
            self._committed(aside=True)

    def send(
        self, message: Message, *, if_idle: bool = False, expected_seq: int | None = None
    ) -> Message:
        """The message that stands for it: the first one of the same key."""
        self.touch()
        if message.key is not None and message.key in self.keys:
            return self.keys[message.key]
        if if_idle and (self.turn is not None or self.waiting):
            raise Refused("turn_busy")
        if expected_seq is not None and expected_seq != self.head:
            raise Refused("seq_moved")
        if self.turn is None and not self.waiting and not self.paused:
            self._live("pending_messages.modified")
            if self.title is None:
                self._live("session.title_changed", title_of(message.prompt))
            if message.key is not None:
                self._store("tertulia.accepted")
            self._begin(message)
        else:
            self._put(message)
        self._remember(message)
        self._committed()
        return message

    def _put(self, message: Message) -> None:
        if len(self.waiting) >= PENDING_MESSAGES:
            raise Refused("overloaded")
        self._store("tertulia.message_queued", message.prompt)
        self._live("pending_messages.modified")
        steering = sum(1 for other in self.waiting if other.first)
        self.waiting.insert(steering if message.first else len(self.waiting), message)
        if self.turn is None and not self.paused:
            self._begin(self.waiting.pop(0))

    def _remember(self, message: Message) -> None:
        if message.key is not None:
            self.keys[message.key] = message
            if len(self.keys) > REMEMBERED_KEYS:
                del self.keys[next(iter(self.keys))]

    def _begin(self, message: Message) -> None:
        self._keep(words=self.kept.words or title_of(message.prompt))
        self._store("user.message", message.prompt)
        self._keep(turns=self.kept.turns + 1)
        self._store("assistant.turn_start")
        self.turn = Turn(message, self.history())

    def _end(self, error: str | None = None, *, aborted: bool = False, go_on: bool = True) -> None:
        self.turn = None
        self._store("assistant.turn_end")
        if error == "length":
            self._store("session.warning", "answer_cut")
        elif error is not None:
            self._store("session.error", error)
        if self.waiting and go_on and not self.paused:
            self._live("pending_messages.modified")
            self._begin(self.waiting.pop(0))
        else:
            self._live("assistant.idle", aborted)
            self._live("session.idle", aborted)

    def delta(self, text: str, reasoning: str) -> None:
        assert self.turn is not None
        self.turn.text += text
        self.turn.reasoning += reasoning
        if not self.kept.streaming or not (text or reasoning):
            return
        if not self.turn.started:
            self.turn.started = True
            self._live("assistant.message_start")
        if reasoning:
            self._live("assistant.reasoning_delta", reasoning)
        if text:
            self._live("assistant.message_delta", text)

    def finish(self, how: str) -> None:
        """`how` is stop, length or tools."""
        turn = self.turn
        assert turn is not None
        if turn.reasoning:
            self._store("assistant.reasoning", turn.reasoning)
        self._store("assistant.message", turn.text, tools=how == "tools")
        self._live("assistant.usage")
        self.calls += 1
        self._store("tertulia.used")
        self._live("session.usage_info")
        self._end({"stop": None, "length": "length", "tools": "not_supported"}[how])
        self._committed()

    def fail(self, kind: str) -> None:
        self._live("model.call_failure", kind)
        self._end(kind)
        self._committed()

    def abort(self, *, go_on: bool = True) -> None:
        self.touch()
        if self.turn is not None:
            self._store("abort")
            self._end(aborted=True, go_on=go_on)
            self._committed()

    def shut_down(self) -> None:
        self.touch()
        if self.turn is not None:
            self._store("abort")
            self._end(aborted=True, go_on=False)
        self._store("session.shutdown")
        self._committed()

    # The queue

    def queue(self) -> tuple[list[Message], list[Message]]:
        """Those that wait in order, and those that steer."""
        self.touch()
        return [m for m in self.waiting if not m.first], [m for m in self.waiting if m.first]

    def _changed(self, waiting: list[Message]) -> None:
        if len(waiting) > PENDING_MESSAGES:
            raise Refused("overloaded")
        self.waiting = waiting
        self._store("tertulia.queue_changed")
        self._live("pending_messages.modified")
        self._committed()

    def find(self, message_id: str) -> Message | None:
        self.touch()
        return next((m for m in self.waiting if m.id == message_id), None)

    def move(self, message_id: str, place: int) -> bool:
        items, steering = self.queue()
        moved = [m for m in items if m.id == message_id]
        rest = [m for m in items if m.id != message_id]
        place = min(max(place, 0), len(rest))
        after = rest[:place] + moved + rest[place:]
        if [id(m) for m in after] == [id(m) for m in items]:
            return False
        self._changed(steering + after)
        return True

    def insert(self, message: Message, place: int) -> Message:
        items, steering = self.queue()
        if self.turn is None and not self.waiting and not self.paused:
            return self.send(message)
        if message.key is not None and message.key in self.keys:
            return self.keys[message.key]
        if len(items) + len(steering) >= PENDING_MESSAGES:
            raise Refused("overloaded")
        if message.key is not None:
            self._store("tertulia.accepted")
        self._remember(message)
        items.insert(min(max(place, 0), len(items)), message)
        self._changed(steering + items)
        return message

    def remove(self, message_id: str) -> bool:
        found = self.find(message_id)
        if found is not None:
            self._changed([m for m in self.waiting if m is not found])
        return found is not None

    def remove_last(self) -> bool:
        self.touch()
        if not self.waiting:
            return False
        self._changed(self.waiting[:-1])
        return True

    def edit(self, message_id: str, prompt: str) -> bool:
        found = self.find(message_id)
        if found is not None:
            new = replace(found, prompt=prompt)
            self._changed([new if m is found else m for m in self.waiting])
        return found is not None

    def duplicate(self, message_id: str) -> Message:
        found = self.find(message_id)
        if found is None:
            raise Refused("invalid_params")
        twin = replace(found, id=None, key=None)
        place = self.waiting.index(found) + 1
        self._changed([*self.waiting[:place], twin, *self.waiting[place:]])
        return twin

    def send_now(self, message_id: str) -> bool:
        found = self.find(message_id)
        if found is None or self.turn is None:
            return False
        first = replace(found, first=True)
        self._changed([first, *(m for m in self.waiting if m is not found)])
        return True

    def clear(self) -> None:
        self.touch()
        if self.waiting:
            self._changed([])

    def pause(self, paused: bool) -> None:
        self.touch()
        if self.paused != paused:
            self.paused = paused
            self._store("tertulia.queue_changed")
            self._committed()
        if not paused:
            self.go_on()

    # What a session is

    def resume(self, *, streaming: bool | None, silent: bool) -> None:
        """The caller follows from here on, before `go_on`."""
        changed = streaming is not None and streaming != self.kept.streaming
        if changed:
            self._keep(streaming=streaming)
            self._store("tertulia.configured")
        if not silent:
            self._store("session.resume")
        if changed or not silent:
            self._committed()

    def rename(self, name: str) -> None:
        self.touch()
        self.name = name
        self._store("tertulia.named", name)
        self._live("session.title_changed", name)
        self._committed()

    def auto_name(self, summary: str) -> bool:
        self.touch()
        if self.name is not None:
            return False
        self._keep(auto=title_of(summary))
        self._store("tertulia.named", title_of(summary))
        self._live("session.title_changed", title_of(summary))
        self._committed()
        return True

    def describe(self, metadata: dict[str, int | None], archived: bool | None) -> None:
        self.touch()
        merged = {**self.metadata, **metadata}
        kept = {name: value for name, value in merged.items() if value is not None}
        put_away = self.archived if archived is None else archived
        if (kept, put_away) != (self.metadata, self.archived):
            self.metadata, self.archived = kept, put_away
            self._store("tertulia.described")
            self._committed()

    def switch_model(self, model: str) -> None:
        self.touch()
        self._keep(model=model)
        self._store("session.model_change", model)
        self._committed()

    def note(self, text: str, *, ephemeral: bool) -> None:
        self.touch()
        if ephemeral:
            self._live("session.info", text)
        else:
            self._store("session.info", text)
            self._committed()

    def rewind(self, event: Event | None) -> int:
        """How many events are left out."""
        self.touch()
        if self.turn is not None:
            raise Refused("turn_busy")
        if event is None or event.seq <= 1:
            raise Refused("invalid_params")
        removed = sum(1 for e in self.log if e.shown and e.seq >= event.seq)
        self.log = [e for e in self.log if e.seq < event.seq]
        words = [title_of(str(e.said)) for e in self.log if e.type == "user.message"]
        self._keep(words=words[0] if words else None)
        self._store("tertulia.rewound")
        self._live("session.snapshot_rewind")
        self._end_cut_turn()
        self._committed()
        return removed

    def delete(self) -> None:
        if self.turn is not None and not self.turn.orphan:
            self._live("session.idle", True)
        del self.book.papers[self.id]
        self.book.committed()
