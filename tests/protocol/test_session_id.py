"""The rule for session ids, as a table and against any text."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia_protocol import session_id
from tertulia_protocol.errors import InvalidParams

ALPHABET = string.ascii_letters + string.digits + "._-"

GOOD = ["a", "user-123-chat", "A.b_c-9", "-", "_", "a..b", "x" * 128, "0" * 36]
BAD = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "../../etc",
    "a\\b",
    "two words",
    " a",
    "a ",
    "tab\t",
    "line\n",
    "nul\0",
    "ñ",
    "٣",
    "🙂",
    "a%2fb",
    "a:b",
    "x" * 129,
    "x" * 300,
]


@pytest.mark.parametrize("good", GOOD)
def test_an_id_of_the_alphabet_is_taken(good: str) -> None:
    session_id.check(good)


@pytest.mark.parametrize("bad", BAD)
def test_another_id_is_refused_with_its_path_and_the_rule(bad: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        session_id.check(bad)
    assert refused.value.data == {"kind": "invalid_params", "path": "$.sessionId"}
    assert "1 to 128" in refused.value.message


@settings(deadline=None)
@given(st.text(max_size=140))
def test_the_pattern_is_the_rule_in_words(text: str) -> None:
    in_words = 1 <= len(text) <= 128 and set(text) <= set(ALPHABET) and text[0] != "."
    assert session_id.is_valid(text) is in_words
