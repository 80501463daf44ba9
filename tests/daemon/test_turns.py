"""A turn always ends, in one way, whoever or whatever ends it; a model that fails at first is asked
again while nobody has seen anything of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertulia_protocol.errors import Draining, Overloaded
from tertuliad import limits
from tertuliad.providers.base import ProviderFailed
from tertuliad.sessions.retry import Tried, TurnLimits, wait_before_retry
from tests.support.frames_client import FramesClient, Message
from tests.support.pair import ONE_TRY, Models, Room, pair

pytestmark = pytest.mark.anyio

PROMPT_RETRIES = TurnLimits(retries=2)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other without a wait that a test would feel."""
    monkeypatch.setattr(limits, "RETRY_FIRST_WAIT_S", 0.001)


def of(client: FramesClient, kind: str, session: str = "s") -> list[Message]:
    return [event for event in client.events(session) if event["type"] == kind]


def check_one_end(client: FramesClient, session: str = "s") -> None:
    """`session.idle` came once, and last."""
    order = client.types(session)
    assert order.count("session.idle") == 1, order
    assert order[-1] == "session.idle", order
    assert order.count("assistant.turn_end") == order.count("assistant.turn_start")


async def held(client: FramesClient, room: Room, **settings: Any) -> None:
    """A session whose model waits for the test."""
    room.model.hold = True
    await client.create("s", streaming=True, **settings)


# Which failure is tried again


def failure(*, retryable: bool = True, retry_after: float | None = None) -> ProviderFailed:
    return ProviderFailed("server_error", "it broke", retryable=retryable, retry_after=retry_after)


FRESH = Tried(retries=0, elapsed_s=0.0, answered=False)
BOUNDS = TurnLimits(retries=4)


def test_a_fault_that_passes_is_tried_again() -> None:
    assert wait_before_retry(failure(), FRESH, BOUNDS, 0.5) is not None


def test_nothing_is_tried_again_once_something_of_the_answer_was_seen() -> None:
    assert wait_before_retry(failure(), Tried(0, 0.0, True), BOUNDS, 0.5) is None


def test_what_the_provider_calls_final_is_final() -> None:
    assert wait_before_retry(failure(retryable=False), FRESH, BOUNDS, 0.5) is None


def test_waits_grow_and_are_spread_and_end() -> None:
    steps = [
        (
            wait_before_retry(failure(), Tried(n, 0.0, False), BOUNDS, 0.0),
            wait_before_retry(failure(), Tried(n, 0.0, False), BOUNDS, 1.0),
        )
        for n in range(5)
    ]
    assert steps == [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (None, None)]


def test_a_wait_never_grows_beyond_its_bound() -> None:
    many = TurnLimits(retries=100)
    assert wait_before_retry(failure(), Tried(50, 0.0, False), many, 1.0) == 16.0


def test_a_server_that_says_when_is_not_asked_earlier_and_not_at_all_if_that_is_late() -> None:
    assert wait_before_retry(failure(retry_after=7.0), FRESH, BOUNDS, 0.0) == 7.0
    assert wait_before_retry(failure(retry_after=0.0), FRESH, BOUNDS, 1.0) == 0.5
    assert wait_before_retry(failure(retry_after=61.0), FRESH, BOUNDS, 0.0) is None


def test_no_try_begins_after_the_window_or_the_turns_own_bound() -> None:
    assert wait_before_retry(failure(), Tried(0, 119.0, False), BOUNDS, 1.0) == 0.5
    assert wait_before_retry(failure(), Tried(0, 119.9, False), BOUNDS, 1.0) is None
    short = TurnLimits(retries=4, timeout_s=5.0)
    assert wait_before_retry(failure(), Tried(0, 4.9, False), short, 1.0) is None


# Turns that are tried again


@pytest.mark.usefixtures("_at_once")
async def test_a_model_that_answers_at_the_second_try_has_answered(tmp_path: Path) -> None:
    async with pair(tmp_path, turn_limits=PROMPT_RETRIES) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        (await room.model.next_call()).fail("rate_limit", "too many", retryable=True)
        (await room.model.next_call()).finish("here it is")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        order = client.types("s")
        assert order.index("model.call_failure") < order.index("assistant.turn_retry")
        assert "session.error" not in order
        [retry] = of(client, "assistant.turn_retry")
        assert retry["ephemeral"] is True
        assert retry["data"]["turnId"] == of(client, "assistant.turn_start")[0]["data"]["turnId"]
        assert "too many" in retry["data"]["reason"]
        assert [e["data"]["content"] for e in of(client, "assistant.message")] == ["here it is"]
        stored = await client.history("s")
        assert "assistant.turn_retry" not in [event["type"] for event in stored]


