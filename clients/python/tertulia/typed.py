"""Text from the command line and from stdin, in which a locale may have left bytes undecoded."""

from __future__ import annotations


def decoded(text: str) -> str:
    """`text` with those bytes as the UTF-8 that they are. Raises `UnicodeError` where they are
    none."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8")


def mended(text: str) -> str:
    """The same, with U+FFFD for what is no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
