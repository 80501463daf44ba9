"""What each command makes of a session: which events, in which order, with which members.

The orders are those of section 5.3 of the wire's reference.
"""

from __future__ import annotations

from typing import Any

import pytest

from tertulia_protocol import events
from tertulia_protocol.config import SessionConfig
from tertuliad.providers.base import Done, ProviderFailed, ToolCall
from tertuliad.sessions.decide import Decision, answering, sending, settings, turns
from tertuliad.sessions.decide.answering import Outcome
from tests.support.in_process_model import InProcessModel
from tests.support.session_on_paper import SessionOnPaper, message, outcome, stored, types

BEGIN = ["user.message", "assistant.turn_start"]
END_OF_ANSWER = [
    "assistant.message",
    "assistant.usage",
    "session.usage_info",
    "assistant.turn_end",
]
IDLE = ["assistant.idle", "session.idle"]


def the(kind: str, published: list[dict[str, Any]]) -> dict[str, Any]:
    """The data of the only event of a type."""
    (found,) = [event["data"] for event in published if event["type"] == kind]
    assert isinstance(found, dict)
    return found


# A session's first and later lines


def test_a_session_begins_with_its_settings() -> None:
    paper = SessionOnPaper(model="m", reasoning_effort="low", working_directory="/w")
    (start,) = paper.published
    assert start["type"] == "session.start"
    assert start["parentId"] is None
    assert start["data"]["sessionId"] == "s"
    assert start["data"]["selectedModel"] == "m"
    assert start["data"]["reasoningEffort"] == "low"
    assert start["data"]["context"] == {"cwd": "/w"}
    assert [record.type for record in paper.log] == ["session.start", "tertulia.configured"]


def resume(paper: SessionOnPaper, given: SessionConfig) -> Any:
    return settings.resume(
        paper.state,
        given,
        resume_time="t",
        was_active=True,
        continue_work=True,
        result="opened",
    )


def test_a_resume_is_an_event_and_keeps_what_it_does_not_change() -> None:
    paper = SessionOnPaper(model="m", working_directory="/w")
    decision = resume(paper, SessionConfig(model="n"))
    assert decision.result == "opened"
    (event,) = paper.do(decision)
    assert event["type"] == "session.resume"
    assert event["data"]["eventCount"] == 1
    assert event["data"]["sessionWasActive"] is True
    assert event["data"]["selectedModel"] == "n"
    assert paper.state.config.working_directory == "/w"


def test_a_resume_that_changes_nothing_stores_one_event_or_none() -> None:
    paper = SessionOnPaper(model="m")
    assert types(paper.do(resume(paper, SessionConfig(model="m")))) == ["session.resume"]
    assert settings.configure(paper.state, SessionConfig(), "done") == Decision(result="done")


# A turn


def test_the_first_message_of_a_session_names_it() -> None:
    paper = SessionOnPaper()
    begun = paper.send(1, "hello there")
    assert types(begun) == ["pending_messages.modified", "session.title_changed", *BEGIN]
    assert the("session.title_changed", begun) == {"title": "hello there"}


def test_a_later_message_does_not_name_it_again() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    paper.finish()
    assert types(paper.send(2)) == ["pending_messages.modified", *BEGIN]


def test_a_message_and_its_turn_name_each_other() -> None:
    paper = SessionOnPaper()
    begun = paper.send(1)
    user, start = the("user.message", begun), the("assistant.turn_start", begun)
    assert user["messageId"] == user["interactionId"] == start["interactionId"] == "m1"
    assert user["turnId"] == start["turnId"] == "0"
    assert user["delivery"] == "idle"
    ended = paper.finish()
    assert the("assistant.message", ended)["originatingMessageId"] == "m1"
    assert the("assistant.turn_end", ended) == {"turnId": "0"}


def test_a_plain_turn_is_two_transactions() -> None:
    paper = SessionOnPaper()
    begun = paper.send(1)
    assert types(stored(begun)) == BEGIN
    assert paper.say("ans") == []
    assert paper.say("wer") == []
    ended = paper.finish()
    assert types(ended) == [*END_OF_ANSWER, *IDLE]
    assert types(stored(ended)) == ["assistant.message", "assistant.turn_end"]
    assert the("assistant.message", ended)["content"] == "answer"


