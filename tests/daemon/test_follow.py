"""The hub keeps: every follower sees one order without gap or repeat, however slowly it reads, and
learns at the end that the session is idle."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia_protocol.errors import StoreFailed
from tertulia_protocol.framing import Body, Framer
from tertuliad import limits
from tertuliad.askers import NOBODY
from tertuliad.follow import Hub
from tertuliad.replies import Reply
from tertuliad.sessions.sealed import Published, event_frame
from tertuliad.store.base import Known, Range, Record, Store

ROOM = "room"
IDLE = "session.idle"
TURN_END = "assistant.turn_end"


class HeldReads:
    """A log whose reads are carried out at one moment and answered at another."""

    def __init__(self) -> None:
        self.log: list[Record] = []
        self.asked: list[tuple[Range, Future[list[Record]]]] = []
        self.found: list[tuple[list[Record] | Exception, Future[list[Record]]]] = []

    def read(self, session_id: str, wanted: Range) -> Future[list[Record]]:
        future: Future[list[Record]] = Future()
        self.asked.append((wanted, future))
        return future

    def carry_out(self, error: Exception | None = None) -> None:
        """Look into the log for whoever asked first."""
        wanted, future = self.asked.pop(0)
        assert wanted.before is not None
        there = [r for r in self.log if wanted.after < r.seq < wanted.before]
        found = there[: wanted.limit]
        self.found.append((error or found, future))

    def answer(self) -> None:
        """Hand over what was found first."""
        found, future = self.found.pop(0)
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)

    def do_all(self) -> None:
        while self.asked or self.found:
            if self.asked:
                self.carry_out()
            self.answer()


class Outlet:
    """A connection's outbox: when `full` it takes nothing."""

    asker = NOBODY

    def __init__(self) -> None:
        self.full = False
        self.room_for: int | None = None
        """It is full after so many more."""
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def offer(self, frame: bytes) -> bool:
        if self.full:
            return False
        self.frames.append(frame)
        if self.room_for is not None:
            self.room_for -= 1
            self.full = self.room_for <= 0
        return True

    @property
    def seen(self) -> list[str]:
        """The ids of the stored events it was given; live ones by type."""
        bodies = Framer().feed(b"".join(self.frames))
        events = [json.loads(cast(Body, body).data)["params"]["event"] for body in bodies]
        return [event["type"] if event.get("ephemeral") else event["id"] for event in events]


class Desk:
    """A hub, its log, and the session's side of it."""

    def __init__(self) -> None:
        self.store = HeldReads()
        self.runs = False
        self.looks: list[Future[bool]] = []
        self.hold_looks = False
        self.hub = Hub(cast(Store, self.store), self._running)

    def _running(self, session_id: str) -> Future[bool]:
        look: Future[bool] = Future()
        self.looks.append(look)
        if not self.hold_looks:
            self.tell_running()
        return look

    def tell_running(self) -> None:
        self.looks.pop(0).set_result(self.runs)

    def join(self) -> Outlet:
        outlet = Outlet()
        self.hub.attach(outlet, ROOM, Known(len(self.store.log)))
        return outlet

    def stored(self, count: int = 1, *, kind: str = "session.info", begins: bool = False) -> None:
        """Commit and publish events, as one decision."""
        before = len(self.store.log)
        made = [_record(before + number + 1, kind) for number in range(count)]
        self.store.log += made
        frames = [event_frame(ROOM, record.body) for record in made]
        self.hub.publish(Published(ROOM, 0, frames, before, before + count, begins=begins))

    def live(self, kind: str = "assistant.message_delta") -> None:
        """Publish an event that is not stored."""
        seq = len(self.store.log)
        body = json.dumps({"id": "live", "type": kind, "ephemeral": True}).encode()
        self.hub.publish(Published(ROOM, 0, [event_frame(ROOM, body)], seq, seq))

    def end(self, name: str, *, failed: bool = False) -> None:
        """A turn ends; the live `session.idle` behind it is called so."""
        seq = len(self.store.log) + 1
        self.store.log.append(_record(seq, TURN_END))
        body = json.dumps({"id": name, "type": name, "ephemeral": True}).encode()
        idle = event_frame(ROOM, body)
        frames = [event_frame(ROOM, self.store.log[-1].body), idle]
        self.hub.publish(Published(ROOM, 0, frames, seq - 1, seq, idle=idle, failed=failed))

    def piece(self, text: str) -> None:
        """A delta of an answer."""
        seq = len(self.store.log)
        body = json.dumps({"id": "live", "type": text, "ephemeral": True}).encode()
        self.hub.publish(Published(ROOM, 0, [event_frame(ROOM, body)], seq, seq, pieces=True))

    def drained(self, outlet: Outlet) -> None:
        outlet.full, outlet.room_for = False, None
        self.hub.on_low(outlet)


