"""Promise 4: kill -9 loses nothing that was acknowledged; several processes share a data folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon_process import stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire, said, types


def listed(wire: Wire) -> list[str]:
    return [row["sessionId"] for row in wire.call("session.list")["sessions"]]


def test_a_kill_in_the_middle_of_a_turn_keeps_what_was_complete_and_marks_what_was_not(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as daemon:
        session = daemon.wire.create(model.provider(), streaming=True)
        for answer in ("one", "two"):
            daemon.wire.turn(session, f"[[say:{answer}]]")
        before = daemon.wire.history(session)
        daemon.wire.call("session.send", sessionId=session, prompt="lost [[fake-n9-stall3]]")
        daemon.wire.event(session, "assistant.message_delta", 3)
        daemon.kill()

    with stdio_daemon(home) as again:
        assert listed(again.wire) == [session]
        again.wire.call("session.resume", sessionId=session, provider=model.provider())
        after = again.wire.history(session)
        assert after[: len(before)] == before
        assert said(after) == ["one", "two"]
        rest = after[len(before) :]
        assert types(rest)[:2] == ["user.message", "assistant.turn_start"]
        assert rest[0]["data"]["content"] == "lost [[fake-n9-stall3]]"
        assert "assistant.turn_end" in types(rest)
        error = next(e for e in rest if e["type"] == "session.error")
        assert error["data"]["errorType"] == "turn_lost"
        assert "again" in error["data"]["message"], "it says what to do"

        again.wire.turn(session, "[[fake-history]]")
        assert model.users()[-1][:2] == ["[[say:one]]", "[[say:two]]"]
        assert model.users()[-1][-1] == "[[fake-history]]"


def test_every_acknowledged_message_is_there_after_a_kill(home: Path, model: ModelThread) -> None:
    """The first message's turn never ends; nine more wait behind it when the process is killed."""
    prompts = ["[[fake-hang]]", *(f"[[say:{n}]]" for n in range(9))]
    with stdio_daemon(home) as daemon:
        session = daemon.wire.create(model.provider())
        for prompt in prompts:
            daemon.wire.call("session.send", sessionId=session, prompt=prompt)
        daemon.kill()

    with stdio_daemon(home) as again:
        again.wire.call("session.resume", sessionId=session, provider=model.provider())
        again.wire.event(session, "session.idle")
        stored = again.wire.history(session)
        asked = [e["data"]["content"] for e in stored if e["type"] == "user.message"]
        assert asked == prompts
        assert said(stored) == [str(n) for n in range(9)]


def test_many_sessions_are_all_served_after_a_kill(home: Path, model: ModelThread) -> None:
    with stdio_daemon(home) as daemon:
        sessions = [daemon.wire.create(model.provider()) for _ in range(12)]
        for session in sessions:
            daemon.wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        model.until_active(len(sessions))
        daemon.kill()

    with stdio_daemon(home) as again:
        assert sorted(listed(again.wire)) == sorted(sessions)
        for session in sessions:
            again.wire.call("session.resume", sessionId=session, provider=model.provider())
            assert said(again.wire.turn(session, f"[[say:{session}]]"))[-1] == session


def test_a_session_is_resumed_in_another_process_while_the_first_still_runs(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as first, stdio_daemon(home) as second:
        session = first.wire.create(model.provider())
        first.wire.turn(session, "[[say:from the first]]")

        assert listed(second.wire) == [session]
        second.wire.call("session.resume", sessionId=session, provider=model.provider())
        assert said(second.wire.history(session)) == ["from the first"]
        second.wire.turn(session, "[[say:from the second]]")

        first.wire.turn(session, "[[say:and back]]")
        asked = ["[[say:from the first]]", "[[say:from the second]]", "[[say:and back]]"]
        assert model.users()[-1] == asked
        stored = first.wire.history(session)
        assert said(stored) == ["from the first", "from the second", "and back"]
        assert second.wire.history(session) == stored
        chain = [event["parentId"] for event in stored]
        assert chain == [None, *(event["id"] for event in stored[:-1])]


def test_the_settings_of_a_session_outlive_the_process_and_its_keys_do_not(home: Path) -> None:
    with ModelThread(api_key="the-key") as model:
        with stdio_daemon(home) as daemon:
            system = {"mode": "replace", "content": "You count."}
            session = daemon.wire.create(
                model.provider("the-key"), model="fake-history", systemMessage=system
            )
            assert said(daemon.wire.turn(session, "one")) == ["one"]

        with stdio_daemon(home) as again:
            again.wire.call("session.resume", sessionId=session)
            failed = again.wire.turn(session, "without a key")
            error = next(e["data"] for e in failed if e["type"] == "session.error")
            assert error["errorType"] == "authentication"
            assert "resume" in error["message"], "it says what to do"
            assert types(failed)[-1] == "session.idle"

            again.wire.call("session.resume", sessionId=session, provider=model.provider("the-key"))
            assert said(again.wire.turn(session, "two"))[0].startswith("one | ")
            last = model.chats[-1]
            assert last.body["model"] == "fake-history"
            assert last.body["messages"][0] == {"role": "system", "content": "You count."}
