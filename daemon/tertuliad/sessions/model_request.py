"""What a turn asks of its model: made of the session's settings, what was said, and who answers.
Pure."""

from __future__ import annotations

import operator

import msgspec

from tertulia_protocol.config import SessionConfig, offered_tools
from tertuliad.providers.base import (
    SHORTER,
    Message,
    ModelRequest,
    ProviderFailed,
    RichMessage,
    Target,
    ToolDeclaration,
    is_plain,
)
from tertuliad.sessions import system_message

MOST_CHARS_A_TOKEN = 6
"""What people write has no more on average: a history above it is too large for certain."""

_content = operator.attrgetter("content")


def as_the_caller_knows(target: Target, config: SessionConfig) -> Target:
    """`target` with what the session's settings say of the model's abilities and limits."""
    given = config.model_capabilities
    if given is None:
        return target
    limited, supported = given.limits, given.supports
    window = limited and (limited.max_context_window_tokens or limited.max_prompt_tokens)
    vision = supported and supported.vision
    return msgspec.structs.replace(
        target,
        context_window=window or target.context_window,
        max_output_tokens=(limited and limited.max_output_tokens) or target.max_output_tokens,
        vision=target.vision if vision is None else vision,
    )


def request_of(
    config: SessionConfig, target: Target, history: list[Message], headers: dict[str, str]
) -> ModelRequest:
    """The next call to `target`. Raises `ProviderFailed` for what cannot fit for certain."""
    system = system_message.render(config)
    head = [Message("system", system)] if system else []
    said = history if target.vision or is_plain(history) else map(_without_images, history)
    messages = [*head, *said]
    _check_window(messages, target)
    return ModelRequest(
        model=target.model,
        messages=messages,
        tools=_declared(config) if target.tools else [],
        stream=bool(config.streaming),
        max_output_tokens=target.max_output_tokens,
        reasoning_effort=config.reasoning_effort,
        headers=headers,
        user_agent=_user_agent(config),
    )


def _without_images(message: Message) -> Message:
    """For a model that cannot see: the text says how many images there were."""
    if not isinstance(message, RichMessage) or not message.images:
        return message
    left_out = f"({len(message.images)} attached image(s) left out: this model takes no images)"
    text = f"{message.content}\n\n{left_out}"
    return msgspec.structs.replace(message, content=text, images=())


def _declared(config: SessionConfig) -> list[ToolDeclaration]:
    return [
        ToolDeclaration(
            tool.name,
            tool.description or "",
            tool.parameters or {"type": "object", "properties": {}},
        )
        for tool in offered_tools(config)
    ]


def _user_agent(config: SessionConfig) -> str:
    name = config.client_name
    if not name:
        return "tertuliad"
    if not (name.isascii() and name.isprintable()):
        name = "".join(c if c.isascii() and c.isprintable() else "?" for c in name)
    return f"{name} tertuliad"


def _check_window(messages: list[Message], target: Target) -> None:
    if target.context_window is None:
        return
    size = sum(map(len, map(_content, messages)))
    if size > target.context_window * MOST_CHARS_A_TOKEN:
        raise ProviderFailed(
            "context_window",
            f"The conversation has about {size // 4} tokens, and {target.display_name} takes"
            f" {target.context_window}. {SHORTER}",
        )
