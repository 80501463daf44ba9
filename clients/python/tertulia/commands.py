"""The subcommands that do one thing and end. Each takes the parsed options and gives an exit code.

With `--json` stdout holds one JSON document, or a line for each event; what is for people goes to
stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tertulia import launch
from tertulia.client import Client, Session
from tertulia.errors import (
    ConnectionLost,
    RpcError,
    TertuliaError,
    TurnAborted,
)
from tertulia.records import Event, Model, SessionInfo
from tertulia.talk import opened, speak
from tertulia.terminal import Progress, Style, aborting, colours_wanted, printable
from tertulia.wording import said
from tertulia_protocol import layout

INTERRUPTED = 130
LISTENING = {"--stdio", "--port", "--socket"}
"""The options of tertuliad that say where it is reached."""


def client_for(options: argparse.Namespace) -> Client:
    """The daemon that was named, the shared one of the home if it runs, or one of its own."""
    if options.connect:
        return Client.connect(options.connect, options.token, home=options.home)
    socket_path = layout.shared_socket(launch.home_folder(options.home))
    if _is_socket(socket_path):
        client = Client.connect(f"unix:{socket_path}", options.token, home=options.home)
        try:
            client.start()
        except ConnectionLost:
            client.close()  # a socket that a dead daemon left
        else:
            return client
    return Client.spawn(home=options.home)


def _is_socket(path: os.PathLike[str]) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def style_for(options: argparse.Namespace) -> Style:
    return Style(colours_wanted(sys.stdout, options.no_color))


def send(options: argparse.Namespace) -> int:
    """`tertulia send SESSION TEXT`."""
    prompt = _prompt(options.text)
    with client_for(options) as client:
        session, new = opened(client, options.session, given_for_session(options))
        with session, _kept_if_used(client, session, new):
            try:
                if options.json:
                    with aborting(session):
                        _print_lines(session.stream(prompt))
                else:
                    speak(session, prompt)
            except TurnAborted:
                return INTERRUPTED
    return 0


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
        raw = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
        prompt = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise TertuliaError("The text is not valid UTF-8.") from None
    if not prompt.strip():
        raise TertuliaError("There is nothing to send: give a text, or `-` and a text on stdin.")
    return prompt


def _print_lines(events: Any) -> None:
    for event in events:
        _print_json(event)


def list_sessions(options: argparse.Namespace) -> int:
    """`tertulia list`."""
    with client_for(options) as client:
        if options.json:
            return _print_json(client.request("session.list"))
        _print_sessions(client.sessions(), style_for(options))
    return 0


def _print_sessions(sessions: Sequence[SessionInfo], style: Style) -> None:
    if not sessions:
        print("No sessions yet: begin one with `tertulia chat`.", file=sys.stderr)
    width = max((len(info.session_id) for info in sessions), default=0)
    for info in sessions:
        when = _local_time(info.modified_time)
        summary = printable(" ".join((info.summary or "").split()))
        print(f"{info.session_id:<{width}}  {style(when, 'dim')}  {summary}".rstrip())


def _local_time(timestamp: str) -> str:
    """An ISO 8601 time of the wire by this machine's clock, to the minute."""
    try:
        return f"{datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return printable(timestamp)


def show(options: argparse.Namespace) -> int:
    """`tertulia show SESSION`."""
    with client_for(options) as client:
        # Without the event that a resume would add to the history that is shown.
        session = client.resume_session(options.session, disable_resume=True)
        if options.json:
            result = client.request("session.getMessages", {"sessionId": session.id})
            return _print_json({"sessionId": session.id, **result})
        events = session.messages()
    _print_history(events, style_for(options))
    return 0


def _print_history(events: Sequence[Event], style: Style) -> None:
    for event in events:
        who, colour, text = _line(event)
        if who:
            shown = printable(text) if sys.stdout.isatty() else text
            print(f"{style(who, colour)} {shown.rstrip()}\n")


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


def delete(options: argparse.Namespace) -> int:
    """`tertulia delete SESSION...`."""
    deleted: list[str] = []
    failed: list[dict[str, str]] = []
    with client_for(options) as client:
        for session_id in options.sessions:
            try:
                client.delete_session(session_id)
            except RpcError as error:
                failed.append({"sessionId": session_id, "error": said(error)})
            else:
                deleted.append(session_id)
    if options.json:
        _print_json({"deleted": deleted, "failed": failed})
    for session_id in deleted if not options.json else ():
        print(f"deleted {session_id}")
    for failure in failed:
        print(f"tertulia: {failure['error']}", file=sys.stderr)
    return 1 if failed else 0


def models(options: argparse.Namespace) -> int:
    """`tertulia models`."""
    with client_for(options) as client, Progress("asking the providers"):
        if options.json:
            result = client.request("models.list")
        else:
            found = client.models()
    if options.json:
        return _print_json(result)
    _print_models(found, style_for(options))
    return 0


def _print_models(found: Sequence[Model], style: Style) -> None:
    if not found:
        print("No model is configured: name a provider in config.toml.", file=sys.stderr)
    width = max((len(model.id) for model in found), default=0)
    for model in found:
        state = style("ready", "green") if model.available else style("not usable now", "yellow")
        print(f"{model.id:<{width}}  {state}" + (" (default)" if model.default else ""))
        for line in (model.reason or "").splitlines() if not model.available else ():
            print(f"{'':<{width}}    {printable(line)}")


def serve(options: argparse.Namespace) -> int:
    """`tertulia serve`: become the daemon, with what else was written on the line."""
    command = launch.daemon_command()
    if options.home:
        command += ["--home", options.home]
    if options.token:
        os.environ["COPILOT_CONNECTION_TOKEN"] = options.token  # no argument: `ps` shows those
    if not any(given.split("=")[0] in LISTENING for given in options.rest):
        path = layout.shared_socket(launch.home_folder(options.home))
        command += ["--socket", str(path)]
    os.execv(command[0], [*command, *options.rest])  # noqa: S606 - no shell is wanted


def _print_json(document: Any) -> int:
    """One line of UTF-8, whatever stdout's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.buffer.flush()
    return 0
