"""Model endpoints as a session brings them: `provider`, or `providers` with `models`.

Shapes are those of `session.create` and `session.resume` (wire names in camel case); members this
version does not know are ignored, members it knows and does not do are named by `refusal`.
These structs hold keys. Their `repr` shows none, and only their redacted form may be stored:
it lacks keys and headers, and a config that equals its redacted form held no secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

NO_URL = "an address that is not a URL"


def public_url(url: str) -> str:
    """`url` as scheme://host:port/path: user info, query and fragment may hold secrets."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return NO_URL
    if not parts.scheme or not host or any(c <= " " for c in host):
        return NO_URL
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port is not None else ''}{parts.path}"


def is_http(url: str) -> bool:
    """Whether `url` is an address that HTTP can call."""
    return public_url(url).startswith(("http://", "https://"))


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine by an address that never leaves it."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where model calls go, and with which credentials. `bearer_token` wins over `api_key`."""

    base_url: str
    type: str | None = None
    wire_api: str | None = None
    transport: str | None = None
    api_key: str | None = None
    bearer_token: str | None = None
    headers: dict[str, str] | None = None
    has_bearer_token_provider: bool | None = None
    api_key_command: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({public_url(self.base_url)!r})"

    def redacted(self) -> Self:
        """The same endpoint without anything that may be secret."""
        return msgspec.structs.replace(
            self,
            base_url=public_url(self.base_url),
            api_key=None,
            bearer_token=None,
            headers=None,
            api_key_command=None,
        )


class ProviderConfig(Endpoint, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The one provider of a session; the model on its wire is `wire_model`, else `model_id`."""

    model_id: str | None = None
    wire_model: str | None = None
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None


class NamedProviderConfig(Endpoint, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An endpoint of a session's registry. `name` holds no slash."""

    name: str


class ProviderModelConfig(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """A model of a session's registry, selected as `provider/id`; limits are in tokens."""

    id: str
    provider: str
    wire_model: str | None = None
    model_id: str | None = None
    name: str | None = None
    max_prompt_tokens: int | None = None
    max_context_window_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: dict[str, Any] | None = None


class SessionProviders(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """All that one session brought. `provider` and `providers` exclude each other."""

    provider: ProviderConfig | None = None
    providers: list[NamedProviderConfig] | None = None
    models: list[ProviderModelConfig] | None = None

    def __bool__(self) -> bool:
        return bool(self.provider or self.providers or self.models)


def redacted(given: SessionProviders) -> SessionProviders:
    """The form of `given` that may be stored."""
    return SessionProviders(
        given.provider.redacted() if given.provider else None,
        [p.redacted() for p in given.providers] if given.providers else given.providers,
        given.models,
    )


def refusal(config: SessionProviders | ProviderConfig | NamedProviderConfig) -> str | None:
    """What of `config` this version does not do and what to give instead; None if it does all."""
    faults = _session_faults(config) if isinstance(config, SessionProviders) else _faults(config)
    return next(faults, None)


def _session_faults(given: SessionProviders) -> Iterator[str]:
    if given.provider and given.providers:
        yield (
            "provider and providers cannot be combined: give one provider for the whole session,"
            " or providers together with models"
        )
    if given.provider:
        yield from _faults(given.provider)
    names: set[str] = set()
    for named in given.providers or []:
        if named.name in names:
            yield f"providers names {named.name!r} twice: give each a name of its own"
        names.add(named.name)
        yield from _faults(named)
    for model in given.models or []:
        if model.provider not in names:
            yield (
                f"models: {model.id!r} belongs to provider {model.provider!r}, which is not among"
                f" providers ({', '.join(sorted(names)) or 'none given'})"
            )


def _faults(endpoint: ProviderConfig | NamedProviderConfig) -> Iterator[str]:
    where = "provider"
    if isinstance(endpoint, NamedProviderConfig):
        where = f"providers[{endpoint.name!r}]"
        if not endpoint.name or "/" in endpoint.name:
            yield f"{where}.name must be at least one character, and none of them a slash"
    if not is_http(endpoint.base_url):
        yield (
            f"{where}.baseUrl must be an http:// or https:// address with a host,"
            " for example https://api.openai.com/v1"
        )
    if endpoint.type not in (None, "openai"):
        yield (
            f"{where}.type {endpoint.type!r} is not supported: use type 'openai' with the baseUrl"
            " of an OpenAI-compatible chat completions endpoint"
        )
    if endpoint.wire_api not in (None, "completions"):
        yield f"{where}.wireApi {endpoint.wire_api!r} is not supported: use 'completions'"
    if endpoint.transport not in (None, "http"):
        yield f"{where}.transport {endpoint.transport!r} is not supported: use 'http'"
    if endpoint.has_bearer_token_provider:
        yield (
            f"{where}: tokens on demand (hasBearerTokenProvider) are not supported:"
            " give the token as bearerToken, or the key as apiKey"
        )
    if endpoint.api_key_command is not None:
        yield f"{where}.apiKeyCommand is not supported: run it yourself and give apiKey"
