"""A client that waits while the daemon starts: greeted before there is an event loop, once, or
left to the gate."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia_protocol.framing import Framer
from tertuliad.greeting import Greeting, greet
from tests.support.daemon_process import SDK_FLAGS, DaemonProcess
from tests.support.wire import Wire, frame

CONNECT = {"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {"supportedTaskKinds": []}}


class Pipes(NamedTuple):
    """The daemon's ends, and the client's."""

    stdin: int
    stdout: int
    into: int
    out: int


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    stdin, into = os.pipe()
    out, stdout = os.pipe()
    os.set_blocking(out, False)
    yield Pipes(stdin, stdout, into, out)
    for fd in (stdin, into, out, stdout):
        os.close(fd)


def greeted(pipes: Pipes, sent: bytes, max_body: int = 1000) -> tuple[Greeting, bytes]:
    """The greeting of who has sent that, and what it was told."""
    os.write(pipes.into, sent)
    greeting = greet(pipes.stdin, pipes.stdout, max_body)
    try:
        return greeting, os.read(pipes.out, 65536)
    except BlockingIOError:
        return greeting, b""


def only_body(data: bytes) -> Any:
    [body] = Framer().feed(data)
    return json.loads(body.data)  # type: ignore[union-attr]


@pytest.mark.parametrize("request_id", [0, "a text", 2**53])
def test_a_connect_that_is_there_is_answered(pipes: Pipes, request_id: int | str) -> None:
    greeting, told = greeted(pipes, frame(CONNECT | {"id": request_id}))
    assert greeting == Greeting(was_answered=True)
    answer = only_body(told)
    assert answer["id"] == request_id
    assert answer["result"]["ok"] is True
    assert answer["result"]["protocolVersion"] == 3


def test_a_ping_that_is_there_is_answered(pipes: Pipes) -> None:
    greeting, told = greeted(pipes, frame(CONNECT | {"method": "ping", "params": {"message": "x"}}))
    assert greeting == Greeting(was_answered=True)
    assert only_body(told)["result"]["message"] == "pong: x"


def test_a_daemon_that_was_given_many_files_greets_too(pipes: Pipes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1024) for fd in (pipes.stdin, pipes.stdout)]
    try:
        os.write(pipes.into, frame(CONNECT))
        assert greet(high[0], high[1], 1000) == Greeting(was_answered=True)
    finally:
        for fd in high:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


WHOLE = frame(CONNECT)
OTHERS = {
    "nothing": b"",
    "a part of it": WHOLE[:-1],
    "half a header": WHOLE[:9],
    "two messages": WHOLE + frame(CONNECT | {"id": 2}),
    "one and a half": WHOLE + WHOLE[:30],
    "another method": frame(CONNECT | {"method": "session.list"}),
    "a notification": frame({"jsonrpc": "2.0", "method": "connect"}),
    "params of a wrong type": frame(CONNECT | {"params": {"token": 7}}),
    "params that are no object": frame(CONNECT | {"params": "x"}),
    "no JSON": frame(b"{"),
    "too much": frame(CONNECT | {"params": {"note": "x" * 1000}}),
    "no frame": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("sent", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_as_it_came(pipes: Pipes, sent: bytes) -> None:
    assert greeted(pipes, sent) == (Greeting(left=sent), b"")


@given(st.lists(st.sampled_from([*OTHERS.values(), WHOLE]), max_size=3), st.data())
def test_what_was_sent_is_answered_or_left_whole(parts: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(parts)
    sent = sent[: data.draw(st.integers(0, len(sent)))]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        greeting = greet(ours.fileno(), ours.fileno(), 1000)
        assert greeting.was_answered == (sent == WHOLE)
        assert greeting.left == (b"" if sent == WHOLE else sent)


def test_a_file_and_a_pipe_without_room_are_left_to_the_loop(pipes: Pipes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(WHOLE)
    with (tmp_path / "in").open("rb") as file:
        assert greet(file.fileno(), pipes.stdout) == Greeting()
        assert file.tell() == 0
    os.set_blocking(pipes.stdout, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(pipes.stdout, bytes(65536))
    os.write(pipes.into, WHOLE)
    assert greet(pipes.stdin, pipes.stdout) == Greeting()
    assert os.read(pipes.stdin, 65536) == WHOLE


def test_what_takes_a_long_answer_is_left_to_the_gate(pipes: Pipes) -> None:
    """Half of it would go out where the pipe is small, and then the gate's next answer."""
    long = frame(CONNECT | {"method": "ping", "params": {"message": "x" * 600}})
    assert greeted(pipes, long) == (Greeting(left=long), b"")


