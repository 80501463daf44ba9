"""Model endpoints as a session brings them: `provider`, or `providers` with `models`.

Shapes are those of `session.create` and `session.resume` (wire names in camel case); members this
version does not know are ignored, members it knows and does not do are named by `refusal`, and a
value that no version could use is `InvalidParams` with its JSON path.
These structs hold keys. Their `repr` shows none, and only their redacted form may be stored:
it lacks keys and headers, and a config that equals its redacted form held no secret.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from tertulia_protocol import faults

NO_URL = "an address that is not a URL"
_UNSEEN = "".join(map(chr, range(33)))
"""What `urlsplit` takes off the beginning of an address."""
_NOT_COUNTED = str.maketrans("", "", "\t\r\n")
_PLAIN = re.compile(r"[^\x00-\x20#?@]*")
"""An address without a secret, as most are."""


def public_url(url: str) -> str:
    """`url` as scheme://host:port/path: user info, query and fragment may hold secrets."""
    return _read(parted(url)[0])


def parted(url: str) -> tuple[str, str, str]:
    """What may be shown of `url`, its user info, and its query, before anything sees it that
    remembers what it saw: `urlsplit` does as well. Cut as it would cut (RFC 3986; tabs and line
    ends do not count)."""
    if _PLAIN.fullmatch(url):
        return url, "", ""
    text = url.lstrip(_UNSEEN).translate(_NOT_COUNTED)
    before, _, query = text.partition("#")[0].partition("?")
    start, slashes, rest = before.partition("//")
    authority, slash, path = rest.partition("/")
    userinfo, _, place = authority.rpartition("@")
    return f"{start}{slashes}{place}{slash}{path}", userinfo, query


@functools.lru_cache(maxsize=256)
def _read(url: str) -> str:
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
    return _is_loopback(parted(url)[0])


@functools.lru_cache(maxsize=256)
def _is_loopback(url: str) -> bool:
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


def refusal(given: SessionProviders) -> str | None:
    """What of `given` this version does not do and what to give instead; None if it does all.

    Raises `InvalidParams` for a value that is wrong whatever the version does.
    """
    for path, fault in _wrong(given):
        raise faults.invalid(path, fault)
    return next(_not_done(given), None)


def _wrong(given: SessionProviders) -> Iterator[tuple[str, str]]:
    """The JSON path and the fault of each value that cannot be used."""
    if given.provider and given.providers:
        yield (
            "$.providers",
            "it cannot be combined with provider: give one provider for the whole session, or"
            " providers together with models",
        )
    if given.provider:
        yield from _wrong_address("$.provider", given.provider)
    names: set[str] = set()
    for index, named in enumerate(given.providers or []):
        at = f"$.providers[{index}]"
        if not named.name or "/" in named.name:
            yield f"{at}.name", "a name is at least one character, and none of them a slash"
        if named.name in names:
            yield f"{at}.name", f"{named.name!r} is there twice: give each a name of its own"
        names.add(named.name)
        yield from _wrong_address(at, named)
    known = ", ".join(sorted(names)) or "none given"
    for index, model in enumerate(given.models or []):
        if model.provider not in names:
            fault = f"{model.provider!r}, for {model.id!r}, is not among the providers ({known})"
            yield f"$.models[{index}].provider", fault


def _wrong_address(at: str, endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    if not is_http(endpoint.base_url):
        yield (
            f"{at}.baseUrl",
            "an http:// or https:// address with a host is expected, for example"
            " https://api.openai.com/v1",
        )


def _not_done(given: SessionProviders) -> Iterator[str]:
    if given.provider:
        yield from _not_done_by("provider", given.provider)
    for named in given.providers or []:
        yield from _not_done_by(f"providers[{named.name!r}]", named)


def _not_done_by(where: str, endpoint: Endpoint) -> Iterator[str]:
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
