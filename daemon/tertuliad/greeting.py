"""The answer to a client that waits on standard input while the daemon starts.

Whoever starts a daemon waits for the answer to `connect` (older SDKs: `ping`). It needs no event
loop, whose imports are most of a start, so that it is given before them, and the next message finds
them done, or under way.

The rules of this file:
- It never waits: what has not come by now is the gate's, and so is what takes a longer answer than
  a pipe or socket that is ready takes whole.
- It answers one message, where all that has come is that message, whole and without a fault.
  Anything else is given back as it came, and the gate says what there is to say.
- Nothing may be left by then that can end the start: a client that was greeted is served.
"""

from __future__ import annotations

import contextlib
import os
import select

import msgspec

from tertulia_protocol import envelope
from tertulia_protocol.errors import InvalidParams
from tertulia_protocol.framing import Body, Framer, encode_frame
from tertulia_protocol.methods import METHODS, decode
from tertuliad.descriptors import is_channel
from tertuliad.handlers.front import GREETINGS
from tertuliad.limits import GREETING_BYTES, MAX_BODY_BYTES, READ_CHUNK_BYTES


class Greeting(msgspec.Struct, frozen=True):
    """Whether a client `was_answered`, and what of its bytes is still to be read."""

    was_answered: bool = False
    left: bytes = b""


def greet(stdin: int, stdout: int, max_body: int = MAX_BODY_BYTES) -> Greeting:
    """Answer who waits already."""
    came = _what_came(stdin, stdout)
    answer = _answer(came, max_body)
    if answer is not None and len(answer) <= GREETING_BYTES:
        with contextlib.suppress(OSError):  # it has gone: reading on tells so
            os.write(stdout, answer)
            return Greeting(was_answered=True)
    return Greeting(left=came)


def _what_came(stdin: int, stdout: int) -> bytes:
    """What can be read without waiting, if an answer could be written so."""
    if not (is_channel(stdin) and is_channel(stdout)):
        return b""
    if not (_is_ready(stdin, select.POLLIN) and _is_ready(stdout, select.POLLOUT)):
        return b""
    with contextlib.suppress(OSError):
        return os.read(stdin, READ_CHUNK_BYTES)
    return b""


def _is_ready(fd: int, event: int) -> bool:
    poll = select.poll()  # `select` knows the first thousand descriptors only
    poll.register(fd, event)
    return any(found & event for _, found in poll.poll(0))


def _answer(came: bytes, max_body: int) -> bytes | None:
    """The frame that answers what came; None: the gate does."""
    framer = Framer(max_body)
    match framer.feed(came):
        case [Body(body)] if not framer.mid_frame:
            request = envelope.decode(body)
        case _:
            return None
    if not isinstance(request, envelope.Request) or request.method not in GREETINGS:
        return None
    try:
        params = decode(METHODS[request.method], request.params)
    except InvalidParams:
        return None
    return encode_frame(envelope.encode_result(request.id, GREETINGS[request.method](params)))
