"""One session through the blocking client: its past, its name, its queue, and what `send` asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tertulia import (
    Client,
    InvalidParams,
    MessageRemoved,
    SeqMoved,
    Session,
    SessionNotFound,
    TertuliaError,
    TurnBusy,
    calls,
)
from tests.clients.conftest import BOUND_S

SLOW = "[[fake-hang]]"


@pytest.fixture
def session(home: Path) -> Iterator[Session]:
    with Client.spawn(home=home) as client:
        yield client.create_session("s", "fake-history")


def types(session: Session) -> list[str]:
    return [event.type for event in session.messages()]


def texts(session: Session) -> list[str]:
    return [item.display_text for item in session.queue.list().items]


def test_a_session_goes_back_to_before_a_message(session: Session) -> None:
    session.send_and_wait("one", BOUND_S)
    before = [event.id for event in session.messages()]
    session.send_and_wait("two", BOUND_S)
    points = session.rewind_points()
    assert [point.user_message for point in points] == ["one", "two"]
    removed = session.truncate(points[1].event_id)
    assert removed == 4
    assert [event.id for event in session.messages()] == before
    assert "two" not in session.send_and_wait("three", BOUND_S).text
    with pytest.raises(InvalidParams, match="not found"):
        session.truncate(points[1].event_id)


def test_a_running_turn_is_not_rewound(session: Session) -> None:
    session.send(SLOW)
    with pytest.raises(TurnBusy):
        session.truncate(session.rewind_points()[0].event_id)
    session.abort()


def test_a_name_stays_and_a_title_gives_way(session: Session) -> None:
    assert session.name() is None
    assert session.set_title("made of what was said")
    session.rename("chosen")
    assert not session.set_title("made again")
    assert session.name() == "chosen"
    with pytest.raises(InvalidParams):
        session.rename(" ")


def test_its_metadata_and_usage_are_the_clients(session: Session) -> None:
    session.send_and_wait("hi", BOUND_S)
    assert session.update_metadata({"a": 1}) == session.metadata()
    assert session.usage().turns == 1
    assert session.usage().total.requests == 1
    assert session.usage().duration_ms > 0


def test_a_message_of_one_key_is_accepted_and_answered_once(session: Session) -> None:
    first = session.send_and_wait("one", BOUND_S, idempotency_key="k")
    again = session.send_and_wait("one", BOUND_S, idempotency_key="k")
    assert again.message_id == first.message_id
    assert again.text == first.text
    session.send_and_wait("two", BOUND_S)
    streamed = list(session.stream("one", timeout=BOUND_S, idempotency_key="k"))
    assert streamed[0].data["content"] == "one"
    assert first.text in [event.data.get("content") for event in streamed]
    assert not any(event.data.get("content") == "two" for event in streamed)
    assert types(session).count("user.message") == 2


def test_a_key_that_is_new_streams_like_any_message(session: Session) -> None:
    for number in range(5):
        events = list(
            session.stream(f"[[say:number {number}]]", timeout=BOUND_S, idempotency_key=str(number))
        )
        kinds = [event.type for event in events]
        assert kinds[0] == "user.message"
        assert kinds.count("user.message") == kinds.count("assistant.message") == 1
        assert "assistant.turn_end" in kinds


def test_a_message_may_ask_for_an_idle_session(session: Session) -> None:
    session.send(SLOW, if_idle=True)
    with pytest.raises(TurnBusy):
        session.send("now", if_idle=True)
    session.abort()


def test_a_message_may_ask_for_the_log_that_it_knows(session: Session) -> None:
    end = session.tail()
    session.send_and_wait("one", BOUND_S, expected_seq=end.seq)
    with pytest.raises(SeqMoved) as raised:
        session.send("two", expected_seq=end.seq)
    assert raised.value.data is not None
    assert raised.value.data["seq"] == session.tail().seq
    assert types(session).count("user.message") == 1


def test_the_queue_is_read_and_edited(session: Session) -> None:
    queue = session.queue
    session.send(SLOW)
    one, two = session.send("one"), session.send("two", display_prompt="zwei")
    assert texts(session) == ["one", "zwei"]
    three = queue.insert(0, "three")
    assert queue.move(two, 0)
    assert not queue.move(two, 0)
    assert queue.edit(one, "uno")
    copy = queue.duplicate(three)
    assert [item.id for item in queue.list().items] == [two, three, copy, one]
    assert texts(session) == ["zwei", "three", "three", "uno"]
    assert queue.remove(copy)
    assert not queue.remove(copy)
    assert queue.remove_last()
    assert queue.send_now(three)
    assert queue.list().steering == ("three",)
    queue.clear()
    left = queue.list()
    assert (left.items, left.steering) == ((), ())
    assert not queue.remove_last()
    with pytest.raises(InvalidParams):
        queue.duplicate(one)
    session.abort()


def test_who_waits_for_a_message_that_is_removed_is_told(session: Session) -> None:
    session.send(SLOW)
    outcome: list[BaseException | None] = []

    def wait() -> None:
        try:
            session.send_and_wait("[[say:never]]", BOUND_S)
        except TertuliaError as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    events = session.events()
    thread.start()
    for event in events:
        if event.type == "pending_messages.modified" and (items := session.queue.list().items):
            assert session.queue.remove(items[0].id)
            break
    session.abort()
    thread.join(BOUND_S)
    assert [type(error) for error in outcome] == [MessageRemoved]


def test_who_sends_again_by_the_key_of_a_message_that_is_gone_is_told(session: Session) -> None:
    session.send(SLOW)
    waiting = session.send("[[say:never]]", idempotency_key="removed")
    assert session.queue.remove(waiting)
    session.abort()
    session.send_and_wait("[[say:fine]]", BOUND_S, idempotency_key="rewound")
    session.truncate(session.rewind_points()[-1].event_id)
    for key in ("removed", "rewound"):
        with pytest.raises(MessageRemoved):
            session.send_and_wait("[[say:never]]", BOUND_S, idempotency_key=key)
    assert session.send_and_wait("[[say:on]]", BOUND_S, idempotency_key="new").text == "on"


def test_a_paused_queue_takes_up_nothing_until_it_is_resumed(session: Session) -> None:
    session.queue.pause()
    session.send("[[say:later]]")
    assert session.queue.list().paused
    assert types(session).count("user.message") == 0
    follower = session.follow(session.tail().cursor, types=["assistant.message"])
    session.queue.resume()
    assert next(follower).data["content"] == "later"


def test_a_message_goes_before_those_that_wait(session: Session) -> None:
    session.send(SLOW)
    session.send("[[say:second]]")
    session.send("[[say:first]]", mode="immediate")
    follower = session.follow(types=["assistant.message"])
    session.abort()
    assert [next(follower).data["content"] for _ in range(2)] == ["first", "second"]


def test_a_turn_keeps_its_answer_where_another_message_comes_first(session: Session) -> None:
    """The message that steers has a turn of its own; its answer is not the first one's."""
    events = session.stream("[[fake-n50-d5]]", timeout=BOUND_S)
    said = []
    for event in events:
        if event.type == "assistant.message_start":
            session.send("[[say:steered]]", mode="immediate")
        if event.type == "assistant.message":
            said.append(event.data["content"])
    assert len(said) == 1
    assert "steered" not in said[0]