def test_a_streamed_turn_shows_its_pieces_once() -> None:
    paper = SessionOnPaper(streaming=True)
    paper.send(1)
    assert types(paper.say("a")) == ["assistant.message_start", "assistant.message_delta"]
    assert types(paper.say("b")) == ["assistant.message_delta"]
    assert paper.say("") == []
    ended = paper.finish()
    deltas = [e["data"] for e in paper.published if e["type"] == "assistant.message_delta"]
    assert [data["deltaContent"] for data in deltas] == ["a", "b"]
    final = the("assistant.message", ended)
    assert {data["messageId"] for data in deltas} == {final["messageId"]}
    assert final["content"] == "ab"
    assert all(event.get("ephemeral") for event in paper.published if "delta" in event["type"])


def test_pieces_that_wait_together_leave_as_one() -> None:
    paper = SessionOnPaper(streaming=True)
    paper.send(1)
    assert paper.progress is not None
    paper.progress.text += ["a", "b", "c"]
    paper.progress.reasoning += ["x", "", "y"]
    shown = paper.do(answering.delta(paper.state, paper.progress))
    assert [event["data"].get("deltaContent") for event in shown] == [None, "xy", "abc"]


def test_reasoning_comes_before_the_answer_and_is_kept() -> None:
    paper = SessionOnPaper(streaming=True)
    paper.send(1)
    assert types(paper.say(reasoning="hm")) == [
        "assistant.message_start",
        "assistant.reasoning_delta",
    ]
    paper.say("so")
    ended = paper.finish()
    assert types(ended) == ["assistant.reasoning", *END_OF_ANSWER, *IDLE]
    assert the("assistant.reasoning", ended)["content"] == "hm"
    assert the("assistant.message", ended)["reasoningText"] == "hm"


def test_the_count_of_tokens_is_the_providers() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    ended = paper.finish()
    usage = the("assistant.usage", ended)
    assert (usage["inputTokens"], usage["outputTokens"]) == (10, 5)
    assert (usage["duration"], usage["timeToFirstTokenMs"]) == (12.3, 5.7)
    assert the("session.usage_info", ended) == {
        "tokenLimit": 8192,
        "currentTokens": 15,
        "messagesLength": 2,
    }


def test_tokens_that_nobody_counted_are_estimated() -> None:
    paper = SessionOnPaper()
    paper.send(1, "x" * 400)
    assert paper.progress is not None
    uncounted = Outcome(
        done=Done(), target=InProcessModel().target("m"), duration_ms=1, first_delta_ms=None
    )
    ended = paper.do(answering.done(paper.state, paper.progress, uncounted))
    assert the("session.usage_info", ended)["currentTokens"] == 100


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_was_cut_says_so(reason: str) -> None:
    paper = SessionOnPaper()
    paper.send(1)
    ended = paper.finish(finish_reason=reason)
    assert types(ended) == [*END_OF_ANSWER, "session.warning", *IDLE]
    assert the("session.warning", ended)["warningType"] == "answer_cut"


def test_tools_that_are_not_run_are_shown_and_named() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    ended = paper.finish(ToolCall("c1", "look", "{}"), ToolCall("c2", "grep", "{}"))
    assert types(ended) == [*END_OF_ANSWER, "session.error", *IDLE]
    requests = the("assistant.message", ended)["toolRequests"]
    assert [(call["toolCallId"], call["name"]) for call in requests] == [
        ("c1", "look"),
        ("c2", "grep"),
    ]
    error = the("session.error", ended)
    assert error["errorType"] == "not_supported"
    assert "grep, look" in error["message"]


# A turn that fails


def test_a_failure_is_told_and_then_the_session_is_idle() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    assert paper.progress is not None
    failure = ProviderFailed("rate_limit", "slow down", status=429, code="too_many")
    ended = paper.do(answering.failed(paper.state, paper.progress, failure, "m"))
    assert types(ended) == ["model.call_failure", "assistant.turn_end", "session.error", *IDLE]
    error = the("session.error", ended)
    assert error["errorType"] == "rate_limit"
    assert error["message"] == "slow down"
    assert error["statusCode"] == 429
    assert error["errorCode"] == "too_many"
    assert error["originatingMessageId"] == "m1"
    assert the("model.call_failure", ended)["failureKind"] == "api"


def test_the_next_message_after_a_failure_begins_a_turn() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    assert paper.progress is not None
    paper.do(answering.failed(paper.state, paper.progress, ProviderFailed("timeout", "t"), None))
    assert types(paper.send(2))[-2:] == BEGIN
    assert types(paper.finish()) == [*END_OF_ANSWER, *IDLE]


# Messages that wait


