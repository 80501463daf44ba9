"""A session's state is the fold of its log: the same everywhere, whatever the order of commands."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tertulia_protocol import events
from tertulia_protocol.config import SessionConfig
from tertulia_protocol.errors import Overloaded
from tertulia_protocol.provider_config import ProviderConfig
from tertuliad import limits
from tertuliad.providers.base import Image, Message, ProviderFailed, RichMessage, ToolCall
from tertuliad.sessions import facts
from tertuliad.sessions.decide import answering, sending, turns
from tertuliad.sessions.decide import settings as changes
from tertuliad.sessions.decide.answering import Progress
from tertuliad.sessions.decide.rewinding import Cut, rewind
from tertuliad.sessions.history import NOT_RUN
from tertuliad.sessions.state import OpenTurn, SessionState, apply, fold, title_of
from tertuliad.store.base import Record
from tests.support.session_on_paper import SessionOnPaper, message, outcome, stored, types

# The history that the model reads


def roles(state: SessionState) -> list[tuple[str, Any]]:
    return [(entry.role, entry.content) for entry in state.history or ()]


def test_a_conversation_is_read_back_in_order() -> None:
    paper = SessionOnPaper()
    for number in range(2):
        paper.send(number)
        paper.say("ans")
        paper.say(f"wer {number}")
        paper.finish()
    assert roles(paper.state) == [
        ("user", "message 0"),
        ("assistant", "answer 0"),
        ("user", "message 1"),
        ("assistant", "answer 1"),
    ]
    assert paper.folded() == paper.state


def test_a_failed_turn_leaves_its_question_in_the_history() -> None:
    paper = SessionOnPaper()
    paper.send(0)
    assert paper.progress is not None
    paper.say("half an ans")
    failure = ProviderFailed("interrupted", "cut")
    paper.do(answering.failed(paper.state, paper.progress, failure, "m"))
    paper.send(1)
    assert roles(paper.state) == [("user", "message 0"), ("user", "message 1")]


def test_an_empty_answer_is_not_given_to_the_model() -> None:
    paper = SessionOnPaper()
    paper.send(0)
    paper.finish()
    assert roles(paper.state) == [("user", "message 0")]


def test_a_call_that_was_not_run_has_a_result_before_the_next_question() -> None:
    paper = SessionOnPaper()
    paper.send(0)
    paper.finish(ToolCall("c1", "look", '{"a":1}'), ToolCall("c2", "look", "not json"))
    paper.send(1)
    calls = (ToolCall("c1", "look", '{"a":1}'), ToolCall("c2", "look", "not json"))
    assert paper.history == [
        Message("user", "message 0"),
        RichMessage("assistant", "", tool_calls=calls),
        RichMessage("tool", NOT_RUN, tool_call_id="c1"),
        RichMessage("tool", NOT_RUN, tool_call_id="c2"),
        Message("user", "message 1"),
    ]
    assert paper.folded() == paper.state


def test_the_model_reads_attachments_with_the_message() -> None:
    paper = SessionOnPaper()
    image = {"type": "blob", "mimeType": "image/png", "data": "aWJtZw=="}
    sent = msgspec.structs.replace(
        message(0, "look"), transformed_content="look\n\nat it", attachments=[image]
    )
    (user, *_) = [
        e
        for e in paper.do(sending.send(paper.state, sent, lambda _: None))
        if "content" in e["data"]
    ]
    assert user["data"]["content"] == "look"
    assert user["data"]["attachments"] == [image]
    seen = RichMessage("user", "look\n\nat it", (Image("image/png", "aWJtZw=="),))
    assert paper.history == [seen]
    assert paper.folded() == paper.state


# Settings


def test_no_secret_is_in_the_log() -> None:
    provider = ProviderConfig(base_url="http://x/v1", api_key="sk-secret")
    paper = SessionOnPaper(model="m", provider=provider)
    given = SessionConfig(
        provider=ProviderConfig(base_url="http://y/v1", bearer_token="tok-secret")
    )
    paper.do(
        changes.resume(
            paper.state,
            given,
            resume_time="t",
            was_active=False,
            continue_work=False,
            result=None,
        )
    )
    whole = b"".join(record.body for record in paper.log).decode()
    assert "http://y/v1" in whole
    assert "secret" not in whole
    assert "secret" not in repr(paper.state)


def test_the_latest_settings_hold() -> None:
    paper = SessionOnPaper(model="m1", streaming=True)
    paper.do(changes.switch_model(paper.state, "m2", "high", None))
    paper.do(changes.rename("a name", None))
    assert paper.state.config.model == "m2"
    assert paper.state.config.reasoning_effort == "high"
    assert paper.state.config.streaming is True
    assert paper.state.title == "a name"
    assert paper.folded() == paper.state


def test_a_title_is_a_name_or_the_first_words() -> None:
    assert SessionOnPaper().state.title is None
    paper = SessionOnPaper()
    paper.send(0, "  hello\n there  ")
    assert paper.state.title == "hello there"
    paper.finish()
    paper.send(1, "something else")
    assert paper.state.title == "hello there"
    paper.do(changes.rename("named", None))
    assert paper.state.title == "named"


def test_a_long_title_is_cut() -> None:
    title = title_of("word " * 1000)
    assert len(title) == limits.TITLE_CHARS
    assert title.endswith("…")


# The log of other versions


def record(seq: int, kind: str, data: Any) -> Record:
    return Record(seq, kind, json.dumps({"id": f"e{seq}", "data": data}).encode())


def test_events_of_a_later_version_are_passed_over() -> None:
    state = SessionState(id="s", created_ms=0, history=[])
    fold(
        state,
        [
            record(1, "session.telepathy", {"x": [1]}),
            record(2, "tertulia.something", {"y": 2}),
            record(3, "user.message", {"content": "hi", "messageId": "m", "later": {}}),
        ],
    )
    assert (state.seq, state.last_event_id, state.shown_events) == (3, "e3", 2)
    assert roles(state) == [("user", "hi")]


@pytest.mark.parametrize("kind", ["user.message", "assistant.turn_start", "tertulia.configured"])
def test_a_record_that_cannot_be_read_is_an_error(kind: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        fold(SessionState(id="s", created_ms=0), [record(1, kind, {"content": 5})])


# Any order of commands


class Conversation(RuleBasedStateMachine):
    """The decisions against a model of two lists: the message that runs and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.paper = SessionOnPaper(streaming=True)
        self.sent = 0
        self.running: str | None = None
        self.waiting: list[str] = []
        self.first: set[str] = set()
        self.old: list[Progress] = []

    def _took(self, published: list[dict[str, Any]], *, may_wait: bool = False) -> None:
        """What is true of every command's events."""
        idle = [place for place, kind in enumerate(types(published)) if kind == "session.idle"]
        assert idle in ([], [len(published) - 1])
        if idle:
            assert self.paper.state.turn is None
            assert may_wait or not self.paper.state.pending

    def _end(self, published: list[dict[str, Any]]) -> None:
        """The turn ended: the next message's begins, or the session says that it is idle."""
        assert "assistant.turn_end" in types(published)
        self.running = self.waiting.pop(0) if self.waiting else None
        begun = [e["data"]["messageId"] for e in published if e["type"] == "user.message"]
        assert begun == ([self.running] if self.running else [])
        assert ("session.idle" in types(published)) == (self.running is None)
        self._took(published)

    def _retire(self) -> Progress:
        assert self.paper.progress is not None
        self.old.append(self.paper.progress)
        return self.paper.progress

    @rule(first=st.booleans())
    def send(self, first: bool) -> None:
        self.sent += 1
        name = f"m{self.sent}"
        if self.running is None and not self.waiting:
            self.running = name
        elif len(self.waiting) >= limits.PENDING_MESSAGES:
            return
        else:
            steering = sum(1 for waiting in self.waiting if waiting in self.first)
            self.waiting.insert(steering if first else len(self.waiting), name)
            if first:
                self.first.add(name)
        self._took(self.paper.send(self.sent, first=first))

    @precondition(lambda self: self.running)
    @rule(text=st.sampled_from(["", "a", "bc"]), reasoning=st.sampled_from(["", "hm"]))
    def delta(self, text: str, reasoning: str) -> None:
        published = self.paper.say(text, reasoning)
        said = [e["data"]["deltaContent"] for e in published if "deltaContent" in e["data"]]
        assert said == [piece for piece in (reasoning, text) if piece]

    @precondition(lambda self: self.running)
    @rule(calls=st.booleans(), finish_reason=st.sampled_from(["stop", "length"]))
    def done(self, calls: bool, finish_reason: str) -> None:
        self._retire()
        asked = [ToolCall("c", "tool", "{}")] if calls else []
        self._end(self.paper.finish(*asked, finish_reason=finish_reason))

    @precondition(lambda self: self.running)
    @rule()
    def failed(self) -> None:
        failure = ProviderFailed("server_error", "no")
        decision = answering.failed(self.paper.state, self._retire(), failure, "m")
        published = self.paper.do(decision)
        assert "session.error" in types(published)
        self._end(published)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def late_news_of_an_old_turn(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.old))
        old.text.append("too late")
        failure = ProviderFailed("timeout", "too late")
        for decision in (
            answering.delta(self.paper.state, old),
            answering.done(self.paper.state, old, outcome()),
            answering.failed(self.paper.state, old, failure, None),
        ):
            assert self.paper.do(decision) == []

    @rule()
    def abort(self) -> None:
        decision = turns.abort(self.paper.state, "user_initiated", None)
        if self.running is None:
            assert self.paper.do(decision) == []
            return
        self._retire()
        assert decision.stops_turn
        self._end(self.paper.do(decision))

    @rule(live_only=st.booleans())
    def log(self, live_only: bool) -> None:
        note = events.SessionInfo(info_type="notification", message="n")
        self._took(self.paper.do(changes.note(note, f"note{len(self.paper.log)}", live_only, None)))

    @rule(model=st.sampled_from(["m1", "m2"]))
    def switch_model(self, model: str) -> None:
        self._took(self.paper.do(changes.switch_model(self.paper.state, model, None, None)))
        assert self.paper.state.config.model == model

    @rule(name=st.sampled_from(["x", "y", None]))
    def rename(self, name: str | None) -> None:
        self._took(self.paper.do(changes.rename(name, None)))

    @rule(streaming=st.none() | st.just(True))
    def resume(self, streaming: bool | None) -> None:
        decision = changes.resume(
            self.paper.state,
            SessionConfig(streaming=streaming),
            resume_time="t",
            was_active=False,
            continue_work=False,
            result=None,
        )
        self._took(self.paper.do(decision))

    @rule(streaming=st.none() | st.just(True))
    def configure(self, streaming: bool | None) -> None:
        given = SessionConfig(streaming=streaming)
        self._took(self.paper.do(changes.configure(self.paper.state, given, None)))

    @rule()
    def crash(self) -> None:
        """The process is killed; the next one folds the log and ends the turn it finds."""
        self.paper.refold()
        published = self.paper.do(turns.interrupt(self.paper.state))
        if self.running is None:
            assert published == []
        else:
            self._end(published)
        self._go_on()

    @rule()
    def stop_and_start(self) -> None:
        """A clean stop ends the turn and leaves the others pending for the next process."""
        published = self.paper.do(turns.interrupt(self.paper.state, "stopping", go_on=False))
        assert ("assistant.turn_end" in types(published)) == (self.running is not None)
        self._took(published, may_wait=True)
        self.running = None
        self.paper.refold()
        self._go_on()

    def _go_on(self) -> None:
        decision = turns.go_on(self.paper.state)
        assert decision.starts_turn == (self.running is None and bool(self.waiting))
        if decision.starts_turn:
            self.running = self.waiting.pop(0)
        self._took(self.paper.do(decision))

    @invariant()
    def the_state_is_as_the_model_says(self) -> None:
        turn = self.paper.state.turn
        assert (turn.message_id if turn else None) == self.running
        assert [item.message_id for item in self.paper.state.pending] == self.waiting

    @invariant()
    def the_state_is_the_fold_of_the_log(self) -> None:
        assert self.paper.folded() == self.paper.state

    @invariant()
    def seqs_have_no_gap(self) -> None:
        assert [record.seq for record in self.paper.log] == list(range(1, len(self.paper.log) + 1))

    @invariant()
    def the_chain_of_parents_is_unbroken(self) -> None:
        parent = None
        for event in self.paper.published:
            assert event["parentId"] == parent
            if not event.get("ephemeral"):
                parent = event["id"]

    def teardown(self) -> None:
        """Let all that waits be answered: then each message had one turn, and each turn one end."""
        while self.running is not None:
            self.done(False, "stop")
        taken = [e["data"] for e in self.paper.published if e["type"] == "user.message"]
        starts = [e["data"] for e in self.paper.published if e["type"] == "assistant.turn_start"]
        ends = [e["data"] for e in self.paper.published if e["type"] == "assistant.turn_end"]
        assert [data["messageId"] for data in taken] == [data["interactionId"] for data in starts]
        assert [data["turnId"] for data in starts] == [data["turnId"] for data in ends]
        assert sorted(data["messageId"] for data in taken) == sorted(
            f"m{number + 1}" for number in range(self.sent)
        )
        assert [json.loads(r.body)["id"] for r in self.paper.log if r.type[:9] != "tertulia."] == [
            event["id"] for event in stored(self.paper.published)
        ]


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_full_queue_refuses_the_next_message_and_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PENDING_MESSAGES", 2)
    paper = SessionOnPaper()
    for number in range(3):
        paper.send(number)
    with pytest.raises(Overloaded) as refused:
        paper.send(3)
    assert "session.idle" in refused.value.message
    assert [item.message_id for item in paper.state.pending] == ["m1", "m2"]
    assert paper.folded() == paper.state


