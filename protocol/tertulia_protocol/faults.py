"""What msgspec says of a value that does not fit, turned into a JSON path and words of ours.

The texts never repeat a value: it may be a secret. Tied to the wording of msgspec 0.20 and newer;
an unknown wording gives a general sentence, and a test notices. The patterns are compiled with the
first fault: a start has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tertulia_protocol.errors import InvalidParams

_AT = r"(?s)(?P<fault>.*?)(?: - at `(?P<path>[^`]*)`)?\Z"
_MISSING = r"Object missing required field `(.*)`\Z"
_EXPECTED = r"Expected `([^`]+)`(?:, got `([^`]+)`)?(.*)\Z"
_WORDS: Mapping[str, str] = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


def _in_words(types: str) -> str:
    """msgspec's names of JSON types, such as `str | null`, for people. Null is not offered: it only
    stands for a member that is left out."""
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | ") if name != "null")


def explain(text: str) -> tuple[str, str]:
    """The JSON path and the fault in our words, of msgspec's message. Never repeats a value."""
    at = re.match(_AT, text)
    path, fault = (at["path"] or "$", at["fault"]) if at else ("$", text)
    if missing := re.match(_MISSING, fault):
        return f"{path}.{missing[1]}", "is missing"
    if expected := re.match(_EXPECTED, fault):
        wanted = _in_words(expected[1]) + expected[3]
        got = expected[2] and _WORDS.get(expected[2], expected[2])
        return path, f"{wanted} is expected" + (f", not {got}" if got else "")
    if fault.startswith("Invalid enum value"):
        return path, "is none of the values that this member takes; rpc.discover lists them"
    return path, "does not have the shape that the method takes; rpc.discover gives it"


def invalid(path: str, fault: str) -> InvalidParams:
    """The refusal of params: where the fault is, and what it is, without the last full stop."""
    return InvalidParams(f"{path}: {fault}.", {"path": path})