def test_a_client_that_has_gone_meanwhile_is_no_failure(pipes: Pipes) -> None:
    stdin, into = os.pipe()
    out, stdout = os.pipe()
    os.write(into, WHOLE)
    os.close(into)
    os.close(out)
    try:
        assert not greet(stdin, stdout).was_answered
    finally:
        os.close(stdin)
        os.close(stdout)


# The whole daemon


@contextlib.contextmanager
def waiting_client(home: Path, sent: bytes, *flags: str) -> Iterator[DaemonProcess]:
    """A daemon whose client has sent that before it started."""
    theirs, ours = socket.socketpair()
    ours.sendall(sent)
    with theirs:
        daemon = DaemonProcess(home, *SDK_FLAGS, "--stdio", *flags, stdin=theirs.fileno())
    with daemon:
        out = daemon.process.stdout
        assert out is not None
        wire = Wire(lambda: out.read(65536) or b"", ours.sendall, ours.close)
        daemon.wire = daemon.adopt(wire)
        yield daemon


def greeted_by(daemon: DaemonProcess) -> None:
    daemon.wire.until(lambda: daemon.wire.frames or None, "a greeting")


@pytest.mark.parametrize("end", [2, 17, 40, len(WHOLE), len(WHOLE) + 25, 2 * len(WHOLE)])
def test_wherever_its_first_bytes_are_cut_each_request_is_answered_once(
    home: Path, end: int
) -> None:
    status = {"jsonrpc": "2.0", "id": "s", "method": "status.get"}
    sent = WHOLE + frame(CONNECT | {"id": 2}) + frame(status)
    with waiting_client(home, sent[:end]) as daemon:
        wire = daemon.wire
        wire.send_bytes(sent[end:])
        wire.call("ping")
        answers = [each["id"] for each in wire.frames if "id" in each]
        assert answers[:3] == [1, 2, "s"]
        assert len(answers) == 4
        wire.close()
        assert daemon.wait() == 0
        assert daemon.stderr == ""


def test_who_goes_after_the_greeting_takes_the_daemon_along(home: Path) -> None:
    with waiting_client(home, WHOLE) as daemon:
        greeted_by(daemon)
        daemon.wire.close()
        assert daemon.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_right_after_the_greeting_is_a_clean_end(
    home: Path, number: signal.Signals
) -> None:
    with waiting_client(home, WHOLE) as daemon:
        greeted_by(daemon)
        daemon.process.send_signal(number)
        assert daemon.wait() == 0
        assert daemon.stderr == ""


@pytest.mark.parametrize(
    "flags",
    [
        ("--config", "nowhere.toml"),
        ("--socket", "a-file/x"),
        ("--host", "none.invalid", "--port", "0"),
    ],
)
def test_who_is_greeted_is_served(home: Path, flags: tuple[str, ...]) -> None:
    """Where the start fails, nobody was told that it did not."""
    home.mkdir()
    (home / "a-file").write_text("")
    with waiting_client(home, WHOLE, *flags) as daemon:
        assert daemon.wait() == 1
        daemon.wire.until_end()
        assert daemon.wire.raw == b""
        assert daemon.stderr.startswith("tertuliad: ")


def test_a_configuration_file_that_is_right_keeps_nobody_from_being_greeted(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('default_model = "local/x"\n')
    with waiting_client(home, WHOLE) as daemon:
        greeted_by(daemon)
        assert daemon.wire.call("models.list")["models"] is not None