# What a fork and a rewind make of each member

FILLED: dict[str, Any] = {
    "id": "s",
    "created_ms": 1,
    "seq": 9,
    "last_event_id": "e9",
    "shown_events": 7,
    "config": SessionConfig(model="m"),
    "name": "chosen",
    "auto_name": "made",
    "first_words": "hello",
    "metadata": {"k": 1},
    "archived": True,
    "parent": "p",
    "history": [Message("user", "hello")],
    "said_chars": 5,
    "messages": 1,
    "pending": [facts.MessageQueued("m2", "waits")],
    "paused": True,
    "keys": {"k": "m1"},
    "turn": OpenTurn("t", "m1", "m"),
    "turns": 3,
    "inherited_turns": 2,
    "last_message_id": "m1",
    "usage": {"m": facts.Totals(calls=1)},
    "last_usage": (1, 2),
}
OF_THE_LOG = {"seq", "last_event_id", "shown_events", "history", "said_chars", "messages"}
"""What is counted anew when less of the log is folded."""
ENDED_BY_A_REWIND = {"turn"}
ITS_OWN = {"id", "created_ms"}
TAKEN_BY_A_FORK = {"config", "auto_name", "first_words", "turns", "last_message_id"}


def filled(**other: Any) -> SessionState:
    return SessionState(**{**FILLED, **other})


