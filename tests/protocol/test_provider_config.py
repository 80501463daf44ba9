"""Model endpoints as sessions bring them: what is taken, what is refused, what may be stored."""

from __future__ import annotations

import sys
from urllib.parse import SplitResult, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia_protocol import provider_config
from tertulia_protocol.errors import InvalidParams
from tertulia_protocol.provider_config import (
    NO_URL,
    NamedProviderConfig,
    ProviderConfig,
    SessionProviders,
    is_loopback,
    parted,
    public_url,
    redacted,
    refusal,
)

KEY = "sk-protocol-secret-1"
FULL = {
    "provider": {
        "type": "openai",
        "wireApi": "completions",
        "transport": "http",
        "baseUrl": f"https://me:{KEY}@models.example:8443/v1?key={KEY}#x",
        "apiKey": KEY,
        "bearerToken": KEY,
        "headers": {"x-key": KEY},
        "modelId": "m",
        "wireModel": "w",
        "maxPromptTokens": 100,
        "maxOutputTokens": 10,
        "hasBearerTokenProvider": False,
        "modelProvider": {"unknown": [1]},
        "azure": {"apiVersion": "1"},
    }
}


def parsed(given: object) -> SessionProviders:
    return msgspec.convert(given, SessionProviders)


def named(**members: object) -> dict[str, object]:
    return {"name": "p", "baseUrl": "http://h/v1", **members}


def test_all_members_are_taken_and_unknown_ones_ignored() -> None:
    provider = parsed(FULL).provider
    assert provider is not None
    assert (provider.wire_model, provider.model_id, provider.max_prompt_tokens) == ("w", "m", 100)
    assert refusal(parsed(FULL)) is None


def test_nulls_are_as_if_absent() -> None:
    members = ("type", "wireApi", "transport", "apiKey", "headers", "modelId", "apiKeyCommand")
    given = {"provider": {"baseUrl": "http://h/v1"} | dict.fromkeys(members)}
    assert parsed(given) == parsed({"provider": {"baseUrl": "http://h/v1"}})
    assert refusal(parsed(given | {"providers": None, "models": None})) is None


def test_the_stored_form_holds_no_secret_and_keeps_the_rest() -> None:
    stored = redacted(parsed(FULL))
    wire = msgspec.json.encode(stored)
    assert KEY.encode() not in wire
    assert stored.provider == ProviderConfig(
        base_url="https://models.example:8443/v1",
        type="openai",
        wire_api="completions",
        transport="http",
        model_id="m",
        wire_model="w",
        max_prompt_tokens=100,
        max_output_tokens=10,
        has_bearer_token_provider=False,
    )
    assert redacted(stored) == stored
    assert msgspec.json.decode(wire, type=SessionProviders) == stored


def test_the_stored_form_of_a_registry_holds_no_secret() -> None:
    given = parsed(
        {
            "providers": [named(apiKey=KEY, bearerToken=KEY, headers={"a": KEY})],
            "models": [{"id": "m", "provider": "p", "name": "M"}],
        }
    )
    stored = redacted(given)
    assert KEY.encode() not in msgspec.json.encode(stored)
    assert stored.models == given.models
    assert stored.providers == [NamedProviderConfig(name="p", base_url="http://h/v1")]


