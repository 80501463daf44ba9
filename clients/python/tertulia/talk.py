"""One turn for the command: which session, and its answer as it streams."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Unpack

from tertulia.client import Client
from tertulia.errors import SessionNotFound, TertuliaError
from tertulia.records import Event, SendOptions
from tertulia.session import Session
from tertulia.terminal import Progress, Voice, printable, stopping
from tertulia.wording import said

LOGGED = "notification"
"""The `warningType` of a warning that a client wrote with `session.log`."""
RETRY = "assistant.turn_retry"
"""The event of a model call that failed and is tried again."""


def opened(client: Client, session_id: str | None, given: dict[str, Any]) -> tuple[Session, bool]:
    """The session with that id, resumed or created, and whether it is new.

    A new one works where the command does; a resumed one stays where it was.
    """
    if session_id is not None:
        with contextlib.suppress(SessionNotFound):
            return client.resume_session(session_id, streaming=True, **given), False
    given["if_exists"] = "resume"  # another command may have made it meanwhile
    return client.create_session(session_id, working_directory=".", **given), True


def speak(
    session: Session, prompt: str, *, whole: bool = False, **options: Unpack[SendOptions]
) -> None:
    """Send, and write the answer to stdout as it comes, or `whole`. Ctrl-C gives it up.

    On stderr a line tells of each model call that is tried again. Once the line is ended, the
    turn's warnings follow there, also that nothing was answered, and what the turn ends with is
    raised.
    """
    voice = Voice(sys.stdout)
    spoken: dict[str, int] = {}
    warnings: list[str] = []
    said_any = False
    try:
        with stopping() as stopper, Progress("waiting for the model") as progress:
            events = session.stream(prompt, **options)
            stopper.knows(events.stop)
            for event in events:
                if whole and event.type == "assistant.message_delta":
                    continue
                if text := _text(event, spoken, voice):
                    progress.stop()
                    voice.say(text)
                    said_any = True
                if event.type == RETRY:
                    voice.end_line()
                    progress.note(f"tertulia: {_reason(event)}")
                warnings += _warnings(event)
        if not said_any:
            warnings.append("The model's answer was empty.")
    finally:
        voice.end_line()
        for warning in warnings:
            print(f"tertulia: {printable(warning)}", file=sys.stderr)


def _reason(retry: Event) -> str:
    """Why a model call is tried again, in one line."""
    why = str(retry.data.get("reason") or "The model call failed and is tried again.")
    return printable(" ".join(said(TertuliaError(why)).split()))


def _warnings(event: Event) -> list[str]:
    """What the daemon warns of; what a client merely logged is not the turn's."""
    if event.type != "session.warning" or event.data.get("warningType") == LOGGED:
        return []
    return [str(event.data.get("message", ""))]


def _text(event: Event, spoken: dict[str, int], voice: Voice) -> str:
    """What `event` adds to the answer: a delta, or what the deltas of a whole message left out.
    `spoken` counts the letters so far, by message."""
    message_id = str(event.data.get("messageId", ""))
    if event.type == "assistant.message_delta":
        if spoken and message_id not in spoken:
            voice.end_line()
        text = str(event.data.get("deltaContent", ""))
        spoken[message_id] = spoken.get(message_id, 0) + len(text)
        return text
    if event.type == "assistant.message":
        return str(event.data.get("content", ""))[spoken.get(message_id, 0) :]
    return ""
