"""The official TypeScript SDK drives the daemon: `scenes.mjs` acts, this file judges."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.conftest import Way
from tests.support.daemon_process import TERTULIAD
from tests.support.model_thread import ModelThread

HERE = Path(__file__).resolve().parent
BOUND_S = 90.0

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node 20.19 or newer"),
    pytest.mark.skipif(
        not (HERE / "node_modules" / "@github" / "copilot-sdk").is_dir(),
        reason="needs `npm ci` in tests/sdk (make test does it)",
    ),
]


def raw_play(scene: str, way: Way, model: ModelThread, **more: Any) -> dict[str, Any]:
    """Play a scene; the line of JSON that it ends with."""
    way.home.mkdir(parents=True, exist_ok=True)
    given = {
        "connection": way.connection,
        "path": str(TERTULIAD),
        "uri": way.uri,
        "token": way.token,
        "home": str(way.home),
        "model": model.base_url,
        **more,
    }
    done = subprocess.run(
        ["node", str(HERE / "scenes.mjs"), scene, json.dumps(given)],
        cwd=way.home,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def play(scene: str, way: Way, model: ModelThread, **more: Any) -> Any:
    """What a scene saw that went well to the end, its stop included."""
    result = raw_play(scene, way, model, **more)
    assert "error" not in result, result["error"]
    assert result["errors"] == []
    assert result["lives"] is False, "the daemon outlives its client"
    return result["ok"]


def test_three_conversations_at_once_each_with_its_own_history(
    way: Way, model: ModelThread
) -> None:
    seen = play("gathering", way, model)
    talks = [
        ["We are working on a Python project.", "How do I create a virtual environment?"],
        ["We are working on a TypeScript project.", "How do I set up tsconfig?"],
        ["We are working on a Go project.", "How do I initialize a module?"],
    ]
    assert seen["answers"] == [" | ".join(talk) for talk in talks]
    assert sorted(model.users("fake-history-n1")) == sorted(
        [talks[0][:1], talks[0], talks[1][:1], talks[1]]
    )
    assert model.users("fake-history-n4") == [talks[2][:1], talks[2]]
    assert seen["chat"] == "user-123-chat"
    assert sorted(seen["listed"]) == sorted([*seen["ids"], "user-123-chat"])
    assert sorted(seen["left"]) == sorted([*seen["ids"][1:], "user-123-chat"])
    assert "Session not found" in seen["afterwards"] or "disconnected" in seen["afterwards"]


@pytest.mark.parametrize("count", [30])
def test_many_users_are_answered_at_the_same_time(own: Way, model: ModelThread, count: int) -> None:
    seen = play("users", own, model, count=count)
    assert seen["answers"] == [f"I am user {i}" for i in range(count)]
    assert model.stats.max_active == count


def test_the_same_question_goes_to_two_models(own: Way, model: ModelThread) -> None:
    seen = play("compare", own, model)
    assert seen["answers"] == ["forty-two", "forty-two"]
    assert sorted(chat.body["model"] for chat in model.chats) == ["fake-history", "fake-say"]


def test_deltas_joined_are_the_final_message(way: Way, model: ModelThread) -> None:
    seen = play("streaming", way, model)
    assert len(seen["deltas"]) > 1
    assert "".join(seen["deltas"]) == seen["final"]
    assert seen["final"].startswith("w0 low1 low2")
    order = seen["order"]
    assert order[-1] == "session.idle"
    steps = ["user.message", "assistant.turn_start", "assistant.message_start",
             "assistant.message_delta", "assistant.message", "assistant.turn_end"]  # fmt: skip
    assert [order.index(step) for step in steps] == sorted(order.index(step) for step in steps)


def test_an_abort_ends_the_turn_and_the_next_one_works(way: Way, model: ModelThread) -> None:
    seen = play("abort", way, model)
    assert seen["aborted"] is True
    assert "abort" in seen["events"]
    assert "assistant.message" not in seen["events"]
    assert seen["answers"] == ["back again"] * 6
    assert model.stats.aborted >= 1, "the call to the model was closed"


def test_a_model_is_switched_and_the_history_goes_along(own: Way, model: ModelThread) -> None:
    seen = play("models", own, model)
    assert seen["answer"] == "one | two"
    assert seen["changes"] == [["fake-history-n1", "fake-history-n2"]]
    assert [chat.body["model"] for chat in model.chats] == ["fake-history-n1", "fake-history-n2"]


def test_a_session_is_resumed_by_another_client_in_another_process(
    own: Way, model: ModelThread
) -> None:
    seen = play("resume", own, model)
    assert seen["last"] == "kept"
    assert seen["cwd"] == str(own.home)
    assert seen["answer"] == "one | two"
    kept = len(seen["before"])
    assert seen["after"][:kept] == seen["before"]
    assert seen["after"][kept]["type"] == "session.resume"


def test_a_model_that_fails_rejects_with_words_that_help_and_the_next_send_works(
    own: Way, model: ModelThread
) -> None:
    expected = {
        "fake-e401": "key",
        "fake-e429": "Wait",
        "fake-e500": "again",
        "fake-html": "502 Bad Gateway",
        "fake-n5-cut2": "127.0.0.1",
        "fake-nonsense": "127.0.0.1",
    }
    said = play("failures", own, model, scripts=list(expected))
    for script, word in expected.items():
        assert word in said[script]
        assert said[f"after {script}"] == "all is well"


def test_who_tries_again_at_once_gets_the_answer(own: Way, model: ModelThread) -> None:
    """At once is within `IDLE_AFTER_ERROR_S`: on a busy machine, most of the time."""
    assert "all is well" in play("retries", own, model)


def test_declared_tools_reach_the_model_and_hidden_ones_do_not(
    own: Way, model: ModelThread
) -> None:
    assert play("tools", own, model)["answer"] == "no need to look it up"
    tools = model.chats[0].body["tools"]
    assert [tool["function"]["name"] for tool in tools] == ["weather"]
    assert tools[0]["function"]["parameters"]["required"] == ["city"]


def test_a_client_in_empty_mode_has_its_session(way: Way, model: ModelThread) -> None:
    assert play("empty", way, model)["answer"] == "bare"
    assert "tools" not in model.chats[0].body


def test_refusals_say_what_is_wrong(own: Way, model: ModelThread) -> None:
    seen = play("refusals", own, model)
    for bad in ("slash", "dots", "long"):
        assert "session id" in seen[bad].lower() or "sessionId" in seen[bad]
    assert "session.resume" in seen["taken"]
    assert "Session not found" in seen["resume"]
    assert "nobody" in seen["remove"]
    assert seen["metadata"] is None
    assert seen["answer"] == "still here"


def test_the_house_answers_about_itself(way: Way, model: ModelThread) -> None:
    seen = play("house", way, model)
    assert seen["pong"] == "pong: hello"
    assert seen["status"]["protocolVersion"] == 3
    assert seen["auth"] is False
    assert seen["foreground"] is None
    assert seen["last"] is None
    assert seen["told"][0] == "session.created"
    assert seen["told"][-1] == "session.deleted"


def test_the_generated_objects_find_their_methods(own: Way, model: ModelThread) -> None:
    seen = play("generated", own, model)
    assert seen["answer"] == "one"
    cloud = seen["opened"].pop("cloud")
    assert "no remote service" in cloud
    resumed = {"status": "resumed", "startupPrompts": []}
    assert seen["opened"] == {
        "created": {"status": "created", "sessionId": "opened-1", "startupPrompts": []},
        "resumed": {**resumed, "sessionId": "spoken-in"},
        "last": {**resumed, "sessionId": "opened-1"},
        "attached": {**resumed, "sessionId": "opened-1"},
        "missing": {"status": "not_found"},
    }
    folder = seen["folder"]
    assert seen["moved"] == {"workingDirectory": folder}
    assert seen["changes"] == [{"cwd": folder}, {"cwd": folder, "branch": "main"}]
    assert seen["preview"]["available"] is False
    assert seen["listed"] == [["spoken-in", False, folder]]
    assert seen["spokenIn"] == ["spoken-in"]
    assert seen["row"] == ["Opened", "/work"]
    assert seen["left"] == ["spoken-in"]
    assert seen["task"] == {}
    assert seen["metadata"] == [{"my/team": "a", "other": "b"}] * 2
    assert seen["ofMany"] == [
        {"sessionId": "spoken-in", "status": "ok", "metadata": {"my/team": "a"}},
        {"sessionId": "nobody", "status": "notFound"},
    ]


def test_a_flag_that_does_not_exist_is_told_by_the_sdk(own: Way, model: ModelThread) -> None:
    result = raw_play("house", own, model, args=["--nonexistent-flag-for-testing"])
    assert "stderr" in result["error"]
    assert "nonexistent" in result["error"]


def test_a_wrong_token_is_told_by_the_sdk(running: Any, model: ModelThread, tmp_path: Path) -> None:
    way = Way("uri", tmp_path / "home", f"localhost:{running.port}", "wrong")
    assert "AUTHENTICATION_FAILED" in raw_play("house", way, model)["error"]
