"""Promise 7: no secret is stored, logged or sent back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import said

MARK = "hush7391"
"""Part of every secret here, and of nothing else."""


def files_with_mark(home: Path) -> list[Path]:
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" or "sqlite" in path.name for path in files), files
    return [path for path in files if MARK.encode() in path.read_bytes()]


def check(daemon: DaemonProcess, home: Path) -> None:
    assert files_with_mark(home) == [], "while it runs"
    daemon.wire.close()
    assert daemon.wait() == 0
    daemon.wire.until_end()
    assert files_with_mark(home) == []
    assert MARK not in daemon.stderr
    assert MARK.encode() not in daemon.received


def providers(model: ModelThread) -> dict[str, dict[str, object]]:
    base = model.base_url
    inside = base.replace("http://", f"http://user:{MARK}-in-the-address@")
    return {
        "apiKey": {"baseUrl": base, "apiKey": f"sk-{MARK}-key"},
        "bearerToken": {"baseUrl": base, "bearerToken": f"{MARK}-bearer"},
        "headers": {"baseUrl": base, "headers": {"X-Api-Key": f"{MARK}-header"}},
        "baseUrl": {"baseUrl": inside},
    }


@pytest.mark.parametrize("way", ["apiKey", "bearerToken", "headers", "baseUrl"])
def test_a_secret_of_a_provider_is_nowhere_but_in_the_models_request(
    home: Path, model: ModelThread, way: str
) -> None:
    with stdio_daemon(home, "--turn-retries", "0", "--log-level", "all") as daemon:
        wire = daemon.wire
        session = wire.create(providers(model)[way], streaming=True)
        for prompt in ("[[say:fine]]", "[[fake-e401]]", "[[fake-e500-plain]]", "[[fake-n2-cut1]]"):
            wire.turn(session, prompt)
        wire.call("session.model.switchTo", sessionId=session, modelId="fake-history")
        wire.call("session.resume", sessionId=session, provider=providers(model)[way])
        wire.call("session.getMessages", sessionId=session)
        wire.call("session.getMetadata", sessionId=session)
        wire.call("session.list")
        wire.refused("session.create", sessionId=session, provider=providers(model)[way])
        wire.refused("session.create", provider={**providers(model)[way], "headers": 7})
        if way != "baseUrl":
            sent = [str(chat.headers) for chat in model.chats]
            assert all(MARK in headers for headers in sent)
        check(daemon, home)


def test_a_secret_for_one_message_is_nowhere_but_in_the_models_request(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home, "--turn-retries", "0", "--log-level", "all") as daemon:
        session = daemon.wire.create(model.provider())
        headers = {"X-Trace": f"{MARK}-trace"}
        daemon.wire.turn(session, "[[say:once]]", requestHeaders=headers)
        daemon.wire.turn(session, "[[say:again]]")
        assert [MARK in str(chat.headers) for chat in model.chats] == [True, False]
        check(daemon, home)


def test_a_token_for_an_account_is_nowhere(home: Path, model: ModelThread) -> None:
    env = {"COPILOT_SDK_AUTH_TOKEN": f"ghp_{MARK}-env", "GH_TOKEN": f"ghp_{MARK}-other"}
    flags = ("--log-level", "all", "--auth-token-env", "COPILOT_SDK_AUTH_TOKEN")
    with stdio_daemon(home, *flags, env=env) as daemon:
        session = daemon.wire.create(model.provider(), gitHubToken=f"ghp_{MARK}-session")
        assert said(daemon.wire.turn(session, "[[say:no account]]")) == ["no account"]
        assert all(MARK not in str(chat.headers) for chat in model.chats)
        check(daemon, home)


def test_a_key_of_the_environment_is_nowhere_but_in_the_models_request(
    home: Path, model: ModelThread
) -> None:
    env = {
        "OPENAI_API_KEY": f"sk-{MARK}-env",
        "OPENAI_BASE_URL": model.base_url,
    }
    with stdio_daemon(home, "--turn-retries", "0", "--log-level", "all", env=env) as daemon:
        listed = daemon.wire.call("models.list")["models"]
        fake = next(m["id"] for m in listed if m["id"].endswith("fake"))
        session = daemon.wire.create(model=fake)
        assert said(daemon.wire.turn(session, "[[say:by name]]")) == ["by name"]
        daemon.wire.turn(session, "[[fake-e401]]")
        assert model.chats[-1].headers["authorization"] == f"Bearer sk-{MARK}-env"
        check(daemon, home)


def test_what_one_client_gave_for_one_session_is_used_for_that_session_alone(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        wire = daemon.wire
        mine = wire.create(model.provider("key-of-mine"))
        theirs = wire.create(model.provider("key-of-theirs"))
        wire.turn(mine, "[[say:mine]]")
        wire.turn(theirs, "[[say:theirs]]")
        keys = [chat.headers["authorization"] for chat in model.chats]
        assert keys == ["Bearer key-of-mine", "Bearer key-of-theirs"]
        error = wire.refused("session.create", model="fake")
        assert error.data["kind"] == "model_unavailable"


def test_a_fork_is_answered_with_the_key_of_its_source(home: Path, model: ModelThread) -> None:
    with stdio_daemon(home, "--turn-retries", "0") as daemon:
        wire = daemon.wire
        session = wire.create(model.provider(f"{MARK}-key"))
        wire.turn(session, "[[say:one]]")
        fork = wire.call("sessions.fork", sessionId=session)["sessionId"]
        wire.call("session.delete", sessionId=session)
        wire.call("session.resume", sessionId=fork)
        assert said(wire.turn(fork, "[[say:two]]")) == ["two"]
        sent = [chat.headers["authorization"] for chat in model.chats]
        assert sent == [f"Bearer {MARK}-key"] * 2
        check(daemon, home)
