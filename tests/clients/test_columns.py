"""Texts side by side, and text that is fit for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia.columns import Column, cells, fit, frame, wrap
from tertulia.terminal import Style, printable

TEXT = st.text(alphabet="ab c\n漢é\u0301", max_size=200)


@given(TEXT, st.integers(2, 30))
def test_wrapping_keeps_every_letter_and_the_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(TEXT, st.integers(0, 30))
def test_a_fitted_text_has_exactly_its_width(text: str, width: int) -> None:
    line = text.replace("\n", "")
    assert cells(fit(line, width)) == width


@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(40, 160), st.integers(4, 30))
def test_a_frame_stays_within_its_size(texts: list[str], width: int, height: int) -> None:
    columns = [Column("title", "subtitle", text) for text in texts]
    lines = frame(columns, width, height)
    assert len(lines) == height
    assert all(cells(line) <= width for line in lines)


def test_a_long_text_shows_its_end() -> None:
    text = "\n".join(f"line {number}" for number in range(100))
    lines = frame([Column("t", "q", text), Column("u", "r")], 60, 10)
    assert "line 99" in lines[-1]
    assert not any("line 0 " in line for line in lines)


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("\x1b[2Jgone", "[2Jgone"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x9b31m\x07\r", "31m"),
        ("Grüße 漢字 🙂", "Grüße 漢字 🙂"),
    ],
)
def test_a_models_text_cannot_drive_the_terminal(foreign: str, shown: str) -> None:
    assert printable(foreign) == shown


def test_a_style_that_is_off_paints_nothing() -> None:
    assert Style(False)("x", "bold", "red") == "x"
    assert Style(True)("x", "red") == "\x1b[31mx\x1b[0m"
