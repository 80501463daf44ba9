"""Promise 2: whatever the model does, the turn ends with words that help; the next one works."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Event, said, types


@dataclass(frozen=True)
class Failure:
    """What the model does, and what the session says: its type, its status, words that help."""

    script: str
    kind: str
    words: tuple[str, ...]
    status: int | None = None


FAILURES = [
    Failure("fake-e400", "invalid_request", ("fake error 400",), 400),
    Failure("fake-e401", "authentication", ("fake error 401", "key"), 401),
    Failure("fake-e403", "authentication", ("fake error 403", "key"), 403),
    Failure("fake-e404", "invalid_request", ("URL",), 404),
    Failure("fake-e429", "rate_limit", ("fake error 429", "Wait"), 429),
    Failure("fake-e500", "server_error", ("fake error 500", "again"), 500),
    Failure("fake-e503-plain", "server_error", ("fake error 503", "again"), 503),
    Failure("fake-html", "server_error", ("502 Bad Gateway",), 502),
    Failure("fake-nonsense", "bad_response", ()),
    Failure("fake-n5-cut2", "interrupted", (), 200),
    Failure("fake-redirect", "bad_response", ("elsewhere.invalid",), 307),
    Failure("fake-empty", "bad_response", ()),
]
STREAMED = [Failure("fake-n5-fail2", "server_error", ("fake error in the stream",))]


def error_of(events: list[Event]) -> Event:
    errors = [e for e in events if e["type"] == "session.error"]
    assert len(errors) == 1, types(events)
    return errors[0]


def check_order(events: list[Event]) -> None:
    order = types(events)
    assert order[-1] == "session.idle"
    assert order.index("assistant.turn_start") < order.index("session.error") < len(order) - 1
    assert order.count("assistant.turn_end") == 1
    assert "assistant.message" not in order


@pytest.mark.parametrize(
    ("failure", "streaming"),
    [(f, s) for s in (False, True) for f in FAILURES] + [(f, True) for f in STREAMED],
    ids=lambda value: value.script if isinstance(value, Failure) else f"streaming-{value}",
)
def test_a_model_that_fails_ends_the_turn_with_words_that_help_and_the_next_one_works(
    shared: DaemonProcess, model: ModelThread, failure: Failure, streaming: bool
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider(), streaming=streaming)
    events = wire.turn(session, f"[[{failure.script}]]")
    check_order(events)
    data = error_of(events)["data"]
    assert (data["errorType"], data.get("statusCode")) == (failure.kind, failure.status)
    assert model.base_url.split("/")[2] in data["message"], "it says whose fault it is"
    for words in failure.words:
        assert words in data["message"]
    calls = len(model.chats)
    assert said(wire.turn(session, "[[say:all is well]]")) == ["all is well"]
    assert len(model.chats) == calls + 1
    wire.close()


NO_MODEL = "[[fake-e404-codemodel_not_found]]"


def test_a_model_that_the_sessions_own_provider_does_not_have_is_not_looked_for_in_the_list(
    shared: DaemonProcess, model: ModelThread
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider(), model="work/large")
    said_so = error_of(wire.turn(session, NO_MODEL))["data"]["message"]
    assert said_so.startswith(f"The session's own provider at {model.base_url}")
    assert "names of configured models do not apply" in said_so
    assert "models.list" not in said_so


def test_a_configured_model_that_is_not_there_is_looked_for_in_the_list(
    home: Path, model: ModelThread
) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(f'[providers.work]\nbase_url = "{model.base_url}"\n')
    with stdio_daemon(home) as daemon:
        session = daemon.wire.create(model="work/large")
        said_so = error_of(daemon.wire.turn(session, NO_MODEL))["data"]["message"]
    assert said_so.startswith("Provider 'work' at ")
    assert said_so.endswith("Check the model's name. models.list shows what can be used.")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_port_that_refuses_is_said_at_once(
    shared: DaemonProcess, model: ModelThread, streaming: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    wire = shared.connect()
    base = f"http://127.0.0.1:{port}/v1"
    session = wire.create({"type": "openai", "baseUrl": base}, streaming=streaming)
    events = wire.turn(session, "anybody there?")
    check_order(events)
    data = error_of(events)["data"]
    assert data["errorType"] == "connection"
    assert f"127.0.0.1:{port}" in data["message"]
    wire.call("session.resume", sessionId=session, provider=model.provider())
    assert said(wire.turn(session, "[[say:now there is]]")) == ["now there is"]


@pytest.mark.parametrize("streaming", [False, True])
def test_letters_that_are_no_utf8_become_replacement_characters(
    shared: DaemonProcess, model: ModelThread, streaming: bool
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider(), streaming=streaming)
    events = wire.turn(session, "[[fake-n1-badutf8]]")
    assert types(events)[-1] == "session.idle"
    assert said(events) == ["\ufffd\ufffdw0 lo"]


def test_what_waits_behind_a_turn_that_fails_still_gets_its_own(
    shared: DaemonProcess, model: ModelThread
) -> None:
    wire = shared.connect()
    session = wire.create(model.provider())
    asked = [
        wire.ask("session.send", {"sessionId": session, "prompt": prompt})
        for prompt in ("[[fake-held-e500]]", "[[say:second]]", "[[say:third]]")
    ]
    assert all("result" in wire.answer(ident) for ident in asked)
    model.until_active(1)
    model.release()
    wire.event(session, "session.idle")
    assert said(wire.events(session)) == ["second", "third"]
    assert types(wire.events(session)).count("session.idle") == 1, "one for the whole queue"


def test_a_failed_exchange_does_not_confuse_the_model_later(
    shared: DaemonProcess, model: ModelThread
) -> None:
    """No message of the assistant is invented for an answer that never came."""
    wire = shared.connect()
    session = wire.create(model.provider())
    for prompt in ("[[say:one]]", "[[fake-e500]]", "[[say:three]]"):
        wire.turn(session, prompt)
    roles = [m["role"] for m in model.chats[-1].body["messages"] if m["role"] != "system"]
    assert roles in (["user", "assistant", "user", "user"], ["user", "assistant", "user"])


def test_a_call_that_fails_is_made_again_as_often_as_the_daemon_was_told(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home, "--turn-retries", "1") as daemon:
        session = daemon.wire.create(model.provider(), streaming=True)
        events = daemon.wire.turn(session, "[[fake-e503]]")
        check_order(events)
        assert len(model.chats) == 2
        assert types(events).count("assistant.turn_retry") == 1
        assert types(events).count("model.call_failure") == 2
        daemon.wire.turn(session, "[[fake-e400]]")
        assert len(model.chats) == 3, "what the server refuses is not asked again"


def test_a_model_that_never_answers_is_given_up_after_the_time_that_the_daemon_was_told(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home, "--turn-retries", "0", "--turn-idle-timeout", "0.3") as daemon:
        session = daemon.wire.create(model.provider(), streaming=True)
        for script in ("[[fake-hang]]", "[[fake-n9-stall3]]"):
            events = daemon.wire.turn(session, script)
            check_order(events)
            assert error_of(events)["data"]["errorType"] == "timeout"
        # On a machine that stands still for that long, a good model is given up too.
        answers = (said(daemon.wire.turn(session, "[[say:all is well]]")) for _ in range(50))
        assert ["all is well"] in answers


def test_a_model_that_never_ends_is_given_up_after_the_time_that_the_daemon_was_told(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home, "--turn-retries", "0", "--turn-timeout", "0.3") as daemon:
        session = daemon.wire.create(model.provider(), streaming=True)
        events = daemon.wire.turn(session, "[[fake-n1000000-d20]]")
        check_order(events)
        assert error_of(events)["data"]["errorType"] == "timeout"
        assert "0.3 s" in error_of(events)["data"]["message"]


@pytest.mark.parametrize(
    "option",
    [("--turn-retries", "-1"), ("--turn-timeout", "nan"), ("--drain-grace", "soon")],
    ids=lambda option: option[0],
)
def test_a_bound_that_makes_no_sense_is_refused_at_the_start(
    home: Path, option: tuple[str, str]
) -> None:
    with DaemonProcess(home, "--stdio", *option) as daemon:
        assert daemon.wait() == 2
        assert option[0] in daemon.stderr
