"""Typed decoding: decoders are made once, and from any number of threads at once."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tertulia_protocol.decoding import convert, json_decoder, msgpack_decoder

BOUND_S = 120


class Place(msgspec.Struct):
    name: str
    within: Place | None = None


def test_a_decoder_is_made_once() -> None:
    assert json_decoder(Place) is json_decoder(Place)
    assert msgpack_decoder(Place) is msgpack_decoder(Place)
    assert json_decoder(list[int]).decode(b"[1,2]") == [1, 2]
    packed = msgspec.msgpack.encode(Place("a", Place("b")))
    assert msgpack_decoder(Place).decode(packed) == Place("a", Place("b"))


def test_a_value_is_converted_or_refused() -> None:
    assert convert({"name": "a", "within": {"name": "b"}}, Place) == Place("a", Place("b"))
    with pytest.raises(msgspec.ValidationError, match=r"\$\.within"):
        convert({"name": "a", "within": 1}, Place)


MEETING = """
import sys, threading, types
from tertulia_protocol.decoding import convert, json_decoder, msgpack_decoder

LINE = "class Shape{0}(msgspec.Struct):\\n  a: int = 0\\n  b: Shape{1} | None = None\\n"
TEXT = b'{"a":1,"b":{"a":2,"b":{"a":3,"b":{"a":4}}}}'
sys.setswitchinterval(1e-6)

def meet(way, barrier, said):
    barrier.wait()
    said.append(way())

for turn in range(150):
    shapes = sys.modules["shapes"] = types.ModuleType("shapes")
    exec("from __future__ import annotations\\nimport msgspec\\n"
         + "".join(LINE.format(n, max(n - 1, 0)) for n in range(12)), shapes.__dict__)
    ways = [
        lambda: json_decoder(shapes.Shape11).decode(TEXT),
        lambda: json_decoder(shapes.Shape11).decode(TEXT),
        lambda: msgpack_decoder(shapes.Shape11).decode(bytes([129, 161, 97, 1])),
        lambda: convert({"a": 1, "b": {"a": 2, "b": {"a": 3}}}, shapes.Shape11),
    ]
    barrier, said = threading.Barrier(len(ways)), []
    threads = [threading.Thread(target=meet, args=(way, barrier, said)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.a for each in said] == [1] * len(ways), said
"""


def test_threads_that_meet_a_shape_for_the_first_time_all_decode_by_it() -> None:
    command = [sys.executable, "-c", MEETING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
