"""Fresh UUIDs for events and messages, which a turn takes a dozen of.

Random ones (version 4, RFC 9562), made by the hundred: to ask the kernel for random bytes costs
more than all the rest, and the rest is done for all of them at once, one column after the other.
"""

from __future__ import annotations

import os

_AT_ONCE = 256
_FORM = b"xxxxxxxx-xxxx-4xxx-Nxxx-xxxxxxxxxxxx "  # N: the variant, of which two bits are random
_VARIANTS = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)

_ready: list[str] = []


def new_id() -> str:
    """A UUID that nobody else has."""
    if not _ready:
        _ready.extend(_made())
    return _ready.pop()


def _made() -> list[str]:
    digits = os.urandom(16 * _AT_ONCE).hex().encode()
    text = bytearray(_FORM * _AT_ONCE)
    column = 0
    for place, form in enumerate(_FORM):
        if form in b"xN":
            drawn = digits[column::32]
            text[place :: len(_FORM)] = drawn.translate(_VARIANTS) if form in b"N" else drawn
        column += form in b"xN4"
    return text.decode().split()
