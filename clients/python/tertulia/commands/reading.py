"""`tertulia show` and `log`: what was said in a session, and all that happened."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from tertulia import calls
from tertulia.commands.common import (
    as_it_came,
    attached,
    local_time,
    one_line,
    print_json,
    style_for,
)
from tertulia.records import Event
from tertulia.session import Session
from tertulia.terminal import Style, printable

SHOWN_CHARS = 120
"""Of an event's text in a line of the log."""


def show(options: argparse.Namespace) -> int:
    """`tertulia show SESSION`."""
    with attached(options) as (client, session):
        if options.json:
            result = as_it_came(client, calls.messages(session.id))
            return print_json({"sessionId": session.id, **result})
        events = session.messages()
    _print_history(events, style_for(options))
    return 0


def _print_history(events: Sequence[Event], style: Style) -> None:
    for event in events:
        who, colour, text = _line(event)
        if who:
            shown = printable(text) if sys.stdout.isatty() else text
            print(f"{style(who, colour)} {shown}".rstrip() + "\n")


def _line(event: Event) -> tuple[str, str, str]:
    data = event.data
    match event.type:
        case "user.message":
            return "you:", "cyan", str(data.get("content", ""))
        case "assistant.message":
            return "model:", "green", str(data.get("content", ""))
        case "session.error":
            return "error:", "red", str(data.get("message", ""))
        case "session.warning":
            return "warning:", "yellow", str(data.get("message", ""))
        case "abort":
            return "aborted.", "yellow", ""
    return "", "dim", ""


def log(options: argparse.Namespace) -> int:
    """`tertulia log SESSION`."""
    with attached(options) as (_, session):
        style = style_for(options)
        for event in _events(session, options):
            if options.json:
                print_json(event)
            else:
                print(_log_line(event, style), flush=options.follow)
    return 0


def _events(session: Session, options: argparse.Namespace) -> Iterator[Event]:
    if options.last is not None:
        yield from _last(session, options)
    elif options.follow:
        yield from session.follow(types=options.type)
    else:
        yield from _stored(session, options.type)


def _stored(session: Session, types: Sequence[str] | None) -> Iterator[Event]:
    page = session.read_log(types=types)
    yield from page.events
    while page.has_more:
        page = session.read_log(page.cursor, types=types)
        yield from page.events


def _last(session: Session, options: argparse.Namespace) -> Iterator[Event]:
    """The end of the log, and what follows it if that is asked for."""
    end = session.tail()  # before it is read: what comes meanwhile is there twice, and shown once
    shown = _backward(session, options.last, options.type) if options.last else []
    yield from shown
    if options.follow:
        known = {event.id for event in shown}
        for event in session.follow(end.cursor, types=options.type):
            if event.id not in known:
                yield event


def _backward(session: Session, count: int, types: Sequence[str] | None) -> list[Event]:
    page = session.read_log(limit=count, types=types, backward=True)
    found = list(page.events)
    while page.has_more and len(found) < count:
        page = session.read_log(page.cursor, limit=count - len(found), types=types)
        found[:0] = page.events
    return found


def _log_line(event: Event, style: Style) -> str:
    when, text = style(local_time(event.timestamp), "dim"), one_line(_text(event))
    if len(text) > SHOWN_CHARS:
        text = text[: SHOWN_CHARS - 1] + "…"
    return f"{when}  {style(event.id, 'dim')}  {style(event.type, 'cyan')}  {text}".rstrip()


def _text(event: Event) -> str:
    """What there is to read in an event."""
    for member in ("content", "message", "title", "newModel", "reason"):
        if isinstance(found := event.data.get(member), str):
            return found
    return ""
