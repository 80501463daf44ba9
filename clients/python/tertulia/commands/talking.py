"""`tertulia send`: one message and its answer."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tertulia import limits
from tertulia.client import Client
from tertulia.commands.common import client_for, print_json, resumed_as_it_is, tell_of_pause
from tertulia.errors import ConnectionLost, RpcError, TertuliaError
from tertulia.interrupts import INTERRUPTED
from tertulia.records import SendOptions
from tertulia.session import Session
from tertulia.talk import opened, speak
from tertulia.terminal import Stopped, stopping
from tertulia.typed import decoded


def send(options: argparse.Namespace) -> int:
    """`tertulia send SESSION TEXT`."""
    prompt = _prompt(options.text)
    given = _given_with_message(options)
    with client_for(options) as client:
        session, new = _opened(client, options)
        if not new:
            tell_of_pause(session)
        with _kept_if_used(client, session, new):
            try:
                if options.json:
                    with stopping() as stopper:
                        events = session.stream(prompt, **given)
                        stopper.knows(events.stop)
                        for event in events:
                            print_json(event)
                else:
                    speak(session, prompt, **given)
            except Stopped:
                return INTERRUPTED
            except ConnectionLost as error:
                raise _lost(error, session.id) from None
    return 0


def _opened(client: Client, options: argparse.Namespace) -> tuple[Session, bool]:
    """The session, and whether it is new. One whose log has to end at a place stays as it is."""
    if options.expected_seq is None:
        return opened(client, options.session, given_for_session(options))
    return resumed_as_it_is(client, options.session), False


def _given_with_message(options: argparse.Namespace) -> SendOptions:
    given: SendOptions = {}
    if options.immediate:
        given["mode"] = "immediate"
    if options.key is not None:
        given["idempotency_key"] = options.key
    if options.if_idle:
        given["if_idle"] = True
    if options.expected_seq is not None:
        given["expected_seq"] = options.expected_seq
    return given


def _lost(error: ConnectionLost, session_id: str) -> ConnectionLost:
    """With where to look; behind the first line stands what the daemon said last."""
    why, *rest = str(error).split("\n")
    seen = (
        f"`tertulia show {session_id}` shows whether it took the message, `tertulia queue"
        f" {session_id}` whether that still waits."
    )
    return ConnectionLost("\n".join([f"{why} {seen}", *rest]))


@contextlib.contextmanager
def _kept_if_used(client: Client, session: Session, new: bool) -> Iterator[None]:
    """A session that was made for a message is taken back where the message is refused."""
    try:
        yield
    except RpcError:
        with contextlib.suppress(RpcError, TertuliaError):
            if new and not any(each.type == "user.message" for each in session.messages()):
                client.delete_session(session.id)
        raise


def given_for_session(options: argparse.Namespace) -> dict[str, Any]:
    """What `--model` and `--system` say about a session; nothing where they are not given."""
    given = {"model": options.model, "system_message": options.system}
    return {name: value for name, value in given.items() if value is not None}


def _prompt(text: str) -> str:
    """The message: the argument, or stdin for `-`. Raises `TertuliaError` for what is no text."""
    try:
        prompt = _piped().decode("utf-8") if text == "-" else decoded(text)
    except UnicodeError:
        raise TertuliaError("The text is not valid UTF-8.") from None
    if not prompt.strip():
        raise TertuliaError("There is nothing to send: give a text, or `-` and a text on stdin.")
    return prompt


def _piped() -> bytes:
    most = 4 * limits.MESSAGE_CHARS  # what so many characters have at most
    raw = sys.stdin.buffer.read(most + 1)
    if len(raw) > most:
        raise TertuliaError(
            f"The text has more than {most} bytes, too many for a message: send it in parts."
        )
    return raw
