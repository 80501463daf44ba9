"""What the engine asks of a model provider, and nothing else.

The engine hands over a `ModelRequest` and iterates over `Delta`s until `Done`. Whatever goes wrong
is raised as `ProviderFailed`; cancelling the iteration closes the connection to the model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec

FailureKind = Literal[
    "authentication",  # 401, 403: the key is missing or refused
    "rate_limit",  # 429
    "quota",  # 402, or a 429 that says the account is out of credit
    "context_window",  # the history is larger than the model takes
    "invalid_request",  # other 4xx: the server refuses this request
    "model_not_found",  # the endpoint does not have this model
    "server_error",  # 5xx
    "connection",  # refused, unreachable, name not found, TLS, reset before the first byte
    "interrupted",  # the stream was cut before its end
    "timeout",  # no byte for too long, or the whole call took too long
    "bad_response",  # the answer is not what the wire format promises
    "unavailable",  # the provider cannot run here (engine or weights missing)
]


SHORTER = (
    "Go back to before a long message (`tertulia rewind`), start a new session, or switch to a"
    " model with a larger window; a program goes back with session.history.rewind."
)
"""What helps where the history is too long: what was said stays in it."""
ANOTHER_TRY = "Send the message again, or choose another model."
"""What helps where an answer was none, through no fault of who asked."""


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model asked for. `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Image(msgspec.Struct, frozen=True):
    mime_type: str
    base64: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of the history that the model reads: text alone, as most are."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class RichMessage(Message, frozen=True, omit_defaults=True, gc=False):
    """One with images behind its text, with calls, or with what a call gave."""

    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


def is_plain(messages: list[Message]) -> bool:
    """Whether all of them are text alone. Asked with each turn, of all that was said: in C."""
    return set(map(type, messages)) <= {Message}


class ToolDeclaration(msgspec.Struct, frozen=True):
    """A tool that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One model call. `model` is the name on the provider's wire."""

    model: str
    messages: list[Message]
    tools: list[ToolDeclaration] = []
    stream: bool = True
    max_output_tokens: int | None = None
    reasoning_effort: str | None = None
    headers: dict[str, str] = {}
    user_agent: str = "tertuliad"


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the provider counts them; None where it does not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What arrived in one read, joined: text, reasoning text, or both. Neither: something arrived,
    and the model is at work."""

    text: str = ""
    reasoning: str = ""


HEARD = Delta()
"""A piece of a tool call, a comment that keeps the connection, or less than a whole event."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an answer. `finish_reason` and `call_id` are the provider's."""

    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    call_id: str | None = None


class ProviderFailed(Exception):
    """A model call failed. The message is for people and never holds a key.

    `retryable`: the fault is one that passes, and the turn makes the same call again by itself as
    long as nothing of an answer was seen. An answer that was cut off, or made no sense, is for the
    sender to ask for again. `retry_after` is in seconds, as the server asked.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.status = status
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after


class Provider(Protocol):
    """One endpoint that answers model calls. Safe for any number of calls at once."""

    name: str

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Done]:
        """Yield `Delta`s, then exactly one `Done`; raise `ProviderFailed` instead of a `Done`.

        With `request.stream` off the answer comes as one `Delta` and `Done`.
        """
        ...


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session's model calls go: the provider, the model's name there, and its limits."""

    provider: Provider
    model: str
    display_name: str
    id: str = ""
    """How `models.list` and a session name it; empty: it has no other name."""
    context_window: int | None = None
    max_output_tokens: int | None = None
    vision: bool = False
    tools: bool = True
