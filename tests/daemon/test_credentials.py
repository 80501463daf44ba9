"""What clients gave for single sessions: equal ones are one object, and none is another's."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import cast

import pytest

from tertulia_protocol.provider_config import (
    NamedProviderConfig,
    ProviderConfig,
    SessionProviders,
    redacted,
)
from tertuliad import limits
from tertuliad.providers.base import Provider, Target
from tertuliad.sessions.credentials import Credentials
from tests.support.pair import pair

BORN = 1
"""When the sessions were made."""


def with_key(key: str) -> SessionProviders:
    return SessionProviders(ProviderConfig(base_url="http://localhost:1/v1", api_key=key))


def given(kept: Credentials, session_id: str) -> SessionProviders:
    found = kept.of(session_id, BORN)
    assert found is not None
    return found.given


def target(name: str) -> Target:
    return Target(provider=cast(Provider, None), model=name, display_name=name)


def test_equal_ones_are_kept_once() -> None:
    kept = Credentials()
    for number in range(3):
        kept.keep(f"s{number}", BORN, with_key("one"))
    kept.keep("other", BORN, with_key("two"))
    assert kept.of("s0", BORN) is kept.of("s1", BORN) is kept.of("s2", BORN)
    assert given(kept, "other") == with_key("two")
    assert given(kept, "s0") == with_key("one")


def test_targets_are_kept_and_no_more_than_their_bound() -> None:
    """A target remembers what its server refuses: it is not asked for it again."""
    kept = Credentials()
    kept.keep("a", BORN, with_key("one"))
    kept.keep("b", BORN, with_key("one"))
    a, b = kept.of("a", BORN), kept.of("b", BORN)
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
    kept.keep(
        "a", BORN, SessionProviders(providers=[NamedProviderConfig(name="p", base_url="http://x")])
    )
    a = kept.of("a", BORN)
    assert a is not None
    a.found("other", target("other"))
    assert a.target("other") is None


def test_nothing_is_left_of_what_the_last_session_had() -> None:
    kept = Credentials()
    kept.keep("a", BORN, with_key("one"))
    held = weakref.ref(kept.of("a", BORN) or kept)
    kept.copy(kept.of("a", BORN), "b", BORN)
    kept.forget("a")
    assert held() is kept.of("b", BORN)
    kept.keep("c", BORN, with_key("two"))
    kept.forget("b")
    assert held() is None


def test_a_new_key_is_one_sessions_own() -> None:
    kept = Credentials()
    kept.keep("a", BORN, with_key("one"))
    kept.keep("b", BORN, with_key("one"))
    kept.keep("a", BORN, with_key("two"))
    assert (given(kept, "a"), given(kept, "b")) == (with_key("two"), with_key("one"))


@pytest.mark.anyio
@pytest.mark.parametrize("again", ["keys", "models", "both"])
async def test_a_resume_after_a_restart_brings_keys_and_keeps_the_models(
    tmp_path: Path, again: str
) -> None:
    endpoint = {"name": "p", "baseUrl": "http://127.0.0.1:1/v1", "apiKey": "sk-1"}
    models = [{"id": "big", "provider": "p", "wireModel": "gpt-4o"}]
    brings = {
        "keys": {"providers": [endpoint]},
        "models": {"models": models},
        "both": {"providers": [endpoint], "models": models},
    }[again]
    async with pair(tmp_path) as (client, room):
        await client.create("a", model="p/big", providers=[endpoint], models=models)
        await client.turn("a", "one")
        first = room.models.given[-1]
    async with pair(tmp_path) as (client, room):
        await client.request("session.resume", {"sessionId": "a", **brings})
        await client.turn("a", "two")
        assert first is not None
        assert room.models.given == [redacted(first) if again == "models" else first]


def test_a_child_has_what_its_source_had_then() -> None:
    kept = Credentials()
    kept.copy(kept.of("nobody", BORN), "child", BORN)
    assert "child" not in kept
    kept.keep("source", BORN, with_key("one"))
    kept.copy(kept.of("source", BORN), "child", BORN)
    kept.forget("source")
    assert "source" not in kept
    assert given(kept, "child") == with_key("one")


def test_another_session_of_the_same_id_has_none_of_it() -> None:
    kept = Credentials()
    kept.keep("a", BORN, with_key("first"))
    assert kept.of("a", BORN + 1) is None
    kept.keep("a", BORN + 1, with_key("second"))
    assert kept.of("a", BORN) is None
    found = kept.of("a", BORN + 1)
    assert found is not None
    assert found.given == with_key("second")