def _record(seq: int, kind: str = "session.info") -> Record:
    return Record(seq, kind, json.dumps({"id": f"e{seq}", "type": kind}).encode())


def names(first: int, last: int) -> list[str]:
    return [f"e{seq}" for seq in range(first, last + 1)]


@pytest.mark.parametrize("page", [3, 100])
def test_what_was_read_before_it_was_published_is_not_told_again(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's reader may be quicker than the answer to the commit."""
    monkeypatch.setattr(limits, "CATCH_UP_EVENTS", page)
    desk = Desk()
    outlet = desk.join()
    desk.stored()
    outlet.full = True
    desk.stored(2)
    desk.store.log += [_record(4), _record(5)]  # committed, and not published yet
    desk.drained(outlet)
    desk.store.do_all()
    frames = [event_frame(ROOM, _record(seq).body) for seq in (4, 5)]
    desk.hub.publish(Published(ROOM, 0, frames, 3, 5))
    desk.store.do_all()
    desk.stored()
    desk.store.do_all()
    assert [one for one in outlet.seen if one != IDLE] == names(1, 6)


def test_who_has_missed_a_piece_of_an_answer_gets_the_whole_and_no_more_pieces() -> None:
    desk = Desk()
    desk.runs = True
    slow, quick = desk.join(), desk.join()
    desk.stored()
    desk.piece("1")
    slow.full = True
    desk.piece("2")
    desk.drained(slow)
    desk.store.do_all()
    desk.piece("3")
    desk.live("session.warning")
    desk.stored()
    desk.piece("4")
    desk.stored(begins=True)
    desk.piece("5")
    assert quick.seen == ["e1", "1", "2", "3", "session.warning", "e2", "4", "e3", "5"]
    assert slow.seen == ["e1", "1", "session.warning", "e2", "e3", "5"]


def test_news_that_come_late_do_not_have_the_log_told_again() -> None:
    """Of a daemon that could not store the end of a turn, when the log was read meanwhile."""
    desk = Desk()
    outlet = desk.join()
    desk.stored(3)
    late = json.dumps({"id": "live", "type": IDLE, "ephemeral": True}).encode()
    desk.hub.publish(Published(ROOM, 0, [event_frame(ROOM, late)], 1, 1))
    desk.stored()
    desk.store.do_all()
    assert outlet.seen == [*names(1, 3), IDLE, "e4"]


def test_attaching_twice_adds_nothing() -> None:
    desk = Desk()
    outlet = desk.join()
    desk.hub.attach(outlet, ROOM, Known(len(desk.store.log)))
    desk.stored()
    assert outlet.seen == ["e1"]
    assert desk.hub.followers(ROOM) == 1
    assert desk.hub.detach(outlet, ROOM)
    assert not desk.hub.detach(outlet, ROOM)
    desk.stored()
    assert outlet.seen == ["e1"]
    assert not desk.hub.follows(outlet, ROOM)


def test_a_frame_is_encoded_once_for_all() -> None:
    desk = Desk()
    outlets = [desk.join() for _ in range(3)]
    desk.stored(2)
    shared = {id(outlet.frames[0]) for outlet in outlets}
    assert len(shared) == 1
    assert all(outlet.seen == ["e1", "e2"] for outlet in outlets)


def test_who_is_gone_is_told_nothing() -> None:
    desk = Desk()
    stays, leaves = desk.join(), desk.join()
    desk.hub.attach(leaves, "another room", Known(0))
    desk.hub.detach_all(leaves)
    desk.stored()
    assert (stays.seen, leaves.seen) == (["e1"], [])
    assert desk.hub.followers("another room") == 0
    desk.hub.close_room(ROOM)
    desk.stored()
    assert stays.seen == ["e1"]
    assert not desk.hub.follows(stays, ROOM)


def test_who_joins_late_is_told_from_then_on() -> None:
    desk = Desk()
    first = desk.join()
    desk.stored(3)
    late = desk.join()
    late.full = True
    desk.stored(2)
    desk.drained(late)
    desk.store.do_all()
    assert late.seen == [*names(4, 5), IDLE]
    assert first.seen == names(1, 5)


def test_who_lagged_reads_what_it_missed_and_then_follows_again() -> None:
    desk = Desk()
    outlet = desk.join()
    desk.stored()
    outlet.full = True
    desk.stored(2)
    desk.live()
    desk.stored()
    assert outlet.seen == ["e1"]
    desk.drained(outlet)
    desk.store.do_all()
    desk.stored()
    desk.live()
    assert outlet.seen == [*names(1, 4), IDLE, "e5", "assistant.message_delta"]


def test_a_lagging_follower_holds_up_nobody() -> None:
    desk = Desk()
    slow, quick = desk.join(), desk.join()
    slow.full = True
    desk.stored(2)
    desk.live()
    assert quick.seen == ["e1", "e2", "assistant.message_delta"]
    assert slow.seen == []


def test_internal_events_are_read_and_not_shown() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored()
    desk.store.log.append(_record(2, "tertulia.configured"))
    desk.stored()
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == ["e1", "e3", IDLE]


def test_catching_up_reads_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CATCH_UP_EVENTS", 2)
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored(5)
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == [*names(1, 5), IDLE]


def test_filling_up_while_catching_up_goes_on_after_the_next_drain() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored(5)
    desk.drained(outlet)
    outlet.room_for = 2
    desk.store.do_all()
    assert outlet.seen == names(1, 2)
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == [*names(1, 5), IDLE]


def test_a_second_drain_while_the_log_is_read_repeats_nothing() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored(3)
    desk.drained(outlet)
    desk.hub.on_low(outlet)
    desk.store.do_all()
    assert outlet.seen == [*names(1, 3), IDLE]


def test_an_event_that_is_stored_between_the_read_and_its_answer_is_not_lost() -> None:
    desk = Desk()
    outlet = desk.join()
    desk.stored()
    outlet.full = True
    desk.live()
    desk.drained(outlet)
    desk.store.carry_out()
    desk.stored()
    desk.store.answer()
    desk.store.do_all()
    desk.stored()
    assert outlet.seen == ["e1", "e2", IDLE, "e3"]


def test_a_turn_that_still_runs_says_itself_when_it_is_idle() -> None:
    desk = Desk()
    desk.runs = True
    outlet = desk.join()
    outlet.full = True
    desk.stored()
    desk.drained(outlet)
    desk.store.do_all()
    desk.live(IDLE)
    assert outlet.seen == ["e1", IDLE]


def test_idle_is_told_in_the_order_of_the_sessions_commands() -> None:
    desk = Desk()
    desk.hold_looks = True
    outlet = desk.join()
    outlet.full = True
    desk.stored()
    desk.drained(outlet)
    desk.store.do_all()
    desk.stored()  # a command that was under way when the follower had caught up
    desk.tell_running()
    assert outlet.seen == ["e1", "e2", IDLE]


def test_an_idle_that_finds_no_room_comes_after_the_next_drain() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored(2)
    desk.drained(outlet)
    outlet.room_for = 2
    desk.store.do_all()
    assert outlet.seen == ["e1", "e2"]
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == ["e1", "e2", IDLE]


@pytest.mark.parametrize("again", ["the next event", "the next look"])
def test_a_log_that_cannot_be_read_is_tried_again(again: str) -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored()
    desk.drained(outlet)
    desk.store.carry_out(StoreFailed("the disk is away"))
    desk.store.answer()
    assert outlet.seen == []
    if again == "the next event":
        desk.stored()
    else:
        desk.hub.read_again()
    desk.store.do_all()
    assert outlet.seen == [*names(1, len(desk.store.log)), IDLE]


def test_a_read_for_a_follower_that_left_and_came_back_is_dropped() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored()
    desk.drained(outlet)
    desk.hub.detach(outlet, ROOM)
    desk.hub.attach(outlet, ROOM, Known(len(desk.store.log)))
    desk.stored()
    desk.store.do_all()
    assert outlet.seen == ["e2"]


def test_what_another_process_wrote_is_read_once_it_is_heard_of() -> None:
    desk = Desk()
    outlet = desk.join()
    news = desk.hub.news(cast(Any, outlet), ROOM)
    assert news is not None
    desk.store.log += [_record(1), _record(2)]
    desk.hub.heard(ROOM, 2, elsewhere=False)
    assert news.is_set()
    desk.store.do_all()
    desk.hub.heard(ROOM, 2, elsewhere=False)
    assert not desk.store.asked
    desk.stored()
    desk.store.do_all()
    assert outlet.seen == names(1, 3)


def test_the_end_of_a_turn_elsewhere_is_idle_only_when_no_other_runs_there() -> None:
    desk = Desk()
    outlet = desk.join()
    desk.store.log += [_record(1), _record(2, TURN_END), _record(3)]
    desk.hub.heard(ROOM, 3, elsewhere=True)
    desk.store.do_all()
    assert outlet.seen == names(1, 3)
    desk.store.log.append(_record(4, TURN_END))
    desk.hub.heard(ROOM, 4, elsewhere=False)
    desk.store.do_all()
    assert outlet.seen == [*names(1, 4), IDLE]


def test_a_log_that_another_process_has_deleted_is_not_read_for_ever() -> None:
    desk = Desk()
    outlet = desk.join()
    desk.hub.heard(ROOM, 2, elsewhere=False)
    desk.store.carry_out()
    desk.store.answer()
    assert (outlet.seen, desk.store.asked) == ([], [])


def test_a_log_that_was_rewound_under_the_read_is_read_on_once_that_is_published() -> None:
    desk = Desk()
    outlet = desk.join()
    desk.stored(3)
    outlet.full = True
    desk.stored(3)
    desk.runs = True
    desk.live()
    desk.drained(outlet)
    kept, desk.store.log = desk.store.log, []  # the rewind is committed
    desk.store.carry_out()
    desk.store.log = kept
    desk.stored()  # and published
    desk.store.answer()
    desk.store.carry_out()
    desk.store.answer()
    assert outlet.seen[-1] == "e7"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("stored"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["internal", "elsewhere", "heard"]), st.just(0)),
        st.tuples(st.just("live"), st.just(0)),
        st.tuples(st.sampled_from(["fill", "fill after 2", "drain"]), st.integers(0, 1)),
        st.tuples(st.sampled_from(["carry out", "answer", "fail", "look"]), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_the_pace_a_follower_sees_the_log_without_gap_or_repeat(
    script: list[tuple[str, int]],
) -> None:
    desk = Desk()
    outlets = [desk.join(), desk.join()]
    desk.stored()  # from here on they follow
    for step, number in script:
        _act(desk, outlets, step, number)
        for outlet in outlets:
            stored = [name for name in outlet.seen if name.startswith("e")]
            assert stored == _shown(desk)[: len(stored)]
    desk.store.do_all()
    desk.stored()  # whoever could not read the log tries again
    for outlet in outlets:
        desk.drained(outlet)
        desk.store.do_all()
        assert [name for name in outlet.seen if name.startswith("e")] == _shown(desk)


def _act(desk: Desk, outlets: list[Outlet], step: str, number: int) -> Any:
    match step:
        case "stored":
            desk.stored(number)
        case "internal":
            seq = len(desk.store.log) + 1
            desk.store.log.append(_record(seq, "tertulia.named"))
            desk.hub.publish(Published(ROOM, 0, [], seq - 1, seq))
        case "elsewhere":
            desk.store.log.append(_record(len(desk.store.log) + 1))
        case "heard":
            desk.hub.heard(ROOM, len(desk.store.log), elsewhere=False)
        case "live":
            desk.live()
        case "fill":
            outlets[number].full = True
        case "fill after 2":
            outlets[number].room_for = 2
        case "drain" if outlets[number].full:
            desk.drained(outlets[number])
        case "carry out" if desk.store.asked:
            desk.store.carry_out()
        case "fail" if desk.store.asked:
            desk.store.carry_out(StoreFailed("the disk is away"))
        case "look":
            desk.hub.read_again()
        case "answer" if desk.store.found:
            desk.store.answer()


def _shown(desk: Desk) -> list[str]:
    return [
        f"e{record.seq}" for record in desk.store.log if not record.type.startswith("tertulia.")
    ]


def test_who_has_missed_the_idle_of_a_turn_gets_that_one() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.end("the idle")
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == ["e1", "the idle"]
    desk.stored(begins=True)
    outlet.full = True
    desk.stored()
    desk.drained(outlet)
    desk.runs = True
    desk.store.do_all()
    assert outlet.seen == ["e1", "the idle", "e2", "e3"]


def test_who_has_missed_an_idle_before_a_turn_began_is_not_told_of_it() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.end("the idle")
    desk.stored(begins=True)
    desk.runs = True
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == ["e1", "e2"]
    desk.end("the next")
    assert outlet.seen == ["e1", "e2", "e3", "the next"]


def test_who_had_the_idle_and_lagged_later_is_not_told_that_one_again_for_anothers_sake() -> None:
    desk = Desk()
    had, missed = desk.join(), desk.join()
    missed.full = True
    desk.end("the idle")
    had.full = True
    desk.stored()
    desk.drained(had)
    desk.store.do_all()
    assert had.seen == ["e1", "the idle", "e2", IDLE]
    desk.drained(missed)
    desk.store.do_all()
    assert missed.seen == ["e1", "e2", "the idle"]


def test_an_idle_that_was_missed_and_finds_no_room_stays_the_one_that_was_missed() -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.end("the idle")
    desk.drained(outlet)
    outlet.room_for = 1
    desk.store.do_all()
    assert outlet.seen == ["e1"]
    desk.drained(outlet)
    desk.store.do_all()
    assert outlet.seen == ["e1", "the idle"]


@pytest.mark.parametrize("missed", ["behind", "overtaken"])
def test_an_idle_that_comes_while_the_session_is_asked_for_it_is_not_told_again(
    missed: str,
) -> None:
    desk = Desk()
    desk.hold_looks, desk.runs = True, True
    outlet = desk.join()
    if missed == "behind":
        outlet.full = True
        desk.stored(begins=True)
        desk.drained(outlet)
    else:
        desk.store.log.append(_record(1))  # by another process
        desk.stored(begins=True)
    desk.store.do_all()
    seen = outlet.seen
    assert len(desk.looks) == 1
    desk.end("the idle")
    assert outlet.seen == [*seen, f"e{len(desk.store.log)}", "the idle"]
    desk.runs = False
    desk.tell_running()
    assert outlet.seen == [*seen, f"e{len(desk.store.log)}", "the idle"]


@pytest.mark.anyio
@pytest.mark.parametrize("meanwhile", ["nothing", "heard", "read", "lag", "begun", "elsewhere"])
async def test_an_idle_that_is_kept_back_is_told_once_unless_a_turn_begins(
    meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_AFTER_ERROR_S", 1e6)
    desk = Desk()
    outlet = desk.join()
    desk.end("the idle", failed=True)
    assert outlet.seen == ["e1"]
    if meanwhile in ("heard", "read"):
        desk.store.log.append(_record(2))
        desk.hub.heard(ROOM, 2, elsewhere=False)
        if meanwhile == "read":
            desk.store.do_all()
    elif meanwhile == "lag":
        outlet.full = True
    elif meanwhile == "begun":
        desk.stored(begins=True)
    elif meanwhile == "elsewhere":
        desk.store.log.append(_record(2))
        desk.hub.heard(ROOM, 2, elsewhere=True)
        desk.store.do_all()
    before = outlet.seen
    desk.hub.keep_nothing_back()
    if meanwhile == "lag":
        desk.drained(outlet)
    desk.store.do_all()
    desk.hub.keep_nothing_back()
    told = [] if meanwhile in ("begun", "elsewhere") else ["the idle"]
    read = ["e2"] if meanwhile == "heard" else []
    assert outlet.seen == [*before, *read, *told]


@pytest.mark.anyio
@pytest.mark.parametrize("then", ["refused", "waits", "begins"])
async def test_an_idle_that_is_kept_back_waits_for_a_message_on_its_way(
    then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_AFTER_ERROR_S", 0.0)
    desk = Desk()
    outlet = desk.join()
    desk.end("the idle", failed=True)
    first, second = Reply(), Reply()
    desk.hub.expect(ROOM, first)
    desk.hub.expect(ROOM, second)
    first.fail(StoreFailed("The store is held."))
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert outlet.seen == ["e1"]
    if then == "refused":
        second.fail(StoreFailed("The store is held."))
    else:
        second.give("its id")
    if then == "begins":
        desk.stored(begins=True)
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert outlet.seen == ["e1", "e2" if then == "begins" else "the idle"]


def test_a_log_that_stays_unreadable_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    outlet = desk.join()
    outlet.full = True
    desk.stored()
    desk.drained(outlet)
    for _ in range(3):
        desk.store.carry_out(StoreFailed("the disk is away"))
        desk.store.answer()
        desk.hub.read_again()
    assert len([line for line in caplog.records if "catch up" in line.getMessage()]) == 1


@pytest.mark.anyio
async def test_a_message_that_is_refused_does_not_cut_short_how_long_an_idle_is_kept_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "IDLE_AFTER_ERROR_S", 1e6)
    desk = Desk()
    outlet = desk.join()
    desk.end("the idle", failed=True)
    put = Reply()
    desk.hub.expect(ROOM, put)
    put.fail(StoreFailed("The store is held."))
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert outlet.seen == ["e1"]
    desk.hub.keep_nothing_back()
    assert outlet.seen == ["e1", "the idle"]
