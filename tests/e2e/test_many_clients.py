"""Clients without number, silent, half there or never let in: those who are in are served."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_process import DaemonProcess, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import BOUND_S, Wire, frame, said

HALF_OPEN = 1000
BEGINNINGS = (
    b"",
    b"Content-Len",
    b"Content-Length: 100\r\n",
    b'Content-Length: 100\r\n\r\n{"jsonrpc":',
)
MANY_TRIES = 10_000


@contextlib.contextmanager
def half_open(port: int) -> Iterator[list[socket.socket]]:
    """Many connections, each of which sends the beginning of a message and nothing more."""
    with contextlib.ExitStack() as opened:
        sockets = []
        for number in range(HALF_OPEN):
            sockets.append(
                opened.enter_context(socket.create_connection(("localhost", port), BOUND_S))
            )
            sockets[-1].sendall(BEGINNINGS[number % len(BEGINNINGS)])
        yield sockets


def rest_of(stream: socket.socket) -> bytes:
    """All that comes until the daemon closes the connection."""
    stream.settimeout(BOUND_S)
    read = b""
    with contextlib.suppress(ConnectionResetError):
        while data := stream.recv(65536):
            read += data
    return read


def test_a_thousand_half_open_connections_keep_nobody_waiting(
    home: Path, model: ModelThread
) -> None:
    with tcp_daemon(home) as daemon:
        before = daemon.connect("a-token")
        old = before.create(model.provider(), streaming=True)
        with half_open(daemon.port):
            after = daemon.connect("a-token")
            new = after.create(model.provider(), streaming=True)
            assert said(before.turn(old, "[[say:here since before]]")) == ["here since before"]
            assert said(after.turn(new, "[[say:let in]]")) == ["let in"]
        assert said(after.turn(new, "[[say:and after]]")) == ["and after"]
        assert daemon.terminate() == 0


def test_half_open_connections_are_closed_after_a_while_and_clients_are_not(home: Path) -> None:
    """The client was there before all of them, and has been silent for longer."""
    with tcp_daemon(home, bounds={"STRANGER_S": 0.2}) as daemon:
        client = let_in_at_last(daemon, "not_authenticated")  # once it has asked in time
        with half_open(daemon.port) as sockets:
            for stream in sockets:
                assert b"AUTHENTICATION_FAILED" in rest_of(stream)
        assert client.call("ping")["message"] == "pong"


def test_a_stranger_that_goes_on_asking_is_closed_all_the_same(home: Path) -> None:
    with tcp_daemon(home, bounds={"STRANGER_S": 0.2}) as daemon:
        stranger = daemon.connect(handshake=False)
        for _ in range(MANY_TRIES):
            if stranger.ended:
                break
            with contextlib.suppress(AssertionError, OSError):
                assert stranger.refused("ping").data["kind"] == "not_authenticated"
        stranger.until_end()
        unasked = [frame["error"]["data"]["kind"] for frame in stranger.answers(None)]
        assert unasked == ["not_authenticated"]


def test_a_strangers_message_is_small_and_a_clients_is_not(home: Path) -> None:
    with tcp_daemon(home) as daemon:
        wire = daemon.connect(handshake=False)
        large = {"message": "x" * 2**21}
        wire.send({"jsonrpc": "2.0", "id": "large", "method": "ping", "params": large})
        assert wire.answer("large")["error"]["code"] == -32600
        wire.call("connect", token="a-token")
        assert wire.call("ping", **large)["message"] == "pong: " + large["message"]


@pytest.mark.parametrize("speaks_first", [False, True])
def test_one_client_too_many_is_told_so_and_room_is_used_again(
    home: Path, speaks_first: bool
) -> None:
    with tcp_daemon(home, bounds={"CONNECTIONS": 3}) as daemon:
        clients = [daemon.connect("a-token") for _ in range(3)]
        with socket.create_connection(("localhost", daemon.port), BOUND_S) as fourth:
            if speaks_first:
                ask = {"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {}}
                fourth.sendall(frame(ask))
            refusal = rest_of(fourth)
        assert b'"kind":"overloaded"' in refusal
        assert json.loads(refusal.partition(b"\r\n\r\n")[2])["error"]["data"]["retryMs"] >= 1000
        assert [client.call("ping")["message"] for client in clients] == ["pong"] * 3
        clients[0].close()
        assert let_in_at_last(daemon).call("ping")["message"] == "pong"


def first_word(wire: Wire) -> dict[str, Any]:
    """The first message that the daemon sends."""
    return wire.until(lambda: wire.frames[0] if wire.frames else None, "a word")


def let_in_at_last(daemon: DaemonProcess, refusal: str = "overloaded") -> Wire:
    """A client that comes again and again until it is let in; before, it hears `refusal`."""
    for _ in range(MANY_TRIES):
        wire = daemon.connect(handshake=False)
        asked = wire.ask("connect", {"token": "a-token"})
        answered = first_word(wire)
        if answered.get("id") == asked:
            return wire
        assert answered["error"]["data"]["kind"] == refusal
        wire.close()
    raise AssertionError("nobody is let in any more")
