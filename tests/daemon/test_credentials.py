"""What clients gave for single sessions: equal ones are one object, and none is another's."""

from __future__ import annotations

import weakref
from typing import cast

from tertulia_protocol.provider_config import (
    NamedProviderConfig,
    ProviderConfig,
    ProviderModelConfig,
    SessionProviders,
)
from tertuliad import limits
from tertuliad.providers.base import Provider, Target
from tertuliad.sessions.credentials import Credentials


def with_key(key: str) -> SessionProviders:
    return SessionProviders(ProviderConfig(base_url="http://localhost:1/v1", api_key=key))


def given(kept: Credentials, session_id: str) -> SessionProviders:
    found = kept.of(session_id)
    assert found is not None
    return found.given


def target(name: str) -> Target:
    return Target(provider=cast(Provider, None), model=name, display_name=name)


def test_equal_ones_are_kept_once() -> None:
    kept = Credentials()
    for number in range(3):
        kept.keep(f"s{number}", with_key("one"))
    kept.keep("other", with_key("two"))
    assert kept.of("s0") is kept.of("s1") is kept.of("s2")
    assert given(kept, "other") == with_key("two")
    assert given(kept, "s0") == with_key("one")


def test_targets_are_kept_and_no_more_than_their_bound() -> None:
    """A target remembers what its server refuses: it is not asked for it again."""
    kept = Credentials()
    kept.keep("a", with_key("one"))
    kept.keep("b", with_key("one"))
    a, b = kept.of("a"), kept.of("b")
    assert a is not None
    assert b is not None
    first = target("m0")
    a.found("m0", first)
    assert b.target("m0") is first
    assert b.target("m1") is None
    for number in range(1, limits.SESSION_TARGETS + 1):
        a.found(f"m{number}", target(f"m{number}"))
    assert a.target("m0") is None


def test_what_depends_on_more_than_what_was_given_is_found_out_anew() -> None:
    kept = Credentials()
    kept.keep("a", SessionProviders(models=[ProviderModelConfig(id="m", provider="p")]))
    a = kept.of("a")
    assert a is not None
    a.found("other", target("other"))
    assert a.target("other") is None


def test_nothing_is_left_of_what_the_last_session_had() -> None:
    kept = Credentials()
    kept.keep("a", with_key("one"))
    held = weakref.ref(kept.of("a") or kept)
    kept.copy("a", "b")
    kept.forget("a")
    assert held() is kept.of("b")
    kept.keep("c", with_key("two"))
    kept.forget("b")
    assert held() is None


def test_a_new_key_is_one_sessions_own() -> None:
    kept = Credentials()
    kept.keep("a", with_key("one"))
    kept.keep("b", with_key("one"))
    kept.keep("a", with_key("two"))
    assert (given(kept, "a"), given(kept, "b")) == (with_key("two"), with_key("one"))


def test_of_lists_each_takes_the_place_of_its_own() -> None:
    kept = Credentials()
    endpoints = [NamedProviderConfig(base_url="http://localhost:1", name="p")]
    models = [ProviderModelConfig(id="m", provider="p")]
    kept.keep("a", SessionProviders(providers=endpoints))
    kept.keep("a", SessionProviders(models=models))
    assert given(kept, "a") == SessionProviders(providers=endpoints, models=models)
    kept.keep("a", with_key("one"))
    assert given(kept, "a") == with_key("one")


def test_a_child_has_what_its_source_had_then() -> None:
    kept = Credentials()
    kept.copy("nobody", "child")
    assert "child" not in kept
    kept.keep("source", with_key("one"))
    kept.copy("source", "child")
    kept.forget("source")
    assert "source" not in kept
    assert given(kept, "child") == with_key("one")