@pytest.mark.usefixtures("_at_once")
async def test_tries_end_and_the_last_fault_is_told(tmp_path: Path) -> None:
    async with pair(tmp_path, turn_limits=PROMPT_RETRIES) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        for number in range(3):
            (await room.model.next_call()).fail("connection", f"fault {number}", retryable=True)
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert len(of(client, "assistant.turn_retry")) == 2
        assert len(of(client, "model.call_failure")) == 3
        assert [e["data"]["message"] for e in of(client, "session.error")] == ["fault 2"]
        assert len(room.model.calls) == 3


@pytest.mark.usefixtures("_at_once")
async def test_an_answer_that_was_seen_in_part_is_not_begun_again(tmp_path: Path) -> None:
    async with pair(tmp_path, turn_limits=PROMPT_RETRIES) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        call = await room.model.next_call()
        call.say("half an ans")
        call.fail("server_error", "it broke", retryable=True)
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert of(client, "assistant.turn_retry") == []
        assert len(of(client, "session.error")) == 1
        assert len(room.model.calls) == 1


async def test_a_silent_model_is_called_again_and_then_the_turn_ends(tmp_path: Path) -> None:
    bounds = TurnLimits(retries=1, idle_timeout_s=0.01)
    async with pair(tmp_path, turn_limits=bounds) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert len(room.model.calls) == 2
        [error] = of(client, "session.error")
        assert error["data"]["errorType"] == "timeout"


async def test_a_model_that_is_heard_is_not_silent_though_it_says_nothing_yet(
    tmp_path: Path,
) -> None:
    bounds = TurnLimits(retries=0, idle_timeout_s=0.5)
    async with pair(tmp_path, turn_limits=bounds) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        call = await room.model.next_call()
        late = anyio.current_time() + 3 * 0.5
        while anyio.current_time() < late:
            call.say()  # as the pieces of a tool call come
            await call.taken()
        call.finish("at last")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert of(client, "session.error") == []
        assert [e["data"]["deltaContent"] for e in of(client, "assistant.message_delta")] == [
            "at last"
        ]


@pytest.mark.usefixtures("_at_once")
async def test_what_was_heard_and_not_shown_does_not_keep_a_call_from_being_tried_again(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, turn_limits=PROMPT_RETRIES) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        call = await room.model.next_call()
        call.say()
        call.fail("server_error", "it broke", retryable=True)
        (await room.model.next_call()).finish("better")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert len(of(client, "assistant.turn_retry")) == 1


async def test_a_turn_that_takes_too_long_in_all_ends_though_the_model_goes_on(
    tmp_path: Path,
) -> None:
    bounds = TurnLimits(retries=3, timeout_s=0.2)
    async with pair(tmp_path, turn_limits=bounds) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        call = await room.model.next_call()
        with anyio.fail_after(limits.SHUTDOWN_GRACE_S * 4):
            while not call.ended.is_set():
                call.say("more and ")
                await anyio.lowlevel.checkpoint()
        await client.next_event("session.idle", "s")
        check_one_end(client)
        (error,) = of(client, "session.error")
        assert error["data"]["errorType"] == "timeout"
        assert "longer than the 0.2 s" in error["data"]["message"]
        assert len(room.model.calls) == 1


async def test_a_turn_whose_model_is_looked_for_without_end_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Models, "resolve", lambda *_: anyio.sleep_forever())
    async with pair(tmp_path, turn_limits=TurnLimits(timeout_s=0.2)) as (client, _):
        await client.create("s")
        await client.say("s", "hello")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        (error,) = of(client, "session.error")
        assert error["data"]["errorType"] == "timeout"


# Aborts


