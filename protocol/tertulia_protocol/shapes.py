"""What the shapes of all methods are made of: bases of params and results, and shared ones."""

from __future__ import annotations

from typing import Annotated

import msgspec

IdempotencyKey = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""The caller's own: a message of the same key is accepted once, however often it is sent."""


class Private(msgspec.Struct, frozen=True):
    """A struct whose repr names the members that are set, and never shows a value."""

    def __repr__(self) -> str:
        given = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        return f"{type(self).__name__}({', '.join(given)})"


class Params(Private, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The base of params. The repr shows no values: a prompt, a token or a header is nobody's."""

    def check(self) -> None:
        """Raise `InvalidParams` where a rule that types do not say is broken."""


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


class SessionContext(Result, frozen=True, kw_only=True):
    """Where a session works. Absolute paths."""

    cwd: str
    git_root: str | None = None
    repository: str | None = None
    branch: str | None = None


class SessionMeta(Result, frozen=True, kw_only=True):
    """A row of the list. `summary` and `name` are the title. Ours are the members from `named` on:
    whether somebody chose the name, the caller's own metadata, what the session was forked from,
    and how many messages wait."""

    session_id: str
    start_time: str
    modified_time: str
    is_remote: bool
    summary: str | None = None
    name: str | None = None
    client_name: str | None = None
    context: SessionContext | None = None
    named: bool = False
    model: str | None = None
    archived: bool = False
    metadata: msgspec.Raw | None = None
    parent_session_id: str | None = None
    pending: int = 0
