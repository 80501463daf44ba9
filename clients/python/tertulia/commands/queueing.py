"""`tertulia queue`: the messages of a session that wait for their turn."""

from __future__ import annotations

import argparse

from tertulia import calls, queue_calls
from tertulia.client import Client
from tertulia.commands.common import (
    as_it_came,
    attached,
    needs_provider,
    one_line,
    print_json,
    print_table,
    remark,
)
from tertulia.errors import TertuliaError
from tertulia.records import Waiting
from tertulia.session import Session
from tertulia.terminal import Progress, stopping


def queue(options: argparse.Namespace) -> int:
    """`tertulia queue SESSION`: do what was asked, and show what waits then."""
    with attached(options) as (client, session):
        _edit(client, session, options)
        call = queue_calls.waiting(session.id)
        result = as_it_came(client, call)
    if options.json:
        return print_json({"sessionId": session.id, **result})
    _print(call.read(result), session.id)
    return 0


def _edit(client: Client, session: Session, options: argparse.Namespace) -> None:
    """At most one of the edits is asked for."""
    queue = session.queue
    if options.remove is not None:
        _need(queue.remove(options.remove), session, options.remove)
    elif options.edit is not None:
        message, text = options.edit
        _need(queue.edit(message, text), session, message)
    elif options.move is not None:
        _move(session, *options.move)
    elif options.clear:
        queue.clear()
    elif options.pause:
        queue.pause()
    elif options.resume:
        _go_on(client, session)


def _go_on(client: Client, session: Session) -> None:
    """Take up what waits. A daemon that ends with this command has its turns before that."""
    events = session.events()
    session.queue.resume()
    if session.queue.list().needs_provider:
        raise needs_provider(session)
    if client.owns_daemon and client.do(calls.has_work(session.id)):
        with stopping() as stopper, Progress("the turns of what waits"):
            stopper.knows(session.abort)
            next((event for event in events if event.type == "session.idle"), None)


def _move(session: Session, message: str, place: str) -> None:
    is_number = place.isascii() and place.isdigit() and len(place) < 10
    if not (is_number and int(place) > 0):
        raise TertuliaError(f"{place!r} is no place in the queue: 1 is the first.")
    waits = any(item.id == message for item in session.queue.list().items)
    _need(waits, session, message)
    session.queue.move(message, int(place) - 1)


def _need(done: bool, session: Session, message: str) -> None:
    if not done:
        raise TertuliaError(
            f"No message {message} waits in {session.id}; see `tertulia queue {session.id}`."
        )


def _print(waiting: Waiting, session_id: str) -> None:
    if not (waiting.items or waiting.steering):
        remark("No message waits.")
    rows = [("first", "", one_line(text)) for text in waiting.steering]
    rows += [
        (str(place), item.id, one_line(item.display_text))
        for place, item in enumerate(waiting.items, 1)
    ]
    if rows:
        print_table(rows)
    if waiting.paused:
        remark(f"The queue is paused: `tertulia queue {session_id} --resume` lets it go on.")
    if waiting.needs_provider:
        remark("They wait for the key of the session's provider, which a program has to give.")
