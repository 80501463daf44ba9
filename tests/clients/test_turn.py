"""When a turn begins, what it came to, and when it is over: the fold alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from tertulia.errors import (
    DaemonFailed,
    MessageRemoved,
    Overloaded,
    RpcError,
    SessionDeleted,
    SessionNotFound,
    Timeout,
    TurnAborted,
    TurnFailed,
)
from tertulia.records import Event
from tertulia.turn import Turn


def event(kind: str, **data: Any) -> Event:
    return Event(kind, data, timestamp="2026-01-01T00:00:00Z")


MINE = event("user.message", content="hi", messageId="m1")
OTHER = event("user.message", content="yo", messageId="m2", delivery="queued")
END = event("assistant.turn_end")
IDLE = event("session.idle")
ABORTED_IDLE = event("session.idle", aborted=True)


def said(text: str) -> Event:
    return event("assistant.message", messageId="a", content=text, model="fake")


def played(*events: Event) -> tuple[Turn, list[str]]:
    turn = Turn("m1", "hi")
    return turn, [each.type for each in events if turn.take(each)]


def test_the_last_message_wins_and_idle_ends_it() -> None:
    turn, taken = played(MINE, said("one"), said("two"), END, IDLE)
    answer = turn.answer()
    assert (turn.over, answer.text, answer.model, answer.message_id) == (True, "two", "fake", "m1")
    assert [each.type for each in answer.events] == taken
    assert taken[0] == "user.message"
    assert taken[-1] == "session.idle"


def test_what_comes_before_the_message_is_somebody_elses() -> None:
    error = event("session.error", errorType="timeout", message="theirs")
    turn, taken = played(OTHER, said("theirs"), error, IDLE, MINE, said("mine"), END, IDLE)
    assert taken == ["user.message", "assistant.message", "assistant.turn_end", "session.idle"]
    assert turn.answer().text == "mine"


def test_a_queued_message_that_begins_ends_the_turn_before_it() -> None:
    turn, taken = played(MINE, said("mine"), END, OTHER, said("theirs"))
    assert turn.over
    assert turn.answer().text == "mine"
    assert taken[-1] == "assistant.turn_end"


def test_a_message_that_steers_joins_the_turn() -> None:
    steering = event("user.message", content="also", messageId="m3", delivery="steering")
    turn, _ = played(MINE, steering, said("both"), END, IDLE)
    assert turn.answer().text == "both"
    assert len(turn.answer().events) == 5


def test_a_message_that_steers_behind_the_turns_end_has_a_turn_of_its_own() -> None:
    steering = event("user.message", content="also", messageId="m3", delivery="steering")
    turn, _ = played(MINE, said("mine"), END, steering, said("theirs"))
    assert turn.over
    assert turn.answer().text == "mine"


def test_what_the_log_recalls_of_a_turn_is_not_taken_twice() -> None:
    stored = [
        Event(each.type, each.data, id=str(number))
        for number, each in enumerate((OTHER, MINE, said("mine")))
    ]
    end = Event("assistant.turn_end", {}, id="end")
    turn = Turn("m1", "hi")
    turn.recall(stored)
    assert [each.id for each in turn.recalled] == ["1", "2"]
    taken = [(turn.take(each), turn.over) for each in (*stored, end, IDLE)]
    assert taken == [(False, False)] * 3 + [(True, False), (True, True)]
    whole = Turn("m1", "hi")
    whole.recall([*stored, end])
    assert whole.over
    assert whole.answer().text == "mine"


def test_what_comes_late_of_an_earlier_turn_is_not_the_recalled_ones() -> None:
    def late(parent_id: str, kind: str = "session.idle") -> Event:
        return Event(kind, {}, id=f"behind {parent_id}", parent_id=parent_id, ephemeral=True)

    theirs = [Event("assistant.message", {}, id="1", parent_id="0"), Event("x", {}, id="2")]
    mine = Event(MINE.type, MINE.data, id="3", parent_id="2")
    turn = Turn("m1", "hi")
    turn.recall([*theirs, mine])
    assert not turn.take(late("1", "assistant.usage"))
    assert not turn.take(late("2"))
    assert turn.take(Event("assistant.message", {"content": "mine"}, id="4", parent_id="3"))
    assert turn.take(Event("assistant.turn_end", {}, id="5", parent_id="4"))
    assert turn.take(late("5"))
    assert turn.answer().text == "mine"

    at_a_pages_edge = Turn("m1", "hi")
    at_a_pages_edge.recall([mine])
    assert not at_a_pages_edge.take(late("2"))
    assert at_a_pages_edge.take(Event("session.idle", {"aborted": True}, id="fresh"))


def test_an_idle_that_the_turn_has_not_come_to_is_another_ones() -> None:
    turn, taken = played(MINE, IDLE, said("mine"), IDLE)
    assert taken == ["user.message", "assistant.message"]
    assert not turn.over
    assert turn.is_missed_by(IDLE)
    assert turn.take(END)
    assert turn.take(IDLE)
    assert turn.answer().text == "mine"


def test_an_error_fails_the_turn_once_it_is_over() -> None:
    failed = event(
        "session.error",
        errorType="rate_limit",
        message="slow down",
        statusCode=429,
        originatingMessageId="m1",
    )
    turn, _ = played(MINE, failed)
    assert not turn.over
    turn.take(IDLE)
    with pytest.raises(TurnFailed, match="slow down") as raised:
        turn.answer()
    assert (raised.value.error_type, raised.value.status) == ("rate_limit", 429)


@pytest.mark.parametrize("kind", ["turn_lost", "store"])
def test_an_error_that_can_name_no_message_fails_the_turn_that_runs(kind: str) -> None:
    turn, _ = played(MINE, event("session.error", errorType=kind, message="gone"), IDLE)
    assert turn.over
    with pytest.raises(TurnFailed, match="gone"):
        turn.answer()


@pytest.mark.parametrize(
    "more",
    [
        {"errorType": "notification"},
        {"errorType": "lint"},
        {"errorType": "turn_lost", "originatingMessageId": "m0"},
    ],
)
def test_an_error_that_is_not_the_turns_fails_nothing(more: dict[str, str]) -> None:
    turn, taken = played(
        MINE, event("session.error", message="a note", **more), said("fine"), END, IDLE
    )
    assert turn.answer().text == "fine"
    assert "session.error" in taken


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ((event("abort", reason="user_initiated"), IDLE), TurnAborted),
        ((event("abort", reason="user_initiated"), ABORTED_IDLE), TurnAborted),
        ((ABORTED_IDLE,), SessionDeleted),
    ],
)
def test_an_aborted_turn_says_why_and_keeps_what_was_said(
    end: tuple[Event, ...], error: type[TurnAborted]
) -> None:
    delta = event("assistant.message_delta", messageId="a", deltaContent="half an ")
    turn, _ = played(MINE, delta, *end)
    with pytest.raises(TurnAborted) as raised:
        turn.answer()
    assert type(raised.value) is error
    assert raised.value.text == "half an "


@pytest.mark.parametrize(
    "error",
    [
        TurnFailed("rate_limit", "Too many.", 429),
        TurnAborted("half"),
        SessionDeleted("half"),
        MessageRemoved(),
        Timeout("No answer", "it was sent"),
        DaemonFailed("It ended.", returncode=3, stderr="tertuliad: why"),
        RpcError(-32603, "internal", {"kind": "internal"}),
        SessionNotFound.of("s"),
        Overloaded("Full.", retry_ms=5),
    ],
)
def test_an_error_of_a_worker_comes_out_as_it_is(error: Exception) -> None:
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is type(error)
        assert (str(same), same.args, vars(same)) == (str(error), error.args, vars(error))


def test_where_the_daemon_names_no_message_the_prompt_is_compared() -> None:
    theirs, mine = event("user.message", content="yo"), event("user.message", content="hi")
    turn, taken = played(theirs, IDLE, mine, said("mine"), END, IDLE)
    assert turn.answer().text == "mine"
    assert len(taken) == 4


def test_its_state_tells_how_far_it_is() -> None:
    turn, _ = played(OTHER)
    assert "waits" in turn.state
    turn.take(MINE)
    turn.take(event("assistant.message_delta", messageId="a", deltaContent="x"))
    assert "1 deltas" in turn.state
    assert "assistant.message_delta" in turn.state
    turn.take(END)
    turn.take(IDLE)
    assert "over" in turn.state
