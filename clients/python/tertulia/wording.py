"""What went wrong, in the words of the command line. Pure.

The daemon speaks to programs: its messages name methods and JSON paths. Here a clause that names a
method gives way to one that names a command, and the kinds of errors that need no more than that
have their own sentence. Whatever else a message says is left as it is.
"""

from __future__ import annotations

import re
from typing import Any

from tertulia.errors import (
    Draining,
    InvalidParams,
    ModelUnavailable,
    NotAuthenticated,
    RpcError,
    SessionNotFound,
    TertuliaError,
    TurnBusy,
)
from tertulia.typed import mended

_CLAUSES = re.compile(r"(?<=[.;]) ")
_METHOD = re.compile(r"(?<![\w/.-])(?:sessions?|models|runtime)\.(?!db\b)[a-z]\w*")
"""The file `sessions.db`, and whatever stands in a path, is none."""
_ADDRESS = re.compile(r"https?://")
_HOW_TO_ADD = (
    "Name a provider in config.toml in the data folder, or set a variable such as OPENAI_API_KEY."
)
_SHARE = "start `tertulia serve` first: then all commands share one, and messages wait in a queue"
_INSTEAD = {
    "models.list": "`tertulia models` shows what can be used.",
    "session.idle": "Wait for their answers.",
    "session.getMessages": "`tertulia log` with the session shows the ids.",
    "session.queue": "`tertulia queue` shows, clears and resumes them.",
}
"""For a clause that names this method or event; one that names another is left out."""


def said(error: TertuliaError | RpcError) -> str:
    """The text of `error` for a person at the command line."""
    text = str(error)
    match error:
        case SessionNotFound(data={"sessionId": session_id}):
            return f"There is no session {session_id}; see `tertulia list`."
        case Draining():
            return "The daemon is stopping."
        case NotAuthenticated():
            return (
                "The daemon asks for its connection token, and got none or a wrong one: give it in"
                " TERTULIA_TOKEN."
            )
        case InvalidParams(data={"path": path}):
            text = text.removeprefix(f"{path}: ")
    instead = _INSTEAD
    if isinstance(error, ModelUnavailable):
        instead = {**_INSTEAD, "session.create": _HOW_TO_ADD}
    elif isinstance(error, TurnBusy):
        instead = {**_INSTEAD, "session.idle": "Try again when it has ended."}
        text = text.replace("ifIdle", "--if-idle").replace("talk to that daemon", _SHARE)
    text = "\n".join(_without_methods(line, instead) for line in text.split("\n"))
    return text if _ADDRESS.match(text) else text[:1].upper() + text[1:]


def for_programs(error: Exception) -> str:
    """`error` in one line of JSON. What the daemon refused with is as it came; what failed on this
    side has a message and no code."""
    import json  # this module is imported where nothing has failed yet

    told: dict[str, Any] = {"message": mended(str(error))}
    if isinstance(error, RpcError):
        told = {"code": error.code, **told, **({"data": error.data} if error.data else {})}
    return json.dumps({"error": told})


def _without_methods(line: str, instead: dict[str, str]) -> str:
    if not _METHOD.search(line):
        return line
    kept = [_replaced(clause, instead) for clause in _CLAUSES.split(line)]
    text = " ".join(clause for clause in kept if clause) or line
    return re.sub(r"; (?=[A-Z`])|;$", ". ", text).rstrip()


def _replaced(clause: str, instead: dict[str, str]) -> str:
    found = _METHOD.search(clause)
    return clause if found is None else instead.get(found[0], "")
