"""Every bound of `limits.py` has a test that reaches it, or a stated reason not to have one.

A bound that a client can reach is reached here, in a table: the request is refused with a typed
error that says what to do, and when to try again where that helps; nobody else notices; once there
is room, the same request is taken. Bounds whose fate is another one, or which take a real process,
are kept by tests elsewhere, and those are named.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tertuliad import limits
from tertuliad.sessions.decide import Decision
from tertuliad.sessions.registry import Sessions
from tertuliad.store.schema import FILE_NAME
from tests.layers.test_promises import missing
from tests.support.daemon_process import stdio_daemon
from tests.support.frames_client import FramesClient, Message
from tests.support.in_process_model import PATIENCE_S
from tests.support.model_thread import ModelThread
from tests.support.pair import Room, pair

Step = Callable[[FramesClient, Room], Awaitable[None]]
TOO_MANY = "overloaded"
TOO_LARGE = "invalid_params"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """`fill` uses up the room that `bound` leaves at the value `lowered`; then `method` with
    `params` is refused, and told to come again after `retry_ms`, or not at all where that does not
    help: `advice` is what is told instead. `free` makes room; without it the request itself has to
    be smaller."""

    bound: str
    lowered: float
    method: str
    params: dict[str, Any]
    kind: str = TOO_MANY
    retry_ms: int | None = None
    advice: str = ""
    fill: Step | None = None
    free: Step | None = None


async def hold_turns(client: FramesClient, room: Room) -> None:
    room.model.hold = True
    await client.say("other", "one that runs")
    await room.model.next_call()


async def end_turns(client: FramesClient, room: Room) -> None:
    room.model.hold = False
    room.model.calls[-1].finish("done")
    await client.next_event("session.idle", "other")


async def fill_queue(client: FramesClient, room: Room) -> None:
    room.model.hold = True
    for number in range(3):
        await client.say("s", f"message {number}")
    await room.model.next_call()


async def fill_paused_queue(client: FramesClient, room: Room) -> None:
    await client.request("session.queue.setDrainPaused", {"sessionId": "s", "paused": True})
    for number in range(2):
        await client.say("s", f"message {number}")


async def empty_queue(client: FramesClient, room: Room) -> None:
    await client.request("session.queue.clear", {"sessionId": "s"})


async def ask_without_end(client: FramesClient, room: Room) -> None:
    for session in ("s", "other"):
        tail = await client.request("session.eventLog.tail", {"sessionId": session})
        params = {"sessionId": session, "cursor": tail["cursor"], "waitMs": 30_000}
        await client.ask("session.eventLog.read", params, f"waits {session}")


async def end_a_question(client: FramesClient, room: Room) -> None:
    note = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "waits s"}}
    await client.send(note)
    await client.answer("waits s")


async def end_every_question(client: FramesClient, room: Room) -> None:
    await end_a_question(client, room)
    note = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "waits other"}}
    await client.send(note)
    await client.answer("waits other")


async def detach_one(client: FramesClient, room: Room) -> None:
    await client.request("session.detach", {"sessionId": "other"})


CASES = [
    Case(
        bound="REQUESTS_IN_FLIGHT",
        retry_ms=limits.IN_FLIGHT_RETRY_MS,
        advice="wait for answers",
        lowered=2,
        fill=ask_without_end,
        method="ping",
        params={},
        free=end_a_question,
    ),
    Case(
        bound="PENDING_MESSAGES",
        advice="session.queue.setDrainPaused",
        lowered=2,
        fill=fill_paused_queue,
        method="session.send",
        params={"sessionId": "s", "prompt": "one too many"},
        free=empty_queue,
    ),
    Case(
        bound="PENDING_MESSAGES",
        retry_ms=limits.PENDING_RETRY_MS,
        advice="session.idle",
        lowered=2,
        fill=fill_queue,
        method="session.send",
        params={"sessionId": "s", "prompt": "one too many"},
        free=empty_queue,
    ),
    Case(
        bound="BYTES_IN_FLIGHT",
        retry_ms=limits.IN_FLIGHT_RETRY_MS,
        advice="wait for answers",
        lowered=1000,
        fill=ask_without_end,
        method="ping",
        params={"message": "x" * 1000},
        free=end_every_question,
    ),
    Case(
        bound="PENDING_BYTES",
        retry_ms=limits.PENDING_RETRY_MS,
        advice="session.idle",
        lowered=1000,
        fill=fill_queue,
        method="session.send",
        params={"sessionId": "s", "prompt": "x" * 1001},
    ),
    Case(
        bound="TURNS_AT_ONCE",
        retry_ms=limits.TURN_RETRY_MS,
        advice="try again",
        lowered=1,
        fill=hold_turns,
        method="session.send",
        params={"sessionId": "s", "prompt": "one too many"},
        free=end_turns,
    ),
    Case(
        bound="FOLLOWED_SESSIONS",
        advice="session.detach",
        lowered=2,
        method="session.create",
        params={"sessionId": "third"},
        free=detach_one,
    ),
    Case(
        bound="PROMPT_BYTES",
        advice="shorter",
        lowered=100,
        method="session.send",
        params={"sessionId": "s", "prompt": "x" * 101},
        kind=TOO_LARGE,
    ),
    *(
        Case(
            bound="PROMPT_BYTES",
            advice="shorter",
            lowered=100,
            method="session.send",
            params={"sessionId": "s", "prompt": "", "attachments": [{"type": "mine", **texts}]},
            kind=TOO_LARGE,
        )
        for texts in ({"text": "x" * 101}, {"in": [{"x" * 101: 1}]}, {"flags": [True] * 101})
    ),
    *(
        Case(
            bound="PROMPT_BYTES",
            advice="shorter",
            lowered=100,
            method="session.send",
            params={"sessionId": "s", "prompt": "y", shown: "x" * 101},
            kind=TOO_LARGE,
        )
        for shown in ("displayPrompt", "source")
    ),
    Case(
        bound="METADATA_BYTES",
        advice="smaller",
        lowered=100,
        method="session.metadata.update",
        params={"sessionId": "s", "metadata": {"k": "x" * 101}},
        kind=TOO_LARGE,
    ),
    Case(
        bound="NAME_CHARS",
        advice="shorter",
        lowered=100,
        method="session.name.set",
        params={"sessionId": "s", "name": "x" * 101},
        kind=TOO_LARGE,
    ),
    *(
        Case(
            bound="NAME_CHARS",
            advice="shorter",
            lowered=100,
            method=method,
            params={"sessionId": "s", "name": "x" * 101, **more},
            kind=TOO_LARGE,
        )
        for method, more in (
            ("session.create", {"sessionId": "new"}),
            ("session.resume", {}),
            ("sessions.fork", {}),
        )
    ),
    *(
        Case(
            bound="NAME_CHARS",
            advice="shorter",
            lowered=100,
            method=method,
            params={"sessionId": "s", member: "x" * 101, **more},
            kind=TOO_LARGE,
        )
        for method, member, more in (
            ("session.create", "clientName", {"sessionId": "new"}),
            ("session.resume", "clientName", {}),
            ("session.resume", "model", {}),
            ("session.options.update", "clientName", {}),
            ("session.model.switchTo", "modelId", {}),
        )
    ),
    *(
        Case(
            bound="PATH_CHARS",
            advice="shorter",
            lowered=100,
            method=method,
            params={"sessionId": session, "workingDirectory": "/" + "x" * 100},
            kind=TOO_LARGE,
        )
        for method, session in (("session.create", "new"), ("session.resume", "s"))
    ),
    Case(
        bound="PENDING_BYTES",
        retry_ms=limits.PENDING_RETRY_MS,
        advice="session.idle",
        lowered=1000,
        fill=fill_queue,
        method="session.send",
        params={"sessionId": "s", "prompt": "x", "displayPrompt": "x" * 1001},
    ),
    Case(
        bound="SEARCH_CHARS",
        advice="Take the words",
        lowered=100,
        method="sessions.search",
        params={"text": "x" * 101},
        kind=TOO_LARGE,
    ),
]


def smaller(params: dict[str, Any]) -> dict[str, Any]:
    """The same params with half of the text."""
    short = ("prompt", "name", "text", "displayPrompt", "source", "clientName", "model", "modelId")
    text: dict[str, Any] = dict.fromkeys(short, "x" * 25)
    text["workingDirectory"] = "/"
    text["metadata"] = {"k": "x" * 50}
    text["attachments"] = [{"type": "mine", "text": "x" * 30}]
    return {name: text.get(name, value) for name, value in params.items()}


def check_retry(data: dict[str, Any], retry_ms: int | None) -> None:
    """What is refused is told to come again after once to twice of `retry_ms`; None: not at all."""
    if retry_ms is None:
        assert "retryMs" not in data
    else:
        assert retry_ms <= data["retryMs"] < 2 * retry_ms


@pytest.mark.anyio
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.bound)
async def test_what_is_too_much_is_refused_with_what_to_do_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    async with pair(tmp_path) as (client, room):
        for session in ("s", "other"):
            await client.create(session)
        bystander = room.connect()
        await bystander.create("of-another-client")
        monkeypatch.setattr(limits, case.bound, case.lowered)
        if case.fill is not None:
            await case.fill(client, room)
        refused = await client.answer(await client.ask(case.method, case.params))
        error = refused["error"]
        assert error["data"]["kind"] == case.kind
        assert f"{case.lowered}" in error["message"], "it names the bound"
        assert case.advice in error["message"]
        if case.kind == TOO_LARGE:
            assert error["data"]["path"].startswith("$")
        check_retry(error["data"], case.retry_ms)
        assert (await bystander.request("ping"))["message"] == "pong"
        assert (await bystander.request("session.list"))["sessions"]
        if case.free is not None:
            await case.free(client, room)
        taken = await client.answer(await client.ask(case.method, smaller(case.params)))
        assert "error" not in taken


@contextlib.contextmanager
def stalled(home: Path) -> Iterator[None]:
    """Nobody can commit meanwhile: somebody else holds the store's lock."""
    with contextlib.closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.anyio