def test_a_suspended_session_keeps_what_waits(session: Session) -> None:
    session.send(SLOW)
    session.send("[[say:later]]")
    follower = session.follow(types=["assistant.message"])
    session.suspend()
    assert texts(session) == ["[[say:later]]"]
    session.send("[[say:last]]")
    assert [next(follower).data["content"] for _ in range(2)] == ["later", "last"]


def test_what_a_suspended_session_keeps_is_processed(session: Session) -> None:
    session.send(SLOW)
    session.send("[[say:later]]")
    follower = session.follow(types=["assistant.message"])
    session.suspend()
    session.queue.process()
    assert next(follower).data["content"] == "later"
    assert session.queue.list().items == ()


def test_a_session_works_in_another_folder(session: Session, tmp_path: Path) -> None:
    session.set_working_directory(tmp_path)
    info = session._client.do(calls.session_info("s"))
    assert info is not None
    assert info.context == {"cwd": str(tmp_path)}
    with pytest.raises(InvalidParams):
        session.set_working_directory(tmp_path / "missing")


def test_a_closed_session_is_attached_to_again(session: Session) -> None:
    session.close()
    with pytest.raises(SessionNotFound):
        session.tail()
    before = session._client.export_session("s")
    session.attach()
    session.tail()
    assert session._client.export_session("s") == before