def test_every_member_of_a_state_is_filled_here() -> None:
    bare = SessionState(id="", created_ms=0)
    assert list(FILLED) == list(SessionState.__struct_fields__)
    assert [name for name, value in FILLED.items() if getattr(bare, name) == value] == []


def test_a_rewind_carries_all_that_is_not_counted_anew() -> None:
    carried = set(facts.Carried.__struct_fields__)
    derived = OF_THE_LOG | ENDED_BY_A_REWIND | ITS_OWN | {"last_message_id"}
    assert carried | derived == set(FILLED)
    assert not carried & derived
    state = filled(turn=None)
    cut = Cut(head=9, kept=4, removed=3, first_words=FILLED["first_words"], cut_turn=None)
    told = rewind(state, "e5", cut, None).drafts[0].data
    assert isinstance(told, facts.Rewound)
    assert {name: getattr(told.carried, name) for name in carried} == {
        name: FILLED[name] for name in carried
    }
    earlier = SessionState(id="s", created_ms=1, seq=4)
    apply(earlier, 10, facts.INTERNAL[facts.Rewound], "e10", told)
    assert {name for name in carried if getattr(earlier, name) != FILLED[name]} == set()


def test_a_fork_resets_all_that_it_does_not_take_along() -> None:
    state = filled()
    apply(state, FILLED["seq"], facts.INTERNAL[facts.Forked], "e10", facts.Forked("source", 9))
    reset = {name for name, value in FILLED.items() if getattr(state, name) != value}
    kept = OF_THE_LOG | ITS_OWN | TAKEN_BY_A_FORK
    assert reset | kept == set(FILLED)
    assert not reset & kept
