"""Content-Length framing: bytes in, bodies out, and nothing else.

A frame is header lines, an empty line, and a UTF-8 body of `Content-Length` bytes. Names are
case-insensitive, other headers are ignored, a bare LF ends a line too. What the other side sends is
never trusted: a body over the bound is skipped and reported while the stream goes on; a length
beyond all sense or a broken header ends the stream, since nobody knows where the next frame begins.
"""

from __future__ import annotations

import re

import msgspec

MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
LARGE_BODY_BYTES = 1024 * 1024
HEAD_BYTES = 4096
"""So much of a body that is skipped is kept: its id may be in there."""
SENSELESS_BODY_BYTES = 1024 * 1024 * 1024
"""A length above this is taken for a broken stream and not skipped."""

_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_USUAL_HEADER = re.compile(rb"Content-Length: ([0-9]{1,9})\r\n\r\n")
"""What nearly every peer sends: read in one step."""


class Body(msgspec.Struct, frozen=True):
    """One whole frame's body, still encoded. A large one is handed over without a copy."""

    data: bytes | bytearray


class Skipped(msgspec.Struct, frozen=True):
    """A frame over the bound: its body is passed over. `head` holds its first bytes."""

    length: int
    limit: int
    head: bytes

    @property
    def message(self) -> str:
        return (
            f"The frame has {self.length} bytes, more than the {self.limit} that are taken;"
            " it was skipped. Send less at once."
        )


class Broken(msgspec.Struct, frozen=True):
    """The stream cannot be read on. `foreign`: it does not look like this protocol at all."""

    message: str
    foreign: bool = False


Frame = Body | Skipped | Broken


def encode_frame(body: bytes) -> bytes:
    """The frame that carries `body`."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def frames_around(before: bytes, parts: list[bytes], after: bytes) -> list[bytes]:
    """The frames whose bodies are `before`, one of the parts, and `after`, each in one copy."""
    around = len(before) + len(after)
    return [
        b"Content-Length: %d\r\n\r\n%b%b%b" % (around + len(part), before, part, after)
        for part in parts
    ]


def opening(before: bytes, length: int) -> bytes:
    """How a frame begins that `length` bytes follow, which are too many to be copied."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(before) + length, before)


class Framer:
    """One direction of one stream. Feed it any cut of the bytes; the frames are the same.

    After a `Broken` it yields nothing more.
    """

    __slots__ = ("_broken", "_buffer", "_head", "_length", "_scanned", "_skip", "max_body")

    def __init__(self, max_body: int = MAX_BODY_BYTES) -> None:
        self.max_body = max_body
        """A larger body is skipped; a new bound holds from the next header on."""
        self._buffer = bytearray()
        self._scanned = 0
        """How far the buffer was searched for the header's end."""
        self._length: int | None = None
        """The length of the body that is being collected."""
        self._skip = 0
        """Bytes of an oversized body that are still to be passed over."""
        self._head = b""
        self._broken = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes."""
        if self._broken:
            return []
        frames: list[Frame] = []
        self._buffer += data
        while not self._broken:
            frame = self._next()
            if frame is None:
                break
            frames.append(frame)
        return frames

    @property
    def mid_frame(self) -> bool:
        """Whether the stream stands inside a frame: an end here cuts it."""
        return bool(self._buffer) or self._length is not None or self._skip > 0

    def _next(self) -> Frame | None:
        if self._skip:
            return self._pass_over()
        if self._length is None:
            broken = self._read_header()
            if broken is not None:
                self._broken = True
                self._buffer.clear()
                return broken
            if self._length is None:
                return None
        if self._length > self.max_body:
            self._skip = self._length
            self._head = b""
            return self._pass_over()
        if len(self._buffer) < self._length:
            return None
        length, self._length = self._length, None
        return Body(self._cut(length))

    def _cut(self, length: int) -> bytes | bytearray:
        """Take a body from the front of the buffer."""
        if length > LARGE_BODY_BYTES:
            body, self._buffer = self._buffer, self._buffer[length:]
            del body[length:]
            return body
        with memoryview(self._buffer) as view:
            small = bytes(view[:length])
        del self._buffer[:length]
        return small

    def _pass_over(self) -> Frame | None:
        wanted = min(HEAD_BYTES - len(self._head), self._skip)
        if wanted > 0:
            self._head += bytes(self._buffer[:wanted])
        gone = min(len(self._buffer), self._skip)
        del self._buffer[:gone]
        self._skip -= gone
        if self._skip:
            return None
        length, self._length = self._length or 0, None
        return Skipped(length, self.max_body, self._head)

    def _read_header(self) -> Broken | None:
        """Look for the header's end; on it, set the length. None: go on, or wait for more."""
        usual = _USUAL_HEADER.match(self._buffer)
        if usual is not None:
            self._length = int(usual[1])
            del self._buffer[: usual.end()]
            self._scanned = 0
            return None
        end = self._find_header_end()
        if isinstance(end, Broken):
            return end
        if end is None:
            if len(self._buffer) > MAX_HEADER_BYTES:
                return Broken(f"The header is longer than {MAX_HEADER_BYTES} bytes.")
            return None
        header = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scanned = 0
        length = _content_length(header)
        if isinstance(length, Broken):
            return length
        self._length = length
        return None

    def _find_header_end(self) -> int | Broken | None:
        """The offset behind the empty line. A line that is no header is broken at once."""
        start = self._scanned
        while (newline := self._buffer.find(b"\n", start)) >= 0:
            line = self._buffer[start:newline].rstrip(b"\r")
            if not line:
                return newline + 1
            if newline > MAX_HEADER_BYTES:
                break
            broken = _bad_line(bytes(line))
            if broken is not None:
                return broken
            start = newline + 1
        self._scanned = start
        return None


def _bad_line(line: bytes) -> Broken | None:
    name, colon, _ = line.partition(b":")
    if not colon:
        return Broken(
            f"Not a header line: {_shown(line)}. Each message starts with"
            " 'Content-Length: <bytes>' and an empty line.",
            foreign=True,
        )
    if _HEADER_NAME.match(name) is None:
        return Broken(
            f"Not a header line: {_shown(line)}. If the message before it was cut, its"
            " Content-Length did not count all of its bytes; a message without a header is not"
            " read."
        )
    return None


def _content_length(header: bytes) -> int | Broken:
    values = set()
    for line in header.splitlines():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            values.add(value.strip())
    if not values:
        return Broken("The header has no Content-Length.")
    if len(values) > 1:
        return Broken("The header has Content-Length more than once, with different values.")
    value = values.pop()
    if _DIGITS.match(value) is None:
        return Broken(f"Content-Length is not a count of bytes: {_shown(value)}.")
    length = int(value)
    if length > SENSELESS_BODY_BYTES:
        return Broken(
            f"Content-Length {length} is too large even to be skipped: {SENSELESS_BODY_BYTES} bytes"
            " at most."
        )
    return length


def _shown(data: bytes) -> str:
    """`data` as short printable text for a message."""
    text = data[:40].decode("ascii", "backslashreplace")
    cut = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return repr(cut + ("..." if len(data) > 40 else ""))
