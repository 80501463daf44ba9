"""Typed decoding, safe in any thread: the only way to msgspec's decoders in this project.

What msgspec (0.22) knows of a struct is filled in while Python code runs, and it is there for other
threads before it is whole: one that decodes by it then reads from nowhere, and the process is gone.
So decoders are made one at a time, and no shape is used before its decoder is made.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

_making = Lock()
_json: dict[Any, msgspec.json.Decoder[Any]] = {}
_msgpack: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


@overload
def json_decoder(shape: type[T]) -> msgspec.json.Decoder[T]: ...
@overload
def json_decoder(shape: Any) -> msgspec.json.Decoder[Any]: ...
def json_decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of JSON texts of `shape`, made on first use."""
    made = _json.get(shape)
    if made is None:
        with _making:
            made = _json[shape] = msgspec.json.Decoder(shape)
    return made


def msgpack_decoder(shape: type[T]) -> msgspec.msgpack.Decoder[T]:
    """The decoder of MessagePack of `shape`, made on first use."""
    made = _msgpack.get(shape)
    if made is None:
        with _making:
            made = _msgpack[shape] = msgspec.msgpack.Decoder(shape)
    return made


@overload
def convert(value: Any, shape: type[T]) -> T: ...
@overload
def convert(value: Any, shape: Any) -> Any: ...
def convert(value: Any, shape: Any) -> Any:
    """`value`, of what a decoder without a type gives, as `shape`. Raises
    `msgspec.ValidationError`."""
    json_decoder(shape)
    return msgspec.convert(value, shape)