@pytest.mark.parametrize(("method", "taken"), [("session.log", 4), ("session.abort", 6)])
async def test_what_waits_for_a_commit_is_bounded_and_an_abort_finds_room_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, taken: int
) -> None:
    monkeypatch.setattr(limits, "INBOX_COMMANDS", 4)
    monkeypatch.setattr(limits, "URGENT_COMMANDS", 2)
    monkeypatch.setattr(limits, "STORE_BUSY_TIMEOUT_S", PATIENCE_S)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        await client.create("other")
        with stalled(tmp_path):
            params = {"sessionId": "s", "message": "it waits for its commit"}
            first = await client.ask("session.log", params)
            asked = [await client.ask(method, params) for _ in range(20)]
            await client.request("session.name.get", {"sessionId": "other"})
            refused = [answer["error"]["data"] for answer in client.answers() if "error" in answer]
        assert len(refused) == 20 - taken
        for data in refused:
            assert data["kind"] == TOO_MANY
            check_retry(data, limits.INBOX_RETRY_MS)
        answers = [await client.answer(one) for one in (first, *asked)]
        assert sum("result" in answer for answer in answers) == 1 + taken
        await client.turn("s", "there is room again")


@pytest.mark.anyio
async def test_those_who_are_refused_together_do_not_come_back_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURNS_AT_ONCE", 0)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        params = {"sessionId": "s", "prompt": "x"}
        asked = [await client.ask("session.send", params) for _ in range(200)]
        answers = [await client.answer(one) for one in asked]
    times = {answer["error"]["data"]["retryMs"] for answer in answers}
    assert len(times) > 100  # of the thousand that there are


