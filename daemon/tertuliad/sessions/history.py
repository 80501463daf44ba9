"""The history that the model reads: a fold of the messages in a session's log.

It is kept apart from the rest of the state because it is the one part that grows with the
conversation: a session that is only looked at never loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events
from tertuliad.providers.base import Image, Message, RichMessage, ToolCall

NOT_RUN = "This call was not run: the turn ended before it."

TYPES = ("user.message", "assistant.message", "assistant.turn_end")
"""The types of event that a history is folded from."""


def apply(history: list[Message], data: events.EventData) -> None:
    """Fold one stored event; those of other types change nothing."""
    change = _CHANGES.get(type(data))
    if change is not None:
        change(history, data)


def _user_message(history: list[Message], data: events.UserMessage) -> None:
    _answer_open_calls(history)
    text = data.transformed_content or data.content
    images = [
        Image(str(item["mimeType"]), str(item["data"]))
        for item in data.attachments or ()
        if is_image(item)
    ]
    history.append(RichMessage("user", text, tuple(images)) if images else Message("user", text))


def is_image(attachment: dict[str, object]) -> bool:
    """Whether the attachment is an image whose bytes came with it."""
    return (
        attachment.get("type") == "blob"
        and str(attachment.get("mimeType", "")).startswith("image/")
        and bool(attachment.get("data"))
    )


def _assistant_message(history: list[Message], data: events.AssistantMessage) -> None:
    calls = tuple(
        ToolCall(request.tool_call_id, request.name, _arguments_text(request.arguments))
        for request in data.tool_requests or ()
    )
    if calls:
        history.append(RichMessage("assistant", data.content, tool_calls=calls))
    elif data.content:
        history.append(Message("assistant", data.content))


def _arguments_text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _turn_end(history: list[Message], _: events.AssistantTurnEnd) -> None:
    _answer_open_calls(history)


def _answer_open_calls(history: list[Message]) -> None:
    """Every call in the history has a result, or the model's server refuses the history."""
    last = history[-1] if history else None
    if isinstance(last, RichMessage):
        history += [RichMessage("tool", NOT_RUN, tool_call_id=c.id) for c in last.tool_calls]


_CHANGES: dict[type[events.EventData], Callable[[list[Message], Any], None]] = {
    events.UserMessage: _user_message,
    events.AssistantMessage: _assistant_message,
    events.AssistantTurnEnd: _turn_end,
}
