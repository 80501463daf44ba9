"""Whatever a client sends: one well-formed answer or a clean close, and the daemon goes on."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bad_cases import ENDS, GOES_ON, LIMIT_BYTES, Case
from tests.support.daemon_process import DaemonProcess, stdio_daemon, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Wire, frame

BOUNDED = ("--max-body", str(LIMIT_BYTES))
_marks = itertools.count(1)


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with stdio_daemon(tmp_path_factory.mktemp("piped") / "home", *BOUNDED) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    home = tmp_path_factory.mktemp("served") / "home"
    with tcp_daemon(home, "--allow-anonymous", *BOUNDED, token=None) as daemon:
        yield daemon


def alive(wire: Wire) -> None:
    """Fails unless the connection answers."""
    assert wire.call("ping", message="still there")["message"] == "pong: still there"


def replies(wire: Wire, since: int) -> list[dict[str, Any]]:
    return [f for f in wire.frames[since:] if "method" not in f]


def shown(found: list[dict[str, Any]]) -> list[tuple[Any, int | None]]:
    return [(f["id"], f["error"]["code"] if "error" in f else None) for f in found]


def play(wire: Wire, case: Case) -> list[dict[str, Any]]:
    """Send the case's bytes; every reply up to the one to a request sent behind them."""
    since = len(wire.frames)
    for data in case.sent:
        wire.send_bytes(data)
    if case.ends:
        wire.until_end()
        return replies(wire, since)
    wire.until(
        lambda: True if len(replies(wire, since)) >= len(case.answers) else None, "the answers"
    )
    mark = f"mark-{next(_marks)}"
    wire.send({"jsonrpc": "2.0", "id": mark, "method": "ping"})
    wire.answer(mark)
    return [f for f in replies(wire, since) if f["id"] != mark]


def check(case: Case, found: list[dict[str, Any]]) -> None:
    assert sorted(shown(found), key=repr) == sorted(case.answers, key=repr)
    for reply in found:
        assert reply["jsonrpc"] == "2.0"
        if "error" in reply:
            assert len(reply["error"]["message"]) > 10, "an error says what is wrong"
    if case.path is not None:
        assert found[0]["error"]["data"]["path"] == case.path


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", GOES_ON, ids=named)
def test_bad_input_on_stdio_is_answered_and_the_stream_goes_on(
    piped: DaemonProcess, case: Case
) -> None:
    check(case, play(piped.wire, case))
    alive(piped.wire)


@pytest.mark.parametrize("case", GOES_ON, ids=named)
def test_bad_input_on_tcp_is_answered_and_the_stream_goes_on(
    served: DaemonProcess, case: Case
) -> None:
    wire = served.connect()
    check(case, play(wire, case))
    alive(wire)
    wire.close()


@pytest.mark.parametrize("case", ENDS, ids=named)
def test_a_broken_header_on_stdio_is_answered_and_the_daemon_ends_cleanly(
    home: Path, case: Case
) -> None:
    with stdio_daemon(home, *BOUNDED) as daemon:
        check(case, play(daemon.wire, case))
        assert daemon.wait() == 0


@pytest.mark.parametrize("case", ENDS, ids=named)
def test_a_broken_header_on_tcp_closes_that_connection_alone(
    served: DaemonProcess, case: Case
) -> None:
    other, wire = served.connect(), served.connect()
    found = play(wire, case)
    if case.foreign:
        assert found == []
    else:
        check(case, found)
    alive(other)
    other.close()


def test_a_lone_surrogate_comes_back_as_a_replacement_character(served: DaemonProcess) -> None:
    wire = served.connect()
    wire.send('{"jsonrpc":"2.0","id":"s","method":"ping","params":{"message":"a\\ud83db"}}')
    assert wire.answer("s")["result"]["message"] == "pong: a\ufffdb"


def test_a_lone_surrogate_in_a_prompt_reaches_the_model_as_a_replacement_character(
    served: DaemonProcess, model: ModelThread
) -> None:
    wire = served.connect()
    session = wire.create(model.provider())
    prompt = f'{{"sessionId":"{session}","prompt":"cut \\udc00 off"}}'
    wire.send(f'{{"jsonrpc":"2.0","id":"s","method":"session.send","params":{prompt}}}')
    assert "result" in wire.answer("s")
    wire.event(session, "session.idle")
    assert model.users() == [["cut \ufffd off"]]


def test_half_a_frame_and_then_silence_keeps_nobody_else_waiting(served: DaemonProcess) -> None:
    silent, other = served.connect(), served.connect()
    whole = frame({"jsonrpc": "2.0", "id": "late", "method": "ping"})
    silent.send_bytes(whole[:-9])
    alive(other)
    silent.send_bytes(whole[-9:])
    assert "result" in silent.answer("late")


def test_half_a_frame_and_then_the_end_ends_that_connection_alone(served: DaemonProcess) -> None:
    gone, other = served.connect(), served.connect()
    gone.send_bytes(frame({"jsonrpc": "2.0", "id": 1, "method": "ping"})[:-9])
    gone.close()
    alive(other)


def test_half_a_frame_and_then_the_end_ends_a_daemon_on_stdio_cleanly(home: Path) -> None:
    with stdio_daemon(home) as daemon:
        daemon.wire.send_bytes(b"Content-Length: 100\r\n\r\n{")
        daemon.wire.close()
        assert daemon.wait() == 0


def test_a_client_that_never_reads_keeps_nobody_else_waiting(
    served: DaemonProcess, model: ModelThread
) -> None:
    """It asks for 40 MB of answers: more than the kernel and one write hold."""
    other = served.connect()
    ping = frame({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"message": "x" * 10**6}})
    with socket.create_connection(("localhost", served.port), BOUND_S) as deaf:
        deaf.sendall(frame({"jsonrpc": "2.0", "id": 0, "method": "connect", "params": {}}))
        for _ in range(40):
            deaf.sendall(ping)
        session = other.create(model.provider(), streaming=True)
        events = other.turn(session, "[[say:not held up]]")
        assert events[-1]["type"] == "session.idle"
        alive(other)
    alive(other)


@pytest.mark.parametrize(
    "ident",
    [
        "",
        ".",
        "..",
        "../evil",
        "a/b",
        "a\\b",
        " sp ace",
        "tab\t",
        "nul\0",
        "ünï",
        "-" * 300,
        ".dot",
    ],
)
def test_a_session_id_outside_the_rules_is_refused_everywhere(
    served: DaemonProcess, ident: str
) -> None:
    wire = served.connect()
    for method in ("session.create", "session.resume", "session.delete"):
        error = wire.refused(method, sessionId=ident)
        assert (error.code, error.data["path"]) == (-32602, "$.sessionId")
    alive(wire)


def test_the_ids_that_people_choose_are_taken(served: DaemonProcess, model: ModelThread) -> None:
    wire = served.connect()
    for ident in ("user-123-chat", "a", "A.b_c-d", "9" * 128, "user-123-task-456"):
        assert wire.create(model.provider(), sessionId=ident) == ident
