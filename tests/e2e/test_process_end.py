"""Promise 5: who ends the daemon, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import (
    SDK_FLAGS,
    TERTULIAD,
    DaemonProcess,
    environment,
    stdio_daemon,
    tcp_daemon,
)
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Wire, frame, said, types

BYSTANDER = Path(__file__).resolve().parents[1] / "support" / "bystander.py"


def wait_until_gone(process: int) -> None:
    """`process` is a descriptor from `pidfd_open`, which no new process can take over."""
    ready, _, _ = select.select([process], [], [], BOUND_S)
    assert ready, "the daemon outlives its parent"


@contextlib.contextmanager
def parented(home: Path, stdin: int, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A parent whose child is a daemon; the parent, and the daemon's process descriptor."""
    parent = subprocess.Popen(
        [sys.executable, str(BYSTANDER), str(TERTULIAD), *SDK_FLAGS, *flags],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
        bufsize=0,
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    child = os.pidfd_open(int(parent.stderr.readline()))
    try:
        yield parent, child
    finally:
        parent.kill()
        parent.wait(BOUND_S)
        parent.stdout.close()
        parent.stderr.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def read_until(parent: subprocess.Popen[bytes], pattern: bytes) -> None:
    """Read the daemon's standard output, one byte at a time, up to `pattern`."""
    assert parent.stdout is not None
    read = b""
    while re.search(pattern, read) is None:
        byte = parent.stdout.read(1)
        assert byte, f"standard output ended after {read!r}"
        read += byte


def test_the_process_that_was_started_is_the_daemon(stdio: DaemonProcess) -> None:
    """Nothing is left that would hold the pipes once it is killed."""
    stdio.wire.create({"type": "openai", "baseUrl": "http://127.0.0.1:9/v1"})
    stdio.kill()
    stdio.wire.until_end()
    assert stdio.wire.fault is None


def test_the_end_of_its_pipe_ends_a_daemon_on_stdio(stdio: DaemonProcess) -> None:
    stdio.wire.close()
    assert stdio.wait() == 0


def test_the_end_of_its_pipe_ends_a_daemon_in_the_middle_of_a_turn(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    session = stdio.wire.create(model.provider())
    stdio.wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
    model.until_active(1)
    stdio.wire.close()
    assert stdio.wait() == 0
    model.until(lambda: model.stats.active == 0)


def test_what_was_asked_before_the_pipes_end_is_still_answered(stdio: DaemonProcess) -> None:
    asked = [stdio.wire.ask("session.list") for _ in range(20)]
    stdio.wire.close()
    assert stdio.wait() == 0
    stdio.wire.until_end()
    assert [len(stdio.wire.answers(ident)) for ident in asked] == [1] * 20


def test_a_daemon_on_stdio_ends_with_its_parent_though_another_holds_the_pipe(home: Path) -> None:
    ours, theirs = os.pipe()
    with parented(home, ours, "--stdio") as (parent, child):
        os.close(ours)
        os.write(theirs, frame({"jsonrpc": "2.0", "id": 1, "method": "connect"}))
        read_until(parent, rb'"result"')
        parent.kill()
        wait_until_gone(child)
    os.close(theirs)


def test_an_owned_daemon_on_tcp_ends_with_its_parent(home: Path) -> None:
    with parented(home, subprocess.DEVNULL) as (parent, child):
        read_until(parent, rb"listening on port \d+")
        parent.kill()
        wait_until_gone(child)
    assert list((home / "run").glob("tcp-*")) == []


def test_a_daemon_ends_with_the_process_that_it_was_told_of(home: Path) -> None:
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        subprocess.Popen(waits, stdin=subprocess.PIPE) as other,
        tcp_daemon(home, "--parent-pid", str(other.pid)) as daemon,
    ):
        other.kill()
        assert daemon.wait() == 0


def test_an_owned_daemon_answers_shutdown_refuses_what_follows_and_ends_by_its_pipe(
    stdio: DaemonProcess,
) -> None:
    assert stdio.wire.call("runtime.shutdown") is None
    error = stdio.wire.refused("session.list")
    assert error.data["kind"] == "draining"
    assert stdio.process.poll() is None, "it must not end by itself"
    stdio.wire.close()
    assert stdio.wait() == 0


def test_an_owned_daemon_ends_by_sigterm_after_shutdown(home: Path) -> None:
    with DaemonProcess(
        home, *SDK_FLAGS, env={"COPILOT_CONNECTION_TOKEN": "a-token"}, stdin=subprocess.DEVNULL
    ) as daemon:
        found = re.search(r"listening on port (\d+)", daemon.line())
        assert found
        daemon.port = int(found[1])
        wire = daemon.connect("a-token")
        assert wire.call("runtime.shutdown") is None
        assert wire.refused("ping").data["kind"] == "draining"
        assert daemon.terminate() == 0


def test_an_owned_daemon_that_nobody_ends_after_shutdown_ends_by_itself(home: Path) -> None:
    with stdio_daemon(home, bounds={"EXIT_AFTER_SHUTDOWN_S": 0.2}) as daemon:
        assert daemon.wire.call("runtime.shutdown") is None
        assert daemon.wait() == 0


def test_shutdown_ends_a_running_turn_with_an_event(
    stdio: DaemonProcess, model: ModelThread
) -> None:
    session = stdio.wire.create(model.provider())
    stdio.wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
    model.until_active(1)
    assert stdio.wire.call("runtime.shutdown") is None
    error = stdio.wire.event(session, "session.error")
    assert error["data"]["errorType"] == "turn_lost"
    stdio.wire.event(session, "session.idle")


def test_a_shared_daemon_lets_only_the_client_go_that_asked_for_its_shutdown(
    shared: DaemonProcess, model: ModelThread
) -> None:
    leaves, stays = shared.connect(), shared.connect()
    mine = leaves.create(model.provider())
    theirs = stays.create(model.provider())
    assert leaves.call("runtime.shutdown") is None
    assert "Session not found" in leaves.refused("session.send", sessionId=mine, prompt="x").message
    assert said(stays.turn(theirs, "[[say:still here]]")) == ["still here"]
    leaves.close()
    assert stays.call("ping")["message"] == "pong"


def test_the_end_of_a_client_stops_no_turn(shared: DaemonProcess, model: ModelThread) -> None:
    leaves, stays = shared.connect(), shared.connect()
    session = leaves.create(model.provider())
    stays.call("session.resume", sessionId=session)
    leaves.call("session.send", sessionId=session, prompt="[[fake-n3-d200]]")
    model.until_active(1)
    leaves.close()
    stays.event(session, "session.idle")
    assert said(stays.events(session)) == ["w0 low1 low2 lo"]


@pytest.mark.parametrize("streaming", [False, True])
def test_sigterm_during_a_turn_tells_every_client_and_the_history(
    home: Path, model: ModelThread, streaming: bool
) -> None:
    with tcp_daemon(home, "--drain-grace", "0") as daemon:
        asks, watches = daemon.connect("a-token"), daemon.connect("a-token")
        session = asks.create(model.provider(), streaming=streaming)
        watches.call("session.resume", sessionId=session)
        asks.call("session.send", sessionId=session, prompt="[[fake-n9-stall2]]")
        model.until_active(1)
        assert daemon.terminate() == 0
        for wire in (asks, watches):
            wire.until_end()
            assert wire.fault is None
            events = wire.events(session)
            error = next(e for e in events if e["type"] == "session.error")
            assert error["data"]["errorType"] == "turn_lost"
            assert types(events)[-1] == "session.idle"
    with stdio_daemon(home) as again:
        again.wire.call("session.resume", sessionId=session, provider=model.provider())
        stored = again.wire.history(session)
        errors = [e["data"]["errorType"] for e in stored if e["type"] == "session.error"]
        assert errors == ["turn_lost"]
        assert said(again.wire.turn(session, "[[say:on we go]]")) == ["on we go"]


def test_a_turn_may_end_within_the_grace_and_what_waits_stays_waiting(
    home: Path, model: ModelThread
) -> None:
    with tcp_daemon(home, "--drain-grace", "60") as daemon:
        wire = daemon.connect("a-token")
        session = wire.create(model.provider(), streaming=True)
        wire.call("session.send", sessionId=session, prompt="first [[fake-held-n2]]")
        wire.call("session.send", sessionId=session, prompt="second [[say:later]]")
        model.until_active(1)
        daemon.process.send_signal(signal.SIGTERM)
        assert until_refused(wire, session) == "draining"
        model.release()
        wire.event(session, "session.idle")
        assert daemon.wait() == 0
        assert len(said(wire.events(session))) == 1
        assert "session.error" not in types(wire.events(session))
    with stdio_daemon(home) as again:
        again.wire.call("session.resume", sessionId=session, provider=model.provider())
        again.wire.event(session, "session.idle")
        log = again.wire.history(session)
        asked = [e["data"]["content"][:6] for e in log if e["type"] == "user.message"]
        assert asked == ["first ", "second"]
        assert said(log)[-1] == "later"


def test_an_abort_ends_a_stuck_turn_within_the_grace_and_the_daemon_with_it(
    home: Path, model: ModelThread
) -> None:
    with tcp_daemon(home, "--drain-grace", "600") as daemon:
        wire = daemon.connect("a-token")
        session = wire.create(model.provider(), streaming=True)
        wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        model.until_active(1)
        daemon.process.send_signal(signal.SIGTERM)
        assert until_refused(wire, session) == "draining"
        assert wire.call("session.abort", sessionId=session)["success"]
        wire.event(session, "session.idle")
        assert daemon.wait() == 0
        assert types(wire.events(session)).count("session.idle") == 1


def until_refused(wire: Wire, session: str) -> str:
    """The kind of the error that answers a request, once the daemon takes none."""
    for _ in range(10_000):
        asked = wire.ask("session.log", {"sessionId": session, "message": "still on"})
        answer = wire.answer(asked)
        if "error" in answer:
            return str(answer["error"]["data"]["kind"])
    raise AssertionError("it takes requests still")


def test_a_second_signal_ends_the_grace(home: Path, model: ModelThread) -> None:
    with tcp_daemon(home, "--drain-grace", "600") as daemon:
        wire = daemon.connect("a-token")
        session = wire.create(model.provider())
        wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        model.until_active(1)
        daemon.process.send_signal(signal.SIGTERM)
        assert until_refused(wire, session) == "draining"
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert wire.event(session, "session.error")["data"]["errorType"] == "turn_lost"
        assert types(wire.events(session))[-1] == "session.idle"


@pytest.mark.parametrize("module", ["msgspec", "anyio", "uvloop"])
def test_ctrl_c_while_it_is_imported_is_quiet(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tertuliad", "--socket", str(tmp_path / "socket")],
        env=environment(tmp_path, {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_it_was_started_to_ignore_does_not_end_it(home: Path, number: signal.Signals) -> None:
    """As `nohup` has it, and shells have it for what runs in the background."""
    ignoring = "import os, signal, sys; signal.signal(int(sys.argv[1]), signal.SIG_IGN);"
    program = (sys.executable, "-c", f"{ignoring} os.execv(sys.argv[2], sys.argv[2:])")
    command = (*program, str(int(number)), str(TERTULIAD))
    with DaemonProcess(home, "--port", "0", "--allow-anonymous", program=command) as daemon:
        daemon.port = int(daemon.line().rpartition(" ")[2])
        wire = daemon.connect(None)
        daemon.process.send_signal(number)
        assert wire.call("ping")["message"] == "pong"
        assert daemon.terminate() == 0


def test_who_sends_again_as_a_stop_ends_its_turn_is_refused_and_not_cut_off(
    home: Path, model: ModelThread
) -> None:
    with tcp_daemon(home, "--drain-grace", "0") as daemon:
        wire = daemon.connect("a-token")
        session = wire.create(model.provider())
        wire.call("session.send", sessionId=session, prompt="[[fake-hang]]")
        wire.event(session, "assistant.turn_start")
        os.kill(daemon.pid, signal.SIGTERM)
        wire.event(session, "session.error")
        for _ in range(20):  # each of them a moment later
            again = wire.ask("session.send", {"sessionId": session, "prompt": "again"})
            assert wire.answer(again)["error"]["data"]["kind"] == "draining"
        assert daemon.wait() == 0


def test_what_was_asked_before_a_signal_is_answered(home: Path, model: ModelThread) -> None:
    with tcp_daemon(home) as daemon:
        wire = daemon.connect("a-token")
        session = wire.create(model.provider())
        wire.turn(session, "[[say:yes]]")
        document = wire.call("session.export", sessionId=session)["document"]
        tail = wire.call("session.eventLog.tail", sessionId=session)["cursor"]
        waits = {"sessionId": session, "cursor": tail, "waitMs": 30_000}
        asked = [wire.ask("session.eventLog.read", waits)]
        for number in range(20):
            copy = {"document": document, "sessionId": f"copy{number}"}
            asked.append(wire.ask("session.import", copy))
            fork = {"sessionId": session, "newSessionId": f"fork{number}"}
            asked.append(wire.ask("sessions.fork", fork))
        wire.answer(asked[1])
        assert daemon.terminate() == 0
        wire.until_end()
        assert [len(wire.answers(each)) for each in asked] == [1] * len(asked)
