"""`tertulia chat`: a conversation in the terminal.

Ctrl-C ends the answer that streams and not the program; at the prompt, a second one leaves, as
Ctrl-D does. Where stdin is no terminal each of its lines is a message, and there are no prompts.
Where the daemon goes away, a line says so and the next one takes the conversation up: a message
that was not accepted is sent again, the answer to one that was is shown whole, or said to be lost.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import uuid

from tertulia import limits
from tertulia.commands.common import one_line, tell_of_pause
from tertulia.commands.talking import given_for_session
from tertulia.errors import (
    ConnectionLost,
    Draining,
    RpcError,
    SessionDeleted,
    SessionNotFound,
    TertuliaError,
    TurnAborted,
    TurnFailed,
)
from tertulia.interrupts import INTERRUPTED
from tertulia.lasting import LastingSession
from tertulia.session import Session
from tertulia.talk import speak
from tertulia.terminal import Stopped, Style, colours_wanted
from tertulia.typed import mended
from tertulia.wording import said

PROMPT = "> "
NAMED_CHARS = 40
"""So much of a message names it."""
LOST = "turn_lost"
"""The `error_type` of a turn that ended with its daemon."""


def chat(options: argparse.Namespace) -> int:
    style = Style(colours_wanted(sys.stderr, options.no_color))
    session_id = options.session or f"chat-{uuid.uuid4().hex[:8]}"
    with LastingSession(options, session_id, given_for_session(options)) as lasting:
        if sys.stdin.isatty():
            _greet(lasting.session, lasting.new, style)
        if not lasting.new:
            tell_of_pause(lasting.session)
        try:
            return _converse(lasting, style)
        finally:
            if options.session is None:
                lasting.forget_if_unused()


def _greet(session: Session, new: bool, style: Style) -> None:
    state = "a new session" if new else "resumed"
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing and history for input()
    print(f"{style(session.id, 'bold')} ({state})", file=sys.stderr)
    for hint in (
        f"Ctrl-C stops an answer, Ctrl-D leaves. Come back with: tertulia chat {session.id}",
        f"Each line is a message, /help too; a text of more: tertulia send {session.id} - < FILE",
    ):
        print(style(hint, "dim"), file=sys.stderr)


def _converse(lasting: LastingSession, style: Style) -> int:
    """Prompt and answer until the end of the input; the exit code. Where nobody sits before it,
    that tells of messages that failed."""
    interrupts, failed = 0, False
    while interrupts < 2:
        try:
            prompt = _read()
        except KeyboardInterrupt:
            interrupts += 1
            print(file=sys.stderr)
            if interrupts == 1:
                print(style("Ctrl-C again, or Ctrl-D, leaves.", "dim"), file=sys.stderr)
            continue
        if prompt is None:
            return int(failed and not sys.stdin.isatty())
        interrupts = 0
        if prompt.strip():
            failed = not _take_turn(lasting, prompt, style) or failed
    return INTERRUPTED


def _read() -> str | None:
    """One message; None at the end of the input. Bytes that are no UTF-8 become U+FFFD.

    Raises `TertuliaError` for a line that is too long for a message.
    """
    if not sys.stdin.isatty():
        return mended(_piped_line()) or None
    try:
        return mended(input(PROMPT))
    except EOFError:
        print(file=sys.stderr)
        return None


def _piped_line() -> str:
    line = sys.stdin.readline(limits.MESSAGE_CHARS + 1)
    if len(line.removesuffix("\n")) > limits.MESSAGE_CHARS:
        raise TertuliaError(
            f"A line of the input has more than {limits.MESSAGE_CHARS} characters, and each line is"
            " a message: break it into shorter ones."
        )
    return line


def _take_turn(lasting: LastingSession, prompt: str, style: Style) -> bool:
    """One turn; what goes wrong with it is told, and the conversation goes on. False: it failed.

    Raises `TertuliaError` where it cannot: the session is gone, or the daemon for good.
    """
    try:
        _speak_until_heard(lasting, prompt, style)
    except (SessionDeleted, SessionNotFound):
        raise TertuliaError("This session was deleted by another client.") from None
    except TurnAborted as error:
        who = "" if isinstance(error, Stopped) else " by another client"
        print(style(f"(stopped{who})", "yellow"), file=sys.stderr)
    except TurnFailed as error:
        named = f"{_named(prompt)}: " if error.error_type == LOST else ""
        print(style(named + said(error), "red"), file=sys.stderr)
        return False
    except RpcError as error:
        print(style(said(error), "red"), file=sys.stderr)
        return False
    return True


def _speak_until_heard(lasting: LastingSession, prompt: str, style: Style) -> None:
    """One message, in as many daemons as it takes, accepted once."""
    key = uuid.uuid4().hex
    for losses in range(limits.CHAT_LOSSES + 1):
        try:
            return speak(lasting.session, prompt, whole=losses > 0, idempotency_key=key)
        except (ConnectionLost, Draining) as error:
            if losses == limits.CHAT_LOSSES:
                raise
            why = said(error).partition("\n")[0]
        print(style(f"{why} Connecting again.", "yellow"), file=sys.stderr)
        lasting.come_back()
        print(style(f"Connected again: {lasting.session.id} goes on.", "yellow"), file=sys.stderr)
    return None


def _named(prompt: str) -> str:
    words = one_line(prompt)
    return f"“{words if len(words) <= NAMED_CHARS else words[: NAMED_CHARS - 1] + '…'}”"
