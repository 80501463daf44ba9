"""The chat completions format as data: requests out, chunks and answers in. Pure.

What servers send differs from the published format in many small ways; every member is optional
here, and a body that strict JSON refuses (bytes that are no UTF-8, half a surrogate pair) is
repaired with U+FFFD before it is given up.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import msgspec

from tertulia_protocol.decoding import json_decoder
from tertuliad.providers.base import (
    Message,
    ModelRequest,
    RichMessage,
    ToolCall,
    ToolDeclaration,
    Usage,
    is_plain,
)

MOST_TOKENS = 10**12
"""More than any call takes: sums of it stay exact in every client's numbers."""


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCallPart(msgspec.Struct, gc=False):
    """A call, or a piece of one: pieces with the same `index` belong together."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class ContentPart(msgspec.Struct, gc=False):
    text: str | None = None


class AnswerMessage(msgspec.Struct, gc=False):
    """A choice's `delta` or `message`. Reasoning has two names among servers."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[ToolCallPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or self.refusal or ""

    def thoughts(self) -> str:
        if self.reasoning_content:
            return self.reasoning_content
        return self.reasoning if isinstance(self.reasoning, str) else ""


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: AnswerMessage | None = None
    message: AnswerMessage | None = None
    finish_reason: str | None = None


class CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: Any = None
    reasoning_tokens: Any = None


class TokenCounts(msgspec.Struct, gc=False):
    """Whatever a server counts: a count that is none does not spoil the answer."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: CachedTokens | None = None
    completion_tokens_details: CachedTokens | None = None

    def usage(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            input_tokens=_count(self.prompt_tokens),
            output_tokens=_count(self.completion_tokens),
            cached_tokens=_count(prompt.cached_tokens) if prompt else None,
            reasoning_tokens=_count(completion.reasoning_tokens) if completion else None,
        )


def _count(told: Any) -> int | None:
    """A number of tokens that can be one; None otherwise."""
    return int(told) if isinstance(told, int | float) and 0 <= told <= MOST_TOKENS else None


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream, or a whole answer. `error` may stand in either."""

    id: str | None = None
    choices: list[Choice] | None = None
    usage: TokenCounts | None = None
    error: Any = None


class ListedModel(msgspec.Struct, frozen=True):
    """An entry of GET /models. The context's size has a different name with every server."""

    id: str
    name: str | None = None
    context_length: int | None = None
    context_window: int | None = None
    max_model_len: int | None = None
    max_context_length: int | None = None

    @property
    def context(self) -> int | None:
        """Tokens that the model takes, where the server says."""
        return (
            self.context_length
            or self.context_window
            or self.max_model_len
            or self.max_context_length
        )


class ModelList(msgspec.Struct, frozen=True):
    data: list[ListedModel]


_chunks = json_decoder(Chunk)
_lists = json_decoder(ModelList)


def decode_chunk(body: bytes) -> Chunk:
    """Raises `ValueError` (or `RecursionError`) where `body` is no such object."""
    try:
        return _chunks.decode(body)
    except ValueError:  # msgspec's errors and UnicodeDecodeError are among them
        return _chunks.decode(_repaired(body))


def decode_models(body: bytes) -> list[ListedModel]:
    """The entries of GET /models. Raises `ValueError`."""
    return _lists.decode(body).data


def _repaired(body: bytes) -> bytes:
    """`body` as JSON that msgspec takes: what is no Unicode becomes U+FFFD."""
    import json  # takes as long to import as all of this file

    text = json.dumps(json.loads(body.decode("utf-8", "replace")), ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def encode_request(request: ModelRequest, *, usage: bool, completion_limit: str) -> bytes:
    """The body of a call. `usage` asks for token counts at a stream's end; `completion_limit` is
    the member that bounds the answer: `max_tokens`, or `max_completion_tokens` at OpenAI. A
    message of text alone has the wire's form already: a long history is encoded as it is."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": (
            request.messages
            if is_plain(request.messages)
            else [_rich(m) if isinstance(m, RichMessage) else m for m in request.messages]
        ),
        "stream": request.stream,
    }
    if request.stream and usage:
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.max_output_tokens is not None:
        body[completion_limit] = request.max_output_tokens
    if request.reasoning_effort is not None:
        body["reasoning_effort"] = request.reasoning_effort
    return msgspec.json.encode(body)


def joined(messages: list[Message]) -> list[Message]:
    """`messages`, with those of a user, and of the assistant, right behind each other as one: what
    the templates of some models insist on."""
    out: list[Message] = []
    for role, run in itertools.groupby(messages, operator.attrgetter("role")):
        together = list(run)
        one = len(together) > 1 and role in ("user", "assistant")
        out += [_one(together)] if one else together
    return out


def _one(messages: list[Message]) -> Message:
    role, text = messages[0].role, "\n\n".join(m.content for m in messages if m.content)
    rich = [message for message in messages if isinstance(message, RichMessage)]
    if not rich:
        return Message(role, text)
    images = tuple(image for message in rich for image in message.images)
    return RichMessage(role, text, images, tuple(c for m in rich for c in m.tool_calls))


def _rich(message: RichMessage) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        out["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _content(message: RichMessage) -> str | list[dict[str, Any]] | None:
    if not message.images:
        return message.content or (None if message.tool_calls else "")
    return [
        {"type": "text", "text": message.content},
        *(
            {"type": "image_url", "image_url": {"url": f"data:{i.mime_type};base64,{i.base64}"}}
            for i in message.images
        ),
    ]


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: ToolDeclaration) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}
