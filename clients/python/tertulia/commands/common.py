"""What the subcommands share: which daemon, a session of it, and how things are written."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tertulia import launch, limits
from tertulia.calls import Call
from tertulia.client import Client
from tertulia.errors import ConnectionLost, NobodyListens, RpcError, TertuliaError
from tertulia.params import SILENT
from tertulia.session import Session
from tertulia.terminal import Style, colours_wanted, printable
from tertulia.wording import for_programs, said
from tertulia_protocol import layout


def client_for(options: argparse.Namespace) -> Client:
    """The daemon that was named, the shared one of the home if it runs, or one of its own.

    Raises `TertuliaError` where nothing is kept in the home, and the command does not begin it.
    """
    if (found := shared_client(options)) is not None:
        return found
    home = launch.home_folder(options.home)
    if not (options.begins or launch.is_kept(home)):
        raise TertuliaError(
            f"No sessions are kept in {home}: `tertulia chat` begins there, --home DIR names"
            " another folder."
        )
    return own_client(options)


def own_client(options: argparse.Namespace) -> Client:
    """A daemon for as long as the command runs: what waits in other sessions is left to those that
    stay, since its turns would be cut."""
    return Client.spawn(home=options.home, args=["--leave-waiting"])


def shared_client(options: argparse.Namespace) -> Client | None:
    """The daemon that was named, or the shared one of the home; None: it does not run."""
    if options.connect:
        return _client_at(options.connect, options)
    socket_path = layout.shared_socket(launch.home_folder(options.home))
    return _started_at(f"unix:{socket_path}", options) if _is_socket(socket_path) else None


def _started_at(address: str, options: argparse.Namespace) -> Client | None:
    """None: a dead daemon left this socket."""
    client = _client_at(address, options)
    try:
        try:
            client.start()
        except ConnectionLost:
            client.start()  # one that went while it greeted is gone by now
    except NobodyListens:
        return None
    return client


def _client_at(address: str, options: argparse.Namespace) -> Client:
    return Client.connect(address, options.token, home=options.home, patience=limits.ANSWER_S)


def _is_socket(path: os.PathLike[str]) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def style_for(options: argparse.Namespace) -> Style:
    return Style(colours_wanted(sys.stdout, options.no_color))


@contextlib.contextmanager
def attached(options: argparse.Namespace) -> Iterator[tuple[Client, Session]]:
    """The session that was named, which stays as it is. The end of the connection detaches: after
    Ctrl-C nothing more is asked of a daemon that may not answer."""
    with client_for(options) as client:
        yield client, resumed_as_it_is(client, options.session)


def resumed_as_it_is(client: Client, session_id: str) -> Session:
    """The session, with no event of a resume, and no turn of a message that waits."""
    return client.resume_session(session_id, **SILENT, continue_pending_work=False)


def as_it_came(client: Client, call: Call[Any]) -> Any:
    """The result of a call as the daemon gave it, which is what `--json` prints."""
    return client.request(call.method, call.params, call.timeout)


def answer_of(options: argparse.Namespace, call: Call[Any]) -> int:
    """Ask for one thing and print its answer."""
    with client_for(options) as client:
        result = as_it_came(client, call)
    if options.json:
        return print_json(result)
    print(call.read(result))
    return 0


def done_for_each(
    options: argparse.Namespace, verb: str, act: Callable[[Client, str], object]
) -> int:
    """Do the same with each session that was named; those that fail stop none of the others."""
    done: list[str] = []
    failed: list[dict[str, str]] = []
    reasons: list[str] = []
    with client_for(options) as client:
        for session_id in options.sessions:
            try:
                act(client, session_id)
            except RpcError as error:
                failed.append({"sessionId": session_id, "error": said(error)})
                reasons.append(for_programs(error) if options.json else f"tertulia: {said(error)}")
            else:
                done.append(session_id)
    if options.json:
        print_json({verb: done, "failed": failed})
    for session_id in done if not options.json else ():
        print(f"{verb} {session_id}")
    for reason in reasons:
        remark(reason)
    return 1 if failed else 0


def remark(text: str) -> None:
    """Something for people, where stdout is for programs as well."""
    print(text, file=sys.stderr)


def tell_of_pause(session: Session) -> None:
    """Before a message is sent whose answer would be waited for in vain. Raises `TertuliaError`
    where nothing that people can do here lets it go on."""
    waiting = session.queue.list()
    if waiting.needs_provider:
        raise needs_provider(session)
    if waiting.paused:
        remark(
            "The queue is paused, and what is sent waits:"
            f" `tertulia queue {session.id} --resume` lets it go on."
        )


def needs_provider(session: Session) -> TertuliaError:
    """What waits in the session waits for a key that a program gave to an earlier daemon."""
    return TertuliaError(
        f"The messages of {session.id} wait for the key of its provider, which ended with the"
        " daemon that it was given to: the program that gave it can resume the session, and"
        f" `tertulia queue {session.id} --clear` forgets the messages."
    )


def warn_of_no_config(home: str | None) -> None:
    """A home that was named on the line was named for its configuration."""
    path = launch.home_folder(home) / layout.CONFIG_FILE
    if home and not path.exists():
        remark(f"There is no {path}: this is done without it.")


def one_line(text: str) -> str:
    """`text` in one line, fit for a terminal."""
    return printable(" ".join(text.split()))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns under each other; the last is as long as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def local_time(timestamp: str) -> str:
    """An ISO 8601 time of the wire by this machine's clock, to the minute."""
    try:
        return f"{datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return printable(timestamp)


def print_json(document: Any) -> int:
    """One line of UTF-8, whatever stdout's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.buffer.flush()
    return 0
