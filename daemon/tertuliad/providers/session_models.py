"""The models that a session brought with it, as targets. They hold for that session alone."""

from __future__ import annotations

from collections.abc import Mapping

from tertulia_protocol.errors import ModelUnavailable
from tertulia_protocol.provider_config import (
    Endpoint,
    ProviderConfig,
    ProviderModelConfig,
    SessionProviders,
)
from tertuliad.providers.base import Target
from tertuliad.providers.http import Http
from tertuliad.providers.openai_chat import OpenAIChat

SESSION_NAME = "session"  # the provider that a session gave without a name
CALLED = "The session's own provider"


def session_target(model: str | None, given: SessionProviders, http: Http) -> Target | None:
    """Who answers for `model` by what the session brought; None where it brought nothing for it.

    Without a model the first of its registry is taken. Raises `ModelUnavailable`.
    """
    if given.provider:
        return _of_provider(model, given.provider, http)
    endpoints = {p.name: p for p in given.providers or []}
    declared = {f"{m.provider}/{m.id}": m for m in given.models or []}
    selected = model or next(iter(declared), "")
    entry = declared.get(selected)
    if entry is not None and (endpoint := endpoints.get(entry.provider)) is not None:
        return _of_registry(entry, _provider(entry.provider, endpoint, http))
    name, _, rest = selected.partition("/")
    if name in endpoints and rest:
        provider = _provider(name, endpoints[name], http)
        return Target(provider=provider, model=rest, display_name=rest, id=selected)
    return None


def _of_provider(model: str | None, config: ProviderConfig, http: Http) -> Target:
    wire = config.wire_model or config.model_id or model
    if not wire:
        raise ModelUnavailable(
            "The session's provider needs a model: give session.create a model, or the provider"
            " a modelId."
        )
    return Target(
        provider=_provider(SESSION_NAME, config, http, CALLED),
        model=wire,
        display_name=config.model_id or model or wire,
        context_window=config.max_prompt_tokens,
        max_output_tokens=config.max_output_tokens,
    )


def _of_registry(model: ProviderModelConfig, provider: OpenAIChat) -> Target:
    supports = _section(model.capabilities, "supports")
    limits = _section(model.capabilities, "limits")
    window = model.max_context_window_tokens or model.max_prompt_tokens
    return Target(
        provider=provider,
        model=model.wire_model or model.id,
        display_name=model.name or model.id,
        id=f"{model.provider}/{model.id}",
        context_window=window or _tokens(limits, "max_context_window_tokens"),
        max_output_tokens=model.max_output_tokens or _tokens(limits, "max_output_tokens"),
        vision=supports.get("vision") is True,
        tools=supports.get("toolCalls") is not False,
    )


def _provider(name: str, endpoint: Endpoint, http: Http, called: str | None = None) -> OpenAIChat:
    return OpenAIChat(
        name,
        endpoint.base_url,
        http,
        api_key=endpoint.api_key,
        bearer_token=endpoint.bearer_token,
        headers=endpoint.headers,
        called=called,
    )


def _section(capabilities: Mapping[str, object] | None, name: str) -> Mapping[str, object]:
    section = (capabilities or {}).get(name)
    return section if isinstance(section, dict) else {}


def _tokens(limits: Mapping[str, object], name: str) -> int | None:
    value = limits.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
