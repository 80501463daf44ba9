"""The params of the methods that take a whole session's settings, or a message with its options.

Names that a caller gives in Python's way are sent in the wire's: `model_capabilities` as
`modelCapabilities`. Values go out as they are, but for paths, which are made absolute.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

from tertulia.calls import Params, only, wire_names
from tertulia.records import SendOptions

Path = str | os.PathLike[str]
"""What a caller may give for one."""

SILENT = {"disable_resume": True}
"""For a resume that writes no event."""
SEND_OPTIONS = SendOptions.__optional_keys__


def new_session(
    session_id: str | None,
    model: str | None,
    *,
    system_message: str | dict[str, Any] | None,
    provider: dict[str, Any] | None,
    streaming: bool,
    working_directory: Path | None,
    tools: Sequence[dict[str, Any]] | None,
    more: dict[str, Any],
) -> Params:
    """The params of `session.create`. The id is made here, so that events may come before the
    reply; a system message given as text is appended to the daemon's own."""
    return {
        "sessionId": str(uuid.uuid4()) if session_id is None else session_id,
        "streaming": streaming,
        **wire_names(
            {
                "model": model,
                "system_message": _system_message(system_message),
                "provider": provider,
                "working_directory": _absolute(working_directory),
                "tools": list(tools) if tools is not None else None,
                **_known(more),
            }
        ),
    }


def resumed_session(session_id: str, given: dict[str, Any]) -> Params:
    """The params of `session.resume`; what is not given stays as the session has it."""
    system_message = _system_message(given.pop("system_message", None))
    directory = _absolute(given.pop("working_directory", None))
    more = {
        "system_message": system_message,
        "working_directory": directory,
        **_known(given),
    }
    return {"sessionId": session_id, **wire_names(more)}


def message(session_id: str, prompt: str, attachments: Any, more: dict[str, Any]) -> Params:
    """The params of `session.send`. Raises TypeError for an option that there is not, and for a
    prompt that is no text."""
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt is a str, and not {type(prompt).__name__}")
    files = list(attachments) if attachments is not None else None
    given = {"attachments": files, **only(more, SEND_OPTIONS, "A message")}
    return {"sessionId": session_id, "prompt": prompt, **wire_names(given)}


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings`. Raises TypeError for a name of none of them, in Python's way or the wire's."""
    from tertulia_protocol.config import FIELDS  # few commands give any

    wire = wire_names(dict.fromkeys(settings, True))
    for name, sent in zip(settings, wire, strict=True):
        if sent not in FIELDS:
            raise TypeError(
                f"A session has no setting {name!r}; spec/session-fields.md has all of them"
            )
    return settings


def _system_message(given: str | dict[str, Any] | None) -> dict[str, Any] | None:
    return {"mode": "append", "content": given} if isinstance(given, str) else given


def absolute(path: Path) -> str:
    """The path as a daemon that works elsewhere understands it. Raises `FileNotFoundError` for
    one that is to be looked for in a folder that was removed."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError as error:
        error.strerror = (
            "the folder that you are in was removed. Change to one that is there, or name a whole"
            " path"
        )
        error.filename = path
        raise


def _absolute(path: Path | None) -> str | None:
    return None if path is None else absolute(path)