def test_a_repr_shows_no_secret() -> None:
    assert KEY not in repr(parsed(FULL))
    assert KEY not in repr(parsed({"providers": [named(apiKey=KEY)]}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"provider": {"baseUrl": "http://h", "type": "azure"}}, ["azure", "type 'openai'"]),
        ({"provider": {"baseUrl": "http://h", "type": "anthropic"}}, ["anthropic"]),
        ({"provider": {"baseUrl": "http://h", "wireApi": "responses"}}, ["'completions'"]),
        ({"provider": {"baseUrl": "http://h", "transport": "websockets"}}, ["'http'"]),
        ({"provider": {"baseUrl": "http://h", "hasBearerTokenProvider": True}}, ["bearerToken"]),
        ({"provider": {"baseUrl": "http://h", "apiKeyCommand": ["x"]}}, ["apiKeyCommand"]),
        ({"providers": [named(type="azure")]}, ["providers['p'].type"]),
    ],
)
def test_what_is_not_done_is_refused_with_what_to_give_instead(
    given: object, words: list[str]
) -> None:
    message = refusal(parsed(given)) or ""
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("given", "path", "word"),
    [
        ({"provider": {"baseUrl": "models.example"}}, "$.provider.baseUrl", "https://"),
        ({"provider": {"baseUrl": f"ftp://{KEY}"}}, "$.provider.baseUrl", "https://"),
        ({"provider": {"baseUrl": "", "type": "azure"}}, "$.provider.baseUrl", "https://"),
        ({"providers": [named(), named(name="q", baseUrl="x")]}, "$.providers[1].baseUrl", "http"),
        (
            {"provider": {"baseUrl": "http://h"}, "providers": [named()]},
            "$.providers",
            "cannot be combined",
        ),
        ({"providers": [named(name="a/b")]}, "$.providers[0].name", "slash"),
        ({"providers": [named(name="")]}, "$.providers[0].name", "one character"),
        ({"providers": [named(), named()]}, "$.providers[1].name", "twice"),
        (
            {"models": [{"id": "m", "provider": "q"}], "providers": [named()]},
            "$.models[0].provider",
            "(p)",
        ),
    ],
)
def test_a_value_that_nobody_could_use_is_named_by_its_path(
    given: object, path: str, word: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        refusal(parsed(given))
    assert caught.value.data == {"kind": "invalid_params", "path": path}
    assert caught.value.message.startswith(f"{path}: ")
    assert word in caught.value.message
    assert KEY not in caught.value.message


def test_a_provider_without_an_address_is_a_fault_of_shape() -> None:
    with pytest.raises(msgspec.ValidationError, match="baseUrl"):
        parsed({"provider": {"type": "openai"}})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h:1/v1?k=1#f", "https://h:1/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("http://[::1", NO_URL),
        ("http://h:port/", NO_URL),
        ("http://a b/", NO_URL),
        ("/v1", NO_URL),
        ("", NO_URL),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown


def as_urlsplit_cuts(url: str) -> tuple[str, str]:
    """What is to be shown of `url`, and its user info, by the library that reads what is left."""
    try:
        parts = urlsplit(url)
        userinfo = parts.netloc.rpartition("@")[0]
        if not parts.scheme or not parts.hostname or any(c <= " " for c in parts.hostname):
            return NO_URL, userinfo
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return NO_URL, ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}", userinfo


URLS = st.lists(
    st.sampled_from(
        ["http", "https", ":", "//", "/", "me", "@", "h", "?", "#", "1", "\t", "\n", " "]
    )
).map("".join)


@given(URLS | st.builds("http://{}".format, URLS))
def test_an_address_is_cut_where_the_library_cuts_it(url: str) -> None:
    shown, userinfo = as_urlsplit_cuts(url)
    assert public_url(url) == shown
    if shown != NO_URL:
        assert parted(url)[1] == userinfo


def test_nothing_that_remembers_addresses_sees_what_may_be_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def watched(url: str) -> SplitResult:
        seen.append(url)
        return urlsplit(url)

    monkeypatch.setattr(provider_config, "urlsplit", watched)
    for function in (public_url, is_loopback):
        for number in range(3):
            url = f"\x01http:/\t/me:{KEY}@{function.__name__}.example{number}/v1?k={KEY}#{KEY}"
            held = sys.getrefcount(url)
            function(url)
            assert sys.getrefcount(url) == held, "it is kept somewhere"
    assert len(seen) == 6
    assert not [url for url in seen if KEY in url]


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:1/", True),
        ("http://127.9.9.9/", True),
        ("http://[::1]/", True),
        ("http://localhost/", True),
        ("http://me.localhost/", True),
        ("http://10.0.0.1/", False),
        ("http://localhost.example/", False),
        ("http://127.0.0.1.example/", False),
        ("http://127.0.0.1@example/", False),
        ("nothing", False),
        ("http://[::1", False),
    ],
)
def test_this_machine_is_known_by_its_own_addresses(url: str, local: bool) -> None:
    assert is_loopback(url) is local