def test_a_message_during_a_turn_waits_and_then_has_a_turn_of_its_own() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    decision = sending.send(paper.state, message(2), lambda _: "accepted")
    assert decision.result == "accepted"
    assert not decision.starts_turn
    assert types(paper.do(decision)) == ["pending_messages.modified"]
    ended = paper.finish()
    assert types(ended) == [*END_OF_ANSWER, "pending_messages.modified", *BEGIN]
    user = the("user.message", ended)
    assert (user["messageId"], user["delivery"], user["turnId"]) == ("m2", "queued", "1")
    assert types(paper.finish()) == [*END_OF_ANSWER, *IDLE]


def test_an_immediate_message_goes_before_those_that_wait() -> None:
    paper = SessionOnPaper()
    for number in (1, 2, 3):
        paper.send(number)
    paper.send(4, first=True)
    order = [the("user.message", paper.finish())["messageId"] for _ in range(3)]
    assert order == ["m4", "m2", "m3"]


# Ends from outside


def test_an_abort_ends_the_turn_and_no_more() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    decision = turns.abort(paper.state, "user_initiated", "ok")
    assert decision.stops_turn
    assert decision.result == "ok"
    ended = paper.do(decision)
    assert types(ended) == ["abort", "assistant.turn_end", *IDLE]
    assert the("abort", ended) == {"reason": "user_initiated"}
    assert the("session.idle", ended) == {"aborted": True}


def test_an_abort_lets_the_next_message_begin() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    paper.send(2)
    decision = turns.abort(paper.state, "user_initiated", None)
    assert decision.stops_turn
    assert decision.starts_turn
    assert types(paper.do(decision)) == [
        "abort",
        "assistant.turn_end",
        "pending_messages.modified",
        *BEGIN,
    ]


def test_an_abort_of_nothing_is_done_at_once() -> None:
    paper = SessionOnPaper()
    decision = turns.abort(paper.state, "user_initiated", "ok")
    assert decision == Decision(result="ok")


def test_an_interrupted_turn_says_what_to_do() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    ended = paper.do(turns.interrupt(paper.state))
    assert types(ended) == ["assistant.turn_end", "session.error", *IDLE]
    error = the("session.error", ended)
    assert error["errorType"] == "turn_lost"
    assert "again" in error["message"]
    assert error["originatingMessageId"] == "m1"


def test_a_stop_leaves_the_queue_to_the_next_process() -> None:
    paper = SessionOnPaper()
    paper.send(1)
    paper.send(2)
    ended = paper.do(turns.interrupt(paper.state, "stopping", go_on=False))
    assert types(ended) == ["assistant.turn_end", "session.error", *IDLE]
    paper.refold()
    assert types(paper.do(turns.go_on(paper.state))) == BEGIN
    assert turns.go_on(paper.state).drafts == ()


# Settings and notes


def test_a_switch_is_told_and_leaves_the_running_turn_alone() -> None:
    paper = SessionOnPaper(model="m")
    paper.send(1)
    (change,) = paper.do(settings.switch_model(paper.state, "n", "high", None))
    assert change["data"]["previousModel"] == "m"
    assert change["data"]["newModel"] == "n"
    assert paper.state.turn is not None
    assert the("assistant.message", paper.finish())["content"] == ""


@pytest.mark.parametrize("live_only", [True, False])
def test_a_note_has_the_id_that_was_answered(live_only: bool) -> None:
    paper = SessionOnPaper()
    note = events.SessionInfo(info_type="notification", message="look")
    before = len(paper.log)
    (event,) = paper.do(settings.note(note, "the-id", live_only, None))
    assert event["id"] == "the-id"
    assert event.get("ephemeral", False) is live_only
    assert len(paper.log) - before == (0 if live_only else 1)


def test_a_new_name_is_told() -> None:
    paper = SessionOnPaper()
    assert the("session.title_changed", paper.do(settings.rename("n", None))) == {"title": "n"}
    assert paper.do(settings.rename(None, None)) == []


def test_a_decision_changes_nothing_by_itself() -> None:
    paper = SessionOnPaper(streaming=True)
    paper.send(1)
    paper.send(2)
    assert paper.progress is not None
    before = paper.folded()
    sending.send(paper.state, message(3), lambda _: None)
    answering.done(paper.state, paper.progress, outcome())
    turns.abort(paper.state, "user_initiated", None)
    turns.interrupt(paper.state)
    settings.switch_model(paper.state, "n", None, None)
    settings.rename("n", None)
    assert paper.state == before
