"""What the shapes of all methods are made of: bases of params and results, and a table row."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tertulia_protocol.config import Private


class Params(Private, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The base of params. The repr shows no values: a prompt, a token or a header is nobody's."""


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The base of results."""


class NoParams(Params, frozen=True):
    """The method takes nothing."""


class SessionParams(Params, frozen=True, kw_only=True):
    """The method is about one session and takes nothing else."""

    session_id: str


class Success(Result, frozen=True, kw_only=True):
    """`error` says why `success` is false."""

    success: bool
    error: str | None = None


Runs = Literal["at once", "in a task"]


class Method(msgspec.Struct, frozen=True):
    """A row of the registry. `runs` "in a task" where the method may wait for the network; a
    session's commands answer through a reply of their own and run at once."""

    name: str
    params: Any
    result: Any
    summary: str
    runs: Runs = "at once"
