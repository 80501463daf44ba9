"""From the bytes of an answer in the chat completions format to `Delta`s and `Done`. Pure.

Deltas that arrived in one read leave as one. A stream has ended when it said so: by `[DONE]`, by a
finish reason, or by the closing chunk that holds only the usage. One that stops without any of them
was cut, even where HTTP ended in order: half an answer must not pass for a whole one. Whatever
follows `[DONE]` is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tertuliad import limits
from tertuliad.providers.base import ANOTHER_TRY, Delta, Done, ProviderFailed, ToolCall, Usage
from tertuliad.providers.openai_errors import reported
from tertuliad.providers.openai_wire import AnswerMessage, Choice, Chunk, ToolCallPart, decode_chunk
from tertuliad.providers.sse import EventTooLarge, SseReader


class _Call:
    """A tool call while its pieces come in."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class ToolCalls:
    """Puts the pieces of tool calls together, in the order in which the calls began.

    A piece belongs to the call of its `index`; without one, to the call of its id, else to the
    latest. A call without an id gets one made from the answer's. `where` names the provider in the
    text of failures.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._calls: dict[tuple[int, int | str], _Call] = {}
        self._latest: _Call | None = None

    def add(self, choice: int, pieces: Iterable[ToolCallPart]) -> int:
        """How many characters they have, each of them one more. Raises `ProviderFailed` where they
        begin too many calls."""
        size = 0
        for piece in pieces:
            call = self._call_of(choice, piece)
            size += 1
            if piece.id:
                call.id = piece.id
                size += len(piece.id)
            if (function := piece.function) is None:
                continue
            if function.name:
                call.name = function.name
                size += len(function.name)
            if arguments := _json_text(function.arguments):
                call.arguments.append(arguments)
                size += len(arguments)
        return size

    def _call_of(self, choice: int, piece: ToolCallPart) -> _Call:
        key = piece.index if piece.index is not None else piece.id
        if key is None:
            if self._latest is None or (piece.function and piece.function.name):
                key = f"#{len(self._calls)}"
            else:
                return self._latest
        call = self._calls.get((choice, key))
        if call is None:
            if len(self._calls) >= limits.MODEL_TOOL_CALLS:
                raise ProviderFailed(
                    "bad_response",
                    f"{self._where} does not end its answer: more than {limits.MODEL_TOOL_CALLS}"
                    f" tool calls have come. {ANOTHER_TRY}",
                )
            call = self._calls[choice, key] = _Call()
        self._latest = call
        return call

    def finish(self, answer_id: str | None) -> tuple[ToolCall, ...]:
        prefix = f"call_{answer_id or 'unnamed'}"
        return tuple(
            ToolCall(call.id or f"{prefix}_{n}", call.name, "".join(call.arguments) or "{}")
            for n, call in enumerate(self._calls.values())
        )

    def __bool__(self) -> bool:
        return bool(self._calls)


def _json_text(arguments: str | dict[str, object] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


class StreamedAnswer:
    """One streamed answer. Feed it what arrives until `complete` or the end, then `end` it.

    `where` names the provider in the text of failures, `secrets` is what they must not repeat.
    """

    def __init__(self, where: str, secrets: Iterable[str] = ()) -> None:
        self.complete = False
        self._where = where
        self._secrets = secrets
        self._events = SseReader(limits.MODEL_LINE_BYTES)
        self._tools = ToolCalls(where)
        self._usage = Usage()
        self._id: str | None = None
        self._finish_reason: str | None = None
        self._closed = False  # the usage came alone: nothing else will
        self._heard = False  # something of an answer has come
        self._size = 0  # of what has come, in characters

    @property
    def finished(self) -> bool:
        """The model has said why it ends; what it took, and the stream's end, may follow."""
        return self._finish_reason is not None

    def feed(self, data: bytes) -> Delta | None:
        """The text that `data` brought, joined; None if it brought none."""
        try:
            events = self._events.feed(data)
        except EventTooLarge:
            raise _oversized(self._where) from None
        return self._take(events) if events else None

    def end(self) -> tuple[Delta | None, Done]:
        """What the end of the stream completes. Raises `ProviderFailed` if it came too early."""
        rest = None if self.complete else self._take(self._events.end())
        if not self._heard and self._finish_reason is None:
            raise ProviderFailed(
                "bad_response",
                f"{self._where} ended its answer without one. Check the provider's base URL and"
                " that the model is made for chat.",
            )
        if not (self.complete or self._closed or self._finish_reason):
            raise ProviderFailed(
                "interrupted",
                f"{self._where} stopped in the middle of its answer. Send the message again.",
            )
        calls = self._tools.finish(self._id)
        return rest, Done(
            finish_reason=self._finish_reason or ("tool_calls" if calls else "stop"),
            tool_calls=calls,
            usage=self._usage,
            call_id=self._id,
        )

    def _take(self, events: list[bytes]) -> Delta | None:
        texts: list[str] = []
        thoughts: list[str] = []
        for event in events:
            if event == b"[DONE]":
                self.complete = True
                break
            if event:
                self._chunk(_decoded(event, self._where), texts, thoughts)
        delta = Delta("".join(texts), "".join(thoughts))
        self._size += len(delta.text) + len(delta.reasoning)
        if self._size > limits.MODEL_ANSWER_CHARS:
            raise ProviderFailed(
                "bad_response",
                f"{self._where} does not end its answer: more than {limits.MODEL_ANSWER_CHARS}"
                " characters have come. Bound it with maxOutputTokens.",
            )
        return delta if texts or thoughts else None

    def _chunk(self, chunk: Chunk, texts: list[str], thoughts: list[str]) -> None:
        if chunk.error:
            raise reported(self._where, chunk.error, secrets=self._secrets)
        if self._id is None:
            self._id = chunk.id
        if chunk.usage is not None:
            self._usage = chunk.usage.usage()
            self._closed = self._closed or not chunk.choices
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                self._finish_reason = choice.finish_reason
            message = choice.delta or choice.message
            if message is None:
                continue
            if text := message.text():
                texts.append(text)
            if thought := message.thoughts():
                thoughts.append(thought)
            if message.tool_calls:
                self._size += self._tools.add(choice.index or 0, message.tool_calls)
            self._heard = self._heard or bool(text or thought or message.tool_calls)


