"""A piece of a long text around what was searched for: pure.

SQLite's own `snippet` weighs each place that matches against all others of the text: 20,000 of them
take seconds, and nobody else could search meanwhile. Here one is looked for, in C.
"""

from __future__ import annotations

from tertuliad.store.base import MARKS

BEFORE_CHARS = 60
ALL_CHARS = 240
WORDS = 8
"""So many of the words are looked for."""


def around(text: str, words: list[str]) -> str:
    """`text` from a little before the first place where one of `words` begins, with that place
    between `MARKS`; the beginning where none does, as accents are not passed over here."""
    lowered = text.lower()
    alike = lowered if len(lowered) == len(text) else text
    found = [_place(alike, word.lower()) for word in words[:WORDS]]
    at = min((place for place in found if place is not None), default=None)
    if at is None:
        return text[:ALL_CHARS].replace(MARKS[0], " ").replace(MARKS[1], " ") + "…"
    start, end = max(0, at - BEFORE_CHARS), at + 1
    if start:
        start = text.find(" ", start, at) + 1 or start  # with a whole word
    while end < len(text) and end < at + ALL_CHARS and text[end].isalnum():
        end += 1
    last = max(end, start + ALL_CHARS)
    before, word, behind = (
        part.replace(MARKS[0], " ").replace(MARKS[1], " ")
        for part in (text[start:at], text[at:end], text[end:last])
    )
    return (
        f"{'…' * (start > 0)}{before}{MARKS[0]}{word}{MARKS[1]}{behind}{'…' * (last < len(text))}"
    )


def _place(text: str, word: str) -> int | None:
    """Where `word` begins a word of `text`."""
    word = word.strip("".join({char for char in word if not char.isalnum()}))
    at = text.find(word) if word else -1
    while at > 0 and text[at - 1].isalnum():
        at = text.find(word, at + 1)
    return None if at < 0 else at
