"""Framing keeps: any cut of the bytes yields the same frames, and nothing sent stops the stream
unless nobody could know where the next frame begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia_protocol import framing
from tertulia_protocol.framing import Body, Broken, Frame, Framer, Skipped, encode_frame


def feed_in_pieces(data: bytes, cuts: list[int], max_body: int) -> list[Frame]:
    framer = Framer(max_body)
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    frames: list[Frame] = []
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        frames += framer.feed(data[start:end])
    return frames


headers = st.sampled_from(
    [
        b"Content-Length: %d\r\n\r\n",
        b"content-length:%d\r\n\r\n",
        b"Content-Length: %d\n\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nCONTENT-LENGTH:  %d \r\n\r\n",
        b"X-Other: 1\nContent-Length: %d\r\n\n",
    ]
)
bodies = st.binary(max_size=200)


@given(st.lists(st.tuples(headers, bodies), max_size=6), st.lists(st.integers(0), max_size=12))
def test_any_cut_of_the_bytes_yields_the_same_bodies(
    sent: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    data = b"".join(header % len(body) + body for header, body in sent)
    expected = [
        Body(body) if len(body) <= 100 else Skipped(len(body), 100, body) for _, body in sent
    ]
    assert feed_in_pieces(data, cuts, max_body=100) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "LARGE_BODY_BYTES", 20)
        assert feed_in_pieces(data, cuts, max_body=100) == expected


@given(st.binary(max_size=300), st.lists(st.integers(0), max_size=12))
def test_any_bytes_at_all_yield_the_same_frames_however_cut(data: bytes, cuts: list[int]) -> None:
    whole = Framer(50).feed(data)
    assert feed_in_pieces(data, cuts, max_body=50) == whole
    assert all(not isinstance(frame, Broken) for frame in whole[:-1])


@given(bodies)
def test_what_is_encoded_comes_back(body: bytes) -> None:
    framer = Framer()
    assert framer.feed(encode_frame(body)) == [Body(body)]
    assert not framer.mid_frame


@pytest.mark.parametrize(
    ("data", "said", "foreign"),
    [
        (b"Content-Length: -5\r\n\r\n{}", "not a count of bytes: '-5'", False),
        (b"Content-Length: abc\r\n\r\n{}", "not a count of bytes: 'abc'", False),
        (b"Content-Length: 999999999999\r\n\r\n{}", "too large even to be skipped", False),
        (b"Content-Length: 9" + b"9" * 40 + b"\r\n\r\n", "not a count of bytes", False),
        (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "more than once", False),
        (b"Content-Type: application/json\r\n\r\n{}", "no Content-Length", False),
        (b"GARBAGE LINE WITHOUT COLON\r\n\r\n", "Not a header line", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "Not a header line", True),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n', "without a header is not read", False),
        (b'"}}Content-Length: 5\r\n\r\n', "did not count all of its bytes", False),
        (b"X: " + b"a" * 1_000_000, "longer than 65536 bytes", False),
        (b"X: \x1b[31m\xff\r\n" * 1 + b"\r\n", "no Content-Length", False),
        (b"\x1b]0;x\x07\r\n", r"\x1b", True),
    ],
)
def test_a_stream_that_cannot_be_read_on_says_why(data: bytes, said: str, foreign: bool) -> None:
    framer = Framer()
    [frame] = framer.feed(data)
    assert isinstance(frame, Broken)
    assert said in frame.message
    assert frame.foreign is foreign
    assert frame.message.isprintable()
    assert framer.feed(encode_frame(b"{}")) == []


def test_duplicate_lengths_that_agree_are_one() -> None:
    assert Framer().feed(b"Content-Length: 2\r\ncontent-length: 2\r\n\r\n{}") == [Body(b"{}")]


def test_an_empty_body_is_a_body() -> None:
    assert Framer().feed(b"Content-Length: 0\r\n\r\n") == [Body(b"")]


def test_a_body_over_the_bound_is_passed_over_and_the_next_is_read() -> None:
    framer = Framer(max_body=10)
    big = b'{"id":7,' + b" " * 100_000
    frames: list[Frame] = []
    data = encode_frame(big) + encode_frame(b"{}")
    for start in range(0, len(data), 999):
        frames += framer.feed(data[start : start + 999])
    assert isinstance(frames[0], Skipped)
    assert frames[0].length == len(big)
    assert frames[0].head == big[:4096]
    assert frames[1:] == [Body(b"{}")]


def test_an_oversized_body_is_not_kept_while_it_is_passed_over() -> None:
    framer = Framer(max_body=10)
    framer.feed(b"Content-Length: %d\r\n\r\n" % framing.SENSELESS_BODY_BYTES)
    for _ in range(100):
        assert framer.feed(b" " * 65536) == []
    assert len(framer._buffer) == 0
    assert framer.mid_frame


def test_a_header_of_the_largest_size_is_taken() -> None:
    filler = b"X: " + b"a" * (framing.MAX_HEADER_BYTES - 60) + b"\r\n"
    assert Framer().feed(filler + b"Content-Length: 1\r\n\r\nx") == [Body(b"x")]
