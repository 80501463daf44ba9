"""Why a session cannot do what was asked, where more than one place says so."""

from __future__ import annotations

import re

from tertulia_protocol import faults
from tertulia_protocol.config import SessionConfig, refusal
from tertulia_protocol.errors import (
    NotSupported,
    RpcError,
    SessionExists,
    StoreFailed,
    TurnBusy,
)
from tertuliad import limits


def exists(session_id: str) -> SessionExists:
    """Its id is taken."""
    return SessionExists(
        f"A session {session_id} exists already. Give another id, or attach to that one with"
        ' session.resume; session.create takes "ifExists": "resume", session.import "rename".',
        {"sessionId": session_id},
    )


def runs_elsewhere(session_id: str) -> TurnBusy:
    """Another process runs a turn of it."""
    return TurnBusy(
        f"A turn of session {session_id} runs in another daemon on the same data folder; wait"
        " until it ends, or talk to that daemon.",
        {"sessionId": session_id},
        retry_ms=limits.TURN_RETRY_MS,
    )


def check_name(name: str | None, path: str = "$.name") -> None:
    """Raise `InvalidParams` for one that is too long, or that nobody could see; `path` is where it
    stands in the params."""
    fault = _fault_of(name, limits.NAME_CHARS)
    if fault:
        raise faults.invalid(path, f"this {fault}")


def check_visible(text: str, path: str) -> None:
    """As `check_name`, for a text that may be long."""
    fault = _fault_of(text, len(text))
    if fault:
        raise faults.invalid(path, f"this {fault}")


def check_listed(config: SessionConfig, name: str | None, at: str | None = None) -> None:
    """As `check_name`, for all settings that each row of a list repeats. `at` is where they all
    stand, if they are not params of their own."""
    for member, text, most in (
        ("name", name, limits.NAME_CHARS),
        ("clientName", config.client_name, limits.NAME_CHARS),
        ("model", config.model, limits.NAME_CHARS),
        ("workingDirectory", config.working_directory, limits.PATH_CHARS),
    ):
        fault = _fault_of(text, most)
        if fault:
            raise faults.invalid(at or f"$.{member}", f"the session's {member} {fault}")


def _fault_of(text: str | None, most: int) -> str | None:
    if not text:
        return None
    if len(text) > most:
        return f"has more than {most} characters. Choose a shorter one"
    if not any(each.isprintable() and not each.isspace() for each in text):
        return "has nothing in it to be seen"
    return None


_WHOLE_PATH = re.compile(r"/|[A-Za-z]:[\\/]|\\\\")
"""How a path begins that says all of it, on whichever system the client is."""


def check_folder(path: str | None) -> None:
    """Raise `InvalidParams` for a working directory that depends on where the daemon runs."""
    if path and not _WHOLE_PATH.match(path):
        raise faults.invalid("$.workingDirectory", "this is not an absolute path")


def check_given(config: SessionConfig) -> None:
    """Raise `InvalidParams` for settings that no session can have."""
    check_listed(config, config.name)
    check_folder(config.working_directory)


def check_supported(config: SessionConfig) -> None:
    """Raise `NotSupported` for settings that ask for what this version does not do."""
    refused = refusal(config)
    if refused is not None:
        raise NotSupported(refused)


class Overtaken(StoreFailed):
    """Another process has written to the log since it was read for what was to be done."""


def overtaken(session_id: str) -> Overtaken:
    """Another process keeps writing to it."""
    return Overtaken(
        f"Another daemon on the same data folder keeps changing session {session_id}; nothing was"
        " done. Try again.",
        {"sessionId": session_id},
        retry_ms=limits.STORE_RETRY_MS,
    )


def unreadable(session_id: str) -> RpcError:
    """Its log cannot be folded."""
    return RpcError(
        -32008,
        f"The stored log of session {session_id} cannot be read. It was left as it is:"
        " `tertulia doctor` looks into it.",
        {"kind": "store_failed", "sessionId": session_id},
    )
