"""Fresh UUIDs for events and messages, which a turn takes a dozen of.

Random ones (version 4, RFC 9562), made by the hundred: to ask the kernel for random bytes costs
more than all the rest, and what is left is done in C for all of them at once.
"""

from __future__ import annotations

import os
import re

_AT_ONCE = 256
_WHOLE = (1 << 128 * _AT_ONCE) - 1
_EACH = _WHOLE // ((1 << 128) - 1)  # the lowest bit of each
_FIXED = (0xF << 76 | 0b11 << 62) * _EACH
_VERSION_AND_VARIANT = (0x4 << 76 | 0b10 << 62) * _EACH
_GROUPS = re.compile("(.{8})(.{4})(.{4})(.{4})(.{12})")

_ready: list[str] = []


def new_id() -> str:
    """A UUID that nobody else has."""
    if not _ready:
        _ready.extend(_made())
    return _ready.pop()


def _made() -> list[str]:
    bits = int.from_bytes(os.urandom(16 * _AT_ONCE), "big") & ~_FIXED | _VERSION_AND_VARIANT
    return list(map("-".join, _GROUPS.findall(f"{bits:0{32 * _AT_ONCE}x}")))
