"""Texts side by side on a terminal: pure layout, strings in and lines out.

A column shows the end of its text. Widths are counted in cells: East Asian wide characters take
two, combining ones none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import msgspec

GAP = " │ "

_words = re.compile(" *[^ ]+| +$").findall


class Column(msgspec.Struct):
    """One column: a heading, a line under it, and a text that grows."""

    title: str
    subtitle: str
    text: str = ""
    done: bool = False


def cells(text: str) -> int:
    """How many cells `text` takes."""
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken at spaces where there are any.

    What is not broken keeps its spaces: code stays indented, and text that grows can be added.
    """
    lines: list[str] = []
    for paragraph in text.expandtabs(4).split("\n"):
        line = ""
        for word in _words(paragraph):
            if cells(line) + cells(word) <= width:
                line += word
                continue
            if line:
                lines.append(line)
            *full, line = _chopped(word.lstrip(" "), width)
            lines += full
        lines.append(line)
    return lines


def _chopped(word: str, width: int) -> list[str]:
    """A word in pieces of at most `width` cells."""
    pieces = [""]
    for char in word:
        if pieces[-1] and cells(pieces[-1]) + _cells_of(char) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def fit(text: str, width: int) -> str:
    """`text` in exactly `width` cells, cut or filled."""
    cut = _chopped(text, width)[0]
    if cells(cut) > width:  # a wide character, and room for none
        cut = ""
    return cut + " " * (width - cells(cut))


def frame(columns: Sequence[Column], width: int, height: int) -> list[str]:
    """`height` lines of at most `width` cells: two of headings, a rule, and the texts' ends."""
    each = max(1, (width - len(GAP) * (len(columns) - 1)) // len(columns))
    rows = max(1, height - 3)
    bodies = [wrap(column.text.strip("\n"), each)[-rows:] for column in columns]
    heads = [[_title(column), column.subtitle] for column in columns]
    lines = [GAP.join(fit(head[row], each) for head in heads) for row in range(2)]
    lines.append("─┼─".join("─" * each for _ in columns))
    lines += [GAP.join(fit(_row(body, row), each) for body in bodies) for row in range(rows)]
    return lines


def _row(body: Sequence[str], row: int) -> str:
    return body[row] if row < len(body) else ""


def _title(column: Column) -> str:
    return f"{column.title} {'✓' if column.done else '…'}"
