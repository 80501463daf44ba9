"""The methods of the wire: one table of names, shapes, and how each one runs.

Nothing else in the project knows a method's shape. `decode` is the only way from a request's params
to a typed struct, and what it raises is always `InvalidParams` with the JSON path of the fault.
Unknown members are passed over; null stands for a member that was not given.
A result is encoded with `omit_defaults`, so a member with a default is left out where it says
nothing; `None` as a type of result is null on the wire.
Source of the shapes: section 3 of the wire's reference and the recorded frames. What is ours alone
is optional and says so.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from tertulia_protocol import faults, session_id
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.methods.registry import ENDING, METHODS, Method
from tertulia_protocol.shapes import Params

__all__ = ["ENDING", "METHODS", "Method", "decode"]


@functools.cache
def _decoder(name: str) -> msgspec.json.Decoder[Any]:
    return json_decoder(METHODS[name].params)


def decode(method: Method, raw: msgspec.Raw | bytes | None) -> Any:
    """The typed params of a request for `method`: an instance of `method.params`.

    Absent, null and `[null]` stand for `{}`, and `[{...}]` for its element (section 1.5 of the
    reference). Raises `InvalidParams`, whose `data.path` names the fault.
    """
    try:
        params = _decoder(method.name).decode(_by_name(raw))
    except msgspec.ValidationError as error:
        raise faults.invalid(*faults.explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise faults.invalid("$", "the params are not valid JSON in UTF-8") from None
    except RecursionError:
        raise faults.invalid("$", "the params are nested too deep") from None
    _check(params)
    return params


def _by_name(raw: msgspec.Raw | bytes | None) -> msgspec.Raw | bytes:
    """The params as one JSON object's bytes."""
    if raw is None:
        return b"{}"
    start = bytes(memoryview(raw)[:64]).lstrip()
    if not start or start == b"null":
        return b"{}"
    if not start.startswith(b"["):
        return raw
    items = json_decoder(list[msgspec.Raw]).decode(raw)
    if len(items) > 1:
        raise faults.invalid(
            "$", "params are one object, by name; an array holds that object alone"
        )
    return b"{}" if not items or bytes(items[0]) == b"null" else items[0]


def _check(params: Any) -> None:
    """The rules that types do not say."""
    if (given := getattr(params, "session_id", None)) is not None:
        session_id.check(given)
    if isinstance(params, Params):
        params.check()