@pytest.mark.anyio
async def test_a_session_that_is_not_idle_says_when_it_may_be_or_what_it_waits_for(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (client, room):
        await client.create("s")
        only_idle = {"sessionId": "s", "prompt": "x", "ifIdle": True}
        await fill_queue(client, room)
        busy = (await client.answer(await client.ask("session.send", only_idle)))["error"]
        check_retry(busy["data"], limits.TURN_RETRY_MS)
        await client.request("session.queue.setDrainPaused", {"sessionId": "s", "paused": True})
        paused = (await client.answer(await client.ask("session.send", only_idle)))["error"]
        check_retry(paused["data"], None)
        assert "session.queue.setDrainPaused" in paused["message"]


@pytest.mark.anyio
async def test_a_database_that_somebody_holds_says_when_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_BUSY_TIMEOUT_S", 0.05)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        params = {"sessionId": "s", "message": "refused, and then taken"}
        with stalled(tmp_path):
            asked = await client.ask("session.log", params)
            refused = (await client.answer(asked))["error"]["data"]
        assert refused["kind"] == "store_failed"
        check_retry(refused, limits.STORE_RETRY_MS)
        await client.request("session.log", params)


@pytest.mark.anyio
async def test_a_page_is_never_larger_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("READ_EVENTS", "READ_EVENTS_MAX", "LISTED_AT_ONCE", "FOUND_AT_ONCE"):
        monkeypatch.setattr(limits, bound, 2)
    async with pair(tmp_path) as (client, _):
        for session in "abc":
            await client.create(session)
            await client.turn(session, "a common word")
        read: list[Message] = [
            await client.request("session.eventLog.read", {"sessionId": "a", **more})
            for more in ({}, {"max": 1000})
        ]
        assert [(len(page["events"]), page["hasMore"]) for page in read] == [(2, True)] * 2
        listed = await client.request("session.list", {"limit": 1000})
        assert len(listed["sessions"]) == 2
        assert listed["cursor"]
        found = await client.request("sessions.search", {"text": "common", "limit": 1000})
        assert len(found["hits"]) == 2
        assert found["cursor"]


@pytest.mark.anyio
async def test_nobody_waits_for_news_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READ_WAIT_MS", 1)
    async with pair(tmp_path) as (client, _):
        await client.create("s")
        tail = await client.request("session.eventLog.tail", {"sessionId": "s"})
        params = {"sessionId": "s", "cursor": tail["cursor"], "waitMs": 10**9}
        read = await client.request("session.eventLog.read", params)
        assert read["events"] == []


@pytest.mark.anyio
async def test_keys_are_remembered_up_to_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REMEMBERED_KEYS", 2)
    async with pair(tmp_path) as (client, _):
        await client.create("s")

        async def send(key: str) -> str:
            params = {"sessionId": "s", "prompt": "x", "idempotencyKey": key, "wait": True}
            return str((await client.request("session.send", params))["messageId"])

        first, second, third = [await send(key) for key in ("1", "2", "3")]
        assert (await send("3"), await send("2")) == (third, second)
        assert await send("1") != first, "it is the oldest, and forgotten"


@pytest.mark.anyio
async def test_an_answer_in_one_piece_has_a_patience_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NOT_STREAMED_TIMEOUT_S", 0.05)
    async with pair(tmp_path) as (client, room):
        room.model.hold = True
        await client.create("s", streaming=False)
        await client.say("s", "hello")
        error = await client.next_event("session.error")
        assert error["data"]["errorType"] == "timeout"
        await client.next_event("session.idle")


@pytest.mark.anyio
async def test_no_more_idle_sessions_than_the_bound_stay_in_memory_for_long(
    tmp_path: Path,
) -> None:
    """They are let go together, half of them at a time, the one used longest ago first."""
    async with pair(tmp_path) as (client, room):
        names = [f"s{number}" for number in range(9)]
        for name in names:
            await client.create(name)
        sessions = Sessions(room.world, hot=2)
        for name in names:
            await sessions.post(name, lambda state: Decision(result=state.id)).settled()
            assert sessions.in_memory <= 4
        assert sessions.in_memory < len(names)


def test_what_was_left_waiting_does_not_begin_all_at_once(tmp_path: Path) -> None:
    with ModelThread() as model:
        env = {"COPILOT_PROVIDER_BASE_URL": model.base_url, "COPILOT_MODEL": "fake"}
        with stdio_daemon(tmp_path / "home", env=env) as daemon:
            sessions = [daemon.wire.create() for _ in range(4)]
            for session in sessions:
                daemon.wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
                daemon.wire.call("session.send", sessionId=session, prompt="[[fake-n5-d10]]")
            model.until_active(4)
            daemon.kill()
        model.until(lambda: model.stats.active == 0)
        most = model.stats.max_active
        model.stats.max_active = 0
        with stdio_daemon(tmp_path / "home", env=env, bounds={"LEFT_OVER_TURNS": 1}):
            model.until(lambda: len(model.chats) == 8 and model.stats.active == 0)
        assert (most, model.stats.max_active) == (4, 1)


# Where the others are kept

E = "tests/e2e/"
D = "tests/daemon/"
ELSEWHERE = {
    "MAX_BODY_BYTES": E + "test_huge_frames.py::test_a_message_over_the_largest_size_is_skipped"
    "_without_being_kept",
    "WRITE_CHUNK_BYTES": D + "test_connection.py::test_frames_that_wait_together_leave_together",
    "OUTBOX_HIGH_BYTES": D + "test_connection.py::test_who_reads_nothing_catches_up_without_gap_or"
    "_repeat",
    "OUTBOX_LOW_BYTES": D + "test_connection.py::test_who_reads_nothing_catches_up_without_gap_or"
    "_repeat",
    "OUTBOX_MAX_BYTES": D + "test_connection.py::test_who_asks_and_reads_nothing_is_closed",
    "TURNS_SHARE": D
    + "test_turns.py::test_who_runs_most_of_the_turns_leaves_the_last_places_to_others",
    "FRAMES_AT_ONCE": D + "test_connection.py::test_a_client_that_floods_does_not_hold_up_another",
    "CONNECTIONS": E + "test_many_clients.py::test_one_client_too_many_is_told_so_and_room_is_used"
    "_again",
    "CONNECTIONS_RETRY_MS": E + "test_many_clients.py::test_one_client_too_many_is_told_so_and_room"
    "_is_used_again",
    **dict.fromkeys(
        ("ACCEPT_PAUSE_S", "ACCEPT_TOLD_S"),
        E + "test_few_files.py::test_clients_beyond_the_limit_hurt_nobody_and_come_in_later",
    ),
    "FILES_AT_LEAST": E + "test_few_files.py::test_a_start_with_too_few_files_says_so",
    "STRANGER_S": E + "test_many_clients.py::test_half_open_connections_are_closed_after_a_while"
    "_and_clients_are_not",
    "STRANGER_BYTES": E + "test_many_clients.py::test_a_strangers_message_is_small_and_a_clients"
    "_is_not",
    "SESSION_IDLE_S": D + "test_idle_sessions.py::test_an_idle_session_leaves_memory_and_comes_back"
    "_as_it_was",
    "OPTION_S": D + "test_idle_sessions.py::test_the_time_is_an_option_and_a_key_of_the_file",
    "SESSION_LOOK_S": D + "test_idle_sessions.py::test_an_idle_session_leaves_memory_and_comes_back"
    "_as_it_was",
    "LIGHT_BYTES": E
    + "test_huge_frames.py::test_an_event_of_the_largest_size_is_stored_and_reaches"
    "_all_who_follow",
    "DELETED_AT_ONCE": D
    + "test_library.py::test_who_speaks_waits_for_few_of_many_that_are_deleted",
    "MARKED_BYTES": D + "test_store.py::test_the_snippet_of_a_long_text_is_around_what_was_found",
    "LIGHT_SEGMENTS": D
    + "test_store.py::test_a_log_of_many_segments_or_a_large_snapshot_is_loaded_by_a_thread",
    "LIGHT_EVENTS": D
    + "test_store.py::test_a_short_log_is_loaded_at_once_and_a_long_one_by_a_thread",
    "SNAPSHOT_EVENTS": D + "test_library.py::test_a_fork_before_a_snapshot_is_folded_from_the_log",
    "ATTACHED_FILE_BYTES": D + "test_attached.py::test_a_large_file_is_cut_and_says_so",
    **dict.fromkeys(
        ("FILE_LOOK_S", "FILE_LOOKS_HANGING"),
        D
        + "test_named_files.py::test_what_hangs_takes_nothing_from_the_others_until_too_much_does",
    ),
    **dict.fromkeys(
        ("FILE_LOOKS", "FILE_LOOKS_OF_ONE", "FILE_LOOKS_RETRY_MS"),
        D + "test_named_files.py::test_no_more_looks_at_once_than_the_bounds",
    ),
    "LISTED_ENTRIES": D + "test_attached.py::test_a_large_folder_is_counted",
    "TITLE_CHARS": D + "test_session_state.py::test_a_long_title_is_cut",
    "AFTER_FINISH_S": D
    + "providers/test_openai_chat.py::test_a_finished_answer_is_whole_though_the"
    "_server_never_ends_it",
    "TURN_IDLE_TIMEOUT_S": D + "test_sessions.py::test_a_model_that_falls_silent_ends_the_turn",
    "TURN_TIMEOUT_S": D + "test_turns.py::test_a_turn_that_takes_too_long_in_all_ends_though_the"
    "_model_goes_on",
    "TURN_RETRIES": D + "test_turns.py::test_tries_end_and_the_last_fault_is_told",
    "RETRY_FIRST_WAIT_S": D + "test_turns.py::test_waits_grow_and_are_spread_and_end",
    "RETRY_LONGEST_WAIT_S": D + "test_turns.py::test_a_wait_never_grows_beyond_its_bound",
    "RETRY_AFTER_S": D + "test_turns.py::test_a_server_that_says_when_is_not_asked_earlier_and_not"
    "_at_all_if_that_is_late",
    "RETRY_WINDOW_S": D + "test_turns.py::test_no_try_begins_after_the_window_or_the_turns_own"
    "_bound",
    "READ_AHEAD_BYTES": D + "test_stdio.py::test_no_more_is_read_ahead_than_its_bound",
    "FREED_KEPT_BYTES": E + "test_huge_frames.py::test_memory_of_many_large_messages_is_given_back",
    "SESSION_TARGETS": D
    + "test_credentials.py::test_targets_are_kept_and_no_more_than_their_bound",
    "IDLE_AFTER_ERROR_S": D
    + "test_turns.py::test_a_failure_is_followed_by_one_idle_whatever_comes",
    "MODEL_ANSWER_CHARS": D + "providers/test_openai_chat.py::test_an_answer_without_end_is_a_bad"
    "_response",
    "MODEL_TOOL_CALLS": D + "providers/test_openai_chat.py::test_too_many_tool_calls_are_a_bad"
    "_response",
    "MODEL_ERROR_CHARS": D + "providers/test_openai_errors.py::test_a_long_text_is_cut_to_one_line",
    "MODEL_LINE_BYTES": D + "providers/test_openai_chat.py::test_a_line_without_end_is_a_bad"
    "_response",
    "STORE_BUSY_TIMEOUT_S": D + "test_store.py::test_a_lock_that_is_held_for_too_long_is_told_to"
    "_all_at_once",
    "TOLD_WAIT_S": D
    + "providers/test_openai_errors.py::test_the_wait_is_read_as_seconds_or_a_date",
    "GREETING_BYTES": D + "test_greeting.py::test_what_takes_a_long_answer_is_left_to_the_gate",
    "READ_BYTES": D + "test_event_log.py::test_pages_of_few_bytes_are_the_whole_log_too",
    "LOOKED_AT_S": D + "test_doctor.py::test_a_daemon_waits_while_somebody_looks_at_its_home",
    "COMMIT_BATCH": D + "test_store.py::test_many_writes_share_a_commit",
    "LEASE_S": D + "test_owners.py::test_a_process_that_is_not_heard_of_is_taken_for_stopped_after"
    "_its_lease",
    "LEASE_BEAT_S": D + "test_owners.py::test_a_process_that_runs_turns_says_so_until_none_runs",
    "CATCH_UP_EVENTS": D + "test_follow.py::test_whatever_the_pace_a_follower_sees_the_log_without"
    "_gap_or_repeat",
    "OTHERS_LOOK_S": E + "test_two_daemons.py::test_a_client_of_one_daemon_hears_a_turn_of_another",
    "COMMIT_TRIES": D + "test_others.py::test_who_is_overtaken_again_and_again_is_told_when_to_come"
    "_again",
    "OTHERS_AT_ONCE": D + "test_others.py::test_sessions_are_asked_for_in_pieces",
    "FREE_BYTES": D + "test_doctor.py::test_too_little_space_is_told",
    "UNUSED_BYTES": D + "test_doctor.py::test_a_repair_gives_back_what_deleted_sessions_have_left",
    **dict.fromkeys(
        ("LARGE_BODY_BYTES", "STEP_PAUSE_S"),
        D + "test_connection.py::test_others_are_served_between_the_steps_of_a_large_message",
    ),
    **dict.fromkeys(
        ("REMOVED_BYTES", "REMOVE_PAUSE_S"),
        D + "test_store.py::test_a_long_log_is_gone_at_once_and_removed_in_pieces",
    ),
    **dict.fromkeys(
        ("WAL_BYTES", "WAL_SHORT_CHANGES"),
        D + "test_log_file.py::test_a_process_that_stores_much_has_a_log_of_full_length",
    ),
    "WAL_CUT_BYTES": D
    + "test_checkpoints.py::test_what_is_far_too_long_is_cut_off_though_nothing_comes_after",
    "INDEXED_BYTES": D + "test_store.py::test_a_long_log_is_indexed_in_pieces_and_found_whole",
    "INDEXED_CHARS": D
    + "test_store.py::test_of_a_long_message_so_much_is_indexed_at_once_as_others"
    "_can_wait_for",
    "CREATED_BYTES": D + "test_store.py::test_a_long_log_is_stored_in_pieces_and_what_others_store"
    "_comes_between",
    "LAST_ANSWERS_S": E + "test_process_end.py::test_what_was_asked_before_a_signal_is_answered",
    "LAST_REFUSALS_S": E + "test_process_end.py::test_who_sends_again_as_a_stop_ends_its_turn_is"
    "_refused_and_not_cut_off",
    "INDEX_PAUSE_S": D + "test_library.py::test_the_index_is_written_behind_the_turns",
    "INDEX_LATE_S": D + "test_library.py::test_the_index_waits_for_quiet_but_not_for_ever",
    "DRAIN_GRACE_S": E + "test_process_end.py::test_a_turn_may_end_within_the_grace_and_what_waits"
    "_stays_waiting",
    "EXIT_AFTER_SHUTDOWN_S": E + "test_process_end.py::test_an_owned_daemon_that_nobody_ends_after"
    "_shutdown_ends_by_itself",
    "SHUTDOWN_GRACE_S": E + "test_pipes.py::test_a_daemon_whose_answers_nobody_reads_ends_with_its"
    "_pipe",
}
HERE = {
    *(case.bound for case in CASES),
    *("INBOX_COMMANDS", "URGENT_COMMANDS", "READ_EVENTS", "READ_EVENTS_MAX", "LISTED_AT_ONCE"),
    *("FOUND_AT_ONCE", "READ_WAIT_MS", "REMEMBERED_KEYS", "NOT_STREAMED_TIMEOUT_S"),
    *("HOT_SESSIONS", "LEFT_OVER_TURNS"),
    *("IN_FLIGHT_RETRY_MS", "PENDING_RETRY_MS", "INBOX_RETRY_MS", "TURN_RETRY_MS"),
    "STORE_RETRY_MS",
}
REASONS = {
    "READ_CHUNK_BYTES": "a size of reads: any cut of the bytes gives the same frames",
    "STRANGER_FAREWELL_S": "for a peer that does not take its refusal, and nobody waits for it",
    "CONNECT_TIMEOUT_S": "aiohttp's own; no address of a test machine is sure to stay silent",
    "MODELS_LIST_TIMEOUT_S": "a wait of seconds; calls have one for silence as well",
    "MODEL_ERROR_BODY_BYTES": "what is beyond it is not read, and nothing of it would be shown",
    "MODEL_REQUEST_AT_ONCE_BYTES": "a size of writes, and the server reads the same bytes",
    "MODEL_NAMES_TOLD": "a length of what is told, and nothing is refused for it",
    "EMBEDDED_OUTPUT_TOKENS": "a default for the demo's model, which the caller may change",
    "EMBEDDED_DEATH_S": "the process's death is heard of at once, unless it lives",
    "EMBEDDED_STDERR_BYTES": "a length of what is told, and nothing is refused for it",
    "EMBEDDED_COMPLAINT_CHARS": "the same",
    "CONNECTIONS_WAITING": "the kernel's own",
    "EMBEDDED_START_TIMEOUT_S": "a minute; no engine that neither starts nor ends can be had",
    "KEEP_LOCAL_S": "aiohttp's own; one that is closed meanwhile is replaced, which has a test",
    "KEEP_REMOTE_S": "the same, of connections to other machines",
    "END_OF_BODY_S": "what comes of it is a connection that is not kept, and nobody can tell",
    "LOCAL_PROBE_S": "no port of a test machine is sure to take a connection and stay silent",
    "EMBEDDED_END_S": "for an engine that ignores the end of its input, and none can be had",
    "CLOSE_S": "for a stream that does not end when it is closed, and nobody waits for it",
    "WAL_CHANGES": "a pace of SQLite's own work on its files, and no client can tell",
    "STORE_CACHE_KIB": "SQLite's own: a size in memory, and no client can tell",
    "SWITCH_INTERVAL_S": "a pace of two threads; the bench shows what it is for",
    "WARM_PAUSE_S": "before an import that nobody waits for",
    "GREETING_S": "how long nobody is waited for, before what was left is taken up all the same",
    "PARENT_POLL_S": "where the platform cannot tell of a parent's death; Linux can",
}


def bounds() -> set[str]:
    return {name for name in vars(limits) if name.isupper()} - {"KIB", "MIB"}


def test_every_bound_has_a_test_that_reaches_it_or_a_reason_not_to_have_one() -> None:
    told = [*HERE, *ELSEWHERE, *REASONS]
    assert len(told) == len({*told}), "one is there twice"
    assert bounds() == {*told}
    elsewhere = [test.partition("::") for test in ELSEWHERE.values()]
    assert not missing([(file, name) for file, _, name in elsewhere])
