"""What clients gave for single sessions: equal ones are one object, and none is another's."""

from __future__ import annotations

from tertulia_protocol.provider_config import (
    NamedProviderConfig,
    ProviderConfig,
    ProviderModelConfig,
    SessionProviders,
)
from tertuliad.sessions.credentials import Credentials


def with_key(key: str) -> SessionProviders:
    return SessionProviders(ProviderConfig(base_url="http://localhost:1/v1", api_key=key))


def test_equal_ones_are_one_object() -> None:
    kept = Credentials()
    for number in range(3):
        kept.keep(f"s{number}", with_key("one"))
    kept.keep("other", with_key("two"))
    first, *same, other = (kept.get(each) for each in ("s0", "s1", "s2", "other"))
    assert all(one is first for one in same)
    assert other == with_key("two")
    assert first == with_key("one")


def test_a_new_key_is_one_sessions_own() -> None:
    kept = Credentials()
    kept.keep("a", with_key("one"))
    kept.keep("b", with_key("one"))
    kept.keep("a", with_key("two"))
    assert (kept.get("a"), kept.get("b")) == (with_key("two"), with_key("one"))


def test_of_lists_each_takes_the_place_of_its_own() -> None:
    kept = Credentials()
    endpoints = [NamedProviderConfig(base_url="http://localhost:1", name="p")]
    models = [ProviderModelConfig(id="m", provider="p")]
    kept.keep("a", SessionProviders(providers=endpoints))
    kept.keep("a", SessionProviders(models=models))
    assert kept.get("a") == SessionProviders(providers=endpoints, models=models)
    kept.keep("a", with_key("one"))
    assert kept.get("a") == with_key("one")


def test_a_child_has_what_its_source_had_then() -> None:
    kept = Credentials()
    kept.copy("nobody", "child")
    assert "child" not in kept
    kept.keep("source", with_key("one"))
    kept.copy("source", "child")
    kept.forget("source")
    assert "source" not in kept
    assert kept.get("child") == with_key("one")