@contextmanager
def without_a_timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done inside waits for no clock, however slow the machine is: of the timers that are
    set meanwhile none fires."""
    loop = asyncio.get_running_loop()
    set_timer, fired = loop.call_at, []

    def noted(when: float, callback: Callable[..., object], *args: Any, **more: Any) -> Any:
        delay = when - loop.time()

        def fire(*given: Any) -> None:
            if 0 < delay < limits.OTHERS_LOOK_S:
                fired.append((delay, callback))
            callback(*given)

        return set_timer(when, fire, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_at", noted)
        yield
    assert not fired


async def aborted(client: FramesClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with without_a_timer(monkeypatch):
        answer = await client.request("session.abort", {"sessionId": "s"})
    assert answer["success"] is True
    idle = await client.next_event("session.idle", "s")
    assert idle["data"]["aborted"] is True
    check_one_end(client)
    assert len(of(client, "abort")) == 1
    assert of(client, "session.error") == []


async def goes_on(client: FramesClient, room: Room) -> None:
    """The next message has its turn, and the model knows nothing odd of the one before."""
    room.model.hold = False
    await client.turn("s", "and now")
    roles = [message.role for message in room.model.calls[-1].request.messages]
    assert roles.count("assistant") == 0
    assert roles[-1] == "user"


async def test_an_abort_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        call = await room.model.next_call()
        await aborted(client, monkeypatch)
        await call.ended.wait()
        await goes_on(client, room)


async def test_an_abort_in_the_middle_of_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        call = await room.model.next_call()
        call.say("half an ans")
        await client.next_event("assistant.message_delta", "s")
        await aborted(client, monkeypatch)
        await call.ended.wait()
        call.say("wer that nobody wants")
        await goes_on(client, room)
        assert all("nobody" not in str(event) for event in client.events("s"))


async def test_an_abort_while_a_failed_call_waits_for_its_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETRY_FIRST_WAIT_S", 100.0)
    monkeypatch.setattr(limits, "RETRY_LONGEST_WAIT_S", 100.0)
    async with pair(tmp_path, turn_limits=PROMPT_RETRIES) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        (await room.model.next_call()).fail("server_error", "it broke", retryable=True)
        await client.next_event("assistant.turn_retry", "s")
        await aborted(client, monkeypatch)
        await goes_on(client, room)
        assert len(room.model.calls) == 2


async def test_an_abort_that_overtakes_the_commit_of_its_message(tmp_path: Path) -> None:
    """Both are sent at once: the message is not stored yet when the abort comes."""
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        sent = await client.ask("session.send", {"sessionId": "s", "prompt": "hello"})
        stop = await client.ask("session.abort", {"sessionId": "s"})
        assert "result" in await client.answer(sent)
        assert (await client.answer(stop))["result"]["success"] is True
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert client.types("s").index("user.message") < client.types("s").index("abort")
        await goes_on(client, room)


async def test_an_abort_that_overtakes_its_message_while_the_session_comes_back(
    tmp_path: Path,
) -> None:
    """A session that is loaded first does them in the order in which they were sent."""
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        room.sessions.let_go()
        sent = await client.ask("session.send", {"sessionId": "s", "prompt": "hello"})
        stop = await client.ask("session.abort", {"sessionId": "s"})
        assert "result" in await client.answer(sent)
        assert "result" in await client.answer(stop)
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert len(of(client, "abort")) == 1


async def test_an_abort_leaves_what_waits_its_turn(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        await client.say("s", "first")
        first = await room.model.next_call()
        await client.say("s", "second")
        await client.request("session.abort", {"sessionId": "s"})
        await first.ended.wait()
        (await room.model.next_call()).finish("the second's answer")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        told = [e["data"]["content"] for e in of(client, "assistant.message")]
        assert told == ["the second's answer"]


async def test_two_aborts_end_one_turn_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        await room.model.next_call()
        stops = [await client.ask("session.abort", {"sessionId": "s"}) for _ in range(2)]
        answers = [await client.answer(stop) for stop in stops]
        assert all("result" in answer for answer in answers)
        check_one_end(client)
        assert len(of(client, "abort")) == 1


async def test_an_abort_where_nothing_runs_changes_nothing(tmp_path: Path) -> None:
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        await client.request("session.abort", {"sessionId": "s"})
        assert "session.idle" not in client.types("s")
        assert "abort" not in client.types("s")


async def test_an_abort_is_answered_though_the_inbox_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INBOX_COMMANDS", 8)
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        await room.model.next_call()
        many = [
            await client.ask("session.log", {"sessionId": "s", "message": str(n)})
            for n in range(30)
        ]
        stop = await client.ask("session.abort", {"sessionId": "s"})
        assert (await client.answer(stop))["result"]["success"] is True
        await client.next_event("session.idle", "s")
        answers = [await client.answer(one) for one in many]
        refused = [answer["error"]["data"] for answer in answers if "error" in answer]
        assert refused, "the inbox was never full"
        assert all(data["kind"] == "overloaded" and data["retryMs"] > 0 for data in refused)


# Bounds, and the end of the daemon


async def test_more_turns_than_the_daemon_runs_at_once_are_refused_until_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURNS_AT_ONCE", 2)
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        for session in "abc":
            await client.create(session)
        asked = [await client.ask("session.send", {"sessionId": s, "prompt": "x"}) for s in "abc"]
        answers = [await client.answer(one) for one in asked]
        assert [("error" in answer) for answer in answers] == [False, False, True]
        assert answers[2]["error"]["data"]["kind"] == "overloaded"
        await client.say("a", "it may wait behind the one that runs")
        (await room.model.next_call()).finish("done")
        (await room.model.next_call()).finish("done")
        await client.next_event("session.idle", "b")
        await client.say("c", "now it is taken")
        with pytest.raises(Overloaded):
            await client.create("d")
            await client.say("d", "full again")


async def test_who_runs_most_of_the_turns_leaves_the_last_places_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURNS_AT_ONCE", 8)
    async with pair(tmp_path) as (greedy, room):
        room.model.hold = True
        modest = room.connect()
        for number in range(7):
            await greedy.create(f"g{number}")
        for number in range(6):
            await greedy.say(f"g{number}", "x")
        with pytest.raises(Overloaded) as refused:
            await greedy.say("g6", "x")
        assert "for others" in refused.value.message
        asked = {"sessionId": "g6", "message": {"prompt": "x"}, "position": 0}
        with pytest.raises(Overloaded):
            await greedy.request("session.queue.insertAt", asked)
        await greedy.say("g0", "it may wait behind the one that runs")
        await modest.create("m0")
        await modest.create("m1")
        await modest.say("m0", "x")
        await modest.say("m1", "x")
        (await room.model.next_call()).finish("done")
        (await room.model.next_call()).finish("done")
        await greedy.next_event("session.idle", "g1")
        await modest.create("m2")
        await modest.say("m2", "and the place that has become free")


async def test_a_refused_message_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURNS_AT_ONCE", 0)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        with pytest.raises(Overloaded):
            await client.say("s", "hello")
        stored = await client.history("s")
        assert [event["type"] for event in stored] == ["session.start"]
        monkeypatch.undo()
        await client.turn("s", "hello")


async def test_a_daemon_that_is_stopping_lets_the_turn_end_and_keeps_what_waits(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (client, room):
        await held(client, room)
        await client.say("s", "first")
        call = await room.model.next_call()
        await client.say("s", "second")
        room.draining = True
        with pytest.raises(Draining):
            await client.say("s", "third")
        call.finish("the first's answer")
        await client.next_event("session.idle", "s")
        check_one_end(client)
        assert len(room.model.calls) == 1
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "s"})
        await client.next_event("session.idle", "s")
        stored = await client.history("s")
        asked = [e["data"]["content"] for e in stored if e["type"] == "user.message"]
        assert asked == ["first", "second"]
        seen = [event["id"] for event in client.events("s") if not event.get("ephemeral")]
        assert seen == [event["id"] for event in stored][-len(seen) :], "a gap or a repeat"


# Who tries again


async def test_who_tries_again_at_once_is_not_told_that_the_session_is_idle_before(
    tmp_path: Path,
) -> None:
    """A client that takes the next `session.idle` for the end of what it has just sent."""
    async with pair(tmp_path, turn_limits=ONE_TRY) as (client, room):
        await held(client, room)
        for _ in range(3):
            await client.say("s", "hello")
            (await room.model.next_call()).fail("authentication")
            await client.next_event("session.error", "s")
        await client.say("s", "hello again")
        (await room.model.next_call()).finish("better")
        await client.next_event("session.idle", "s")
        assert len(of(client, "session.error")) == 3
        assert len(of(client, "session.idle")) == 1
        assert client.events("s")[-1]["type"] == "session.idle"


@pytest.mark.parametrize("then", ["nothing", "stop", "lag", "delete", "evict"])
async def test_a_failure_is_followed_by_one_idle_whatever_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(limits, "IDLE_AFTER_ERROR_S", 0.3)
    if then == "lag":
        monkeypatch.setattr(limits, "OUTBOX_HIGH_BYTES", 100)
    async with pair(tmp_path, turn_limits=ONE_TRY) as (client, room):
        await held(client, room)
        await client.say("s", "hello")
        (await room.model.next_call()).fail("authentication")
        await client.next_event("session.error", "s")
        assert of(client, "session.idle") == []
        if then == "stop":
            room.draining = True
            await room.engine.interrupt().settled()
        elif then == "delete":
            await client.request("session.delete", {"sessionId": "s"})
        elif then == "evict":
            room.sessions.let_go()
        await client.next_event("session.idle", "s")
        assert not [room for room in room.hub._rooms.values() if room.kept_back is not None]
        await client.answer(await client.ask("ping"))
        assert len(of(client, "session.idle")) == 1