def whole_answer(body: bytes, where: str, secrets: Iterable[str] = ()) -> tuple[Delta | None, Done]:
    """An answer in one piece; several choices are one message. Raises `ProviderFailed`."""
    answer = _decoded(body, where)
    if answer.error:
        raise reported(where, answer.error, secrets=secrets)
    choices = [(n, c, c.message) for n, c in enumerate(answer.choices or ()) if c.message]
    if not choices:
        raise ProviderFailed("bad_response", f"{where} answered without a message. {ANOTHER_TRY}")
    tools = ToolCalls(where)
    for n, _, message in choices:
        for m, piece in enumerate(message.tool_calls or ()):
            tools.add(n, [msgspec.structs.replace(piece, index=m)])
    calls = tools.finish(answer.id)
    return _joined([message for _, _, message in choices]), Done(
        finish_reason=_finish_reason([c for _, c, _ in choices], calls),
        tool_calls=calls,
        usage=answer.usage.usage() if answer.usage else Usage(),
        call_id=answer.id,
    )


def _joined(messages: list[AnswerMessage]) -> Delta | None:
    text = "".join(message.text() for message in messages)
    thoughts = "".join(message.thoughts() for message in messages)
    return Delta(text, thoughts) if text or thoughts else None


def _finish_reason(choices: list[Choice], calls: tuple[ToolCall, ...]) -> str:
    if calls:
        return "tool_calls"
    return next((c.finish_reason for c in choices if c.finish_reason), "stop")


def _decoded(body: bytes, where: str) -> Chunk:
    try:
        return decode_chunk(body)
    except (ValueError, RecursionError):
        raise ProviderFailed(
            "bad_response",
            f"{where} sent something that is not in the chat completions format. Check that the"
            " provider's base URL is that of an OpenAI-compatible API.",
        ) from None


def _oversized(where: str) -> ProviderFailed:
    return ProviderFailed(
        "bad_response",
        f"{where} sent one piece of its answer larger than {limits.MODEL_LINE_BYTES} bytes."
        f" {ANOTHER_TRY}",
    )
