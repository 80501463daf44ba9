"""The reader of server-sent events: any cut of the bytes gives the same events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertuliad.providers.sse import EventTooLarge, SseReader

BOUND = 1 << 20


def read(pieces: list[bytes], bound: int = BOUND) -> list[bytes]:
    reader = SseReader(bound)
    return [event for piece in pieces for event in reader.feed(piece)] + reader.end()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def reference(data: bytes) -> list[bytes]:
    """The specification's steps, line by line over the whole input."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    lines: list[bytes] = []
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if lines:
                events.append(b"\n".join(lines))
            lines = []
        field, colon, value = line.partition(b":")
        if field == b"data" and line:
            lines.append(value[1:] if colon and value[:1] == b" " else value)
    return events + ([b"\n".join(lines)] if lines else [])


words = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"data", b"\n", b"\n\n", b"\r\n", b"\r", b"x", b"{}", b": hi",
         b"event: e", b"id: 7", b" ", b"data: a\n\n", b"data: {}\r\n\r\n", b"\xff", b"[DONE]"]
    ),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(words, st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_gives_what_the_specification_gives(data: bytes, places: list[int]) -> None:
    assert read(cut(data, places)) == reference(data)


@given(words)
def test_one_byte_at_a_time_gives_the_same(data: bytes) -> None:
    assert read([data[i : i + 1] for i in range(len(data))]) == reference(data)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_all_three_line_ends_are_understood(end: bytes) -> None:
    lines = [b": comment", b"event: e", b"data: one", b"data:two", b"", b"data: three", b""]
    assert read([end.join(lines) + end]) == [b"one\ntwo", b"three"]


def test_a_byte_order_mark_is_dropped() -> None:
    assert read([b"\xef\xbb\xbfdata: x\n\n"]) == [b"x"]


def test_the_last_event_needs_no_blank_line() -> None:
    assert read([b"data: a\n\ndata: [DONE]"]) == [b"a", b"[DONE]"]


def test_an_event_over_the_bound_is_refused_before_it_is_complete() -> None:
    reader = SseReader(1000)
    with pytest.raises(EventTooLarge):
        for _ in range(20):
            reader.feed(b"data: " + b"x" * 94)


def test_an_event_of_many_lines_is_bounded_too() -> None:
    reader = SseReader(1000)
    with pytest.raises(EventTooLarge):
        for _ in range(2000):
            reader.feed(b"data\n")


def test_a_whole_event_over_the_bound_is_refused() -> None:
    with pytest.raises(EventTooLarge):
        SseReader(1000).feed(b"data: " + b"x" * 1001 + b"\n\n")


def test_events_under_the_bound_never_add_up() -> None:
    reader = SseReader(1000)
    events = [e for _ in range(50) for e in reader.feed(b"data: " + b"x" * 900 + b"\n\n")]
    assert len(events) == 50
