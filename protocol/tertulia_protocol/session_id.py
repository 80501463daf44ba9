"""The rule for session ids.

An id names rows and files, and people type it: the alphabet is small and nothing in it means
anything to a shell, a path or a URL. It is checked where an id enters, before anything looks it up.
"""

from __future__ import annotations

import re

from tertulia_protocol import faults

PATTERN = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
RULE = (
    "a session id has 1 to 128 of the ASCII letters and digits, '.', '_' and '-',"
    " and does not begin with a dot"
)

_valid = re.compile(PATTERN).fullmatch


def is_valid(session_id: str) -> bool:
    """Whether `session_id` keeps the rule."""
    return _valid(session_id) is not None


def check(session_id: str) -> None:
    """Raise `InvalidParams` with path `$.sessionId` unless `session_id` keeps the rule."""
    if not is_valid(session_id):
        raise faults.invalid("$.sessionId", RULE)
