"""What a session may be created with: standings, refusals, merging, and what reaches the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia_protocol import schema
from tertulia_protocol.config import (
    FIELDS,
    CreateParams,
    ResumeParams,
    SessionConfig,
    given_providers,
    merged,
    offered_tools,
    refusal,
    stored,
)

DATA = Path(__file__).parent / "data"
RECORDED = [
    request["params"]
    for request in map(json.loads, (DATA / "recorded_requests.jsonl").read_text().splitlines())
    if request["method"] in ("session.create", "session.resume")
]

ALWAYS_SENT = {
    "sessionId": "s",
    "toolFilterPrecedence": "excluded",
    "requestPermission": True,
    "requestUserInput": False,
    "requestElicitation": False,
    "requestExitPlanMode": False,
    "requestAutoModeSwitch": False,
    "hooks": False,
    "includeSubAgentStreamingEvents": True,
    "envValueMode": "direct",
}
EMPTY_MODE = {
    **ALWAYS_SENT,
    "enableSessionTelemetry": False,
    "mcpOAuthTokenStorage": "in-memory",
    "skipEmbeddingRetrieval": True,
    "embeddingCacheStorage": "in-memory",
    "enableOnDemandInstructionDiscovery": False,
    "enableFileHooks": False,
    "enableHostGitOperations": False,
    "enableSessionStore": False,
    "enableSkills": False,
    "memory": {"enabled": False},
    "customAgentsLocalOnly": True,
    "isExperimentalMode": False,
    "availableTools": ["builtin:ask_user"],
    "systemMessage": {
        "mode": "customize",
        "sections": {"environment_context": {"action": "remove"}},
    },
}
"""What section 6 of the wire's reference lists for clients in the mode "empty"."""


def config(**members: Any) -> SessionConfig:
    """A config by its names on the wire."""
    return msgspec.json.decode(msgspec.json.encode(members), type=SessionConfig)


def test_every_field_that_is_decoded_has_a_standing() -> None:
    decoded = {
        name for kind in (CreateParams, ResumeParams) for name in kind.__struct_encode_fields__
    }
    assert decoded == {name for name, field in FIELDS.items() if field.standing != "ignored"}


def test_fields_of_one_method_are_marked() -> None:
    create, resume = (set(k.__struct_encode_fields__) for k in (CreateParams, ResumeParams))
    marked = {name: field.on for name, field in FIELDS.items() if field.standing == "used"}
    assert create ^ resume == {name for name, on in marked.items() if on}
    assert all(marked[name] == "create" for name in create - resume)


def test_every_field_has_a_note_that_fits_its_table() -> None:
    assert all(field.note and "|" not in field.note for field in FIELDS.values())
    assert all(f"| `{name}` |" in schema.session_fields() for name in FIELDS)


@pytest.mark.parametrize("params", [*RECORDED, ALWAYS_SENT, EMPTY_MODE])
@pytest.mark.parametrize("kind", [CreateParams, ResumeParams])
def test_what_the_sdks_send_by_default_is_taken(
    kind: type[SessionConfig], params: dict[str, Any]
) -> None:
    assert refusal(msgspec.json.decode(msgspec.json.encode(params), type=kind)) is None


def test_null_stands_for_every_field_that_is_not_given() -> None:
    nothing: dict[str, Any] = dict.fromkeys(FIELDS)
    assert config(**nothing) == SessionConfig()
    created = msgspec.json.decode(msgspec.json.encode(nothing), type=CreateParams)
    assert created == CreateParams()
    assert refusal(created) is None


@pytest.mark.parametrize("value", [True, 1.5, "text", [{}], {"deep": {"er": [None]}}])
def test_an_ignored_field_takes_anything(value: Any) -> None:
    ignored = {name: value for name, field in FIELDS.items() if field.standing == "ignored"}
    assert config(**ignored) == SessionConfig()


HTTP = {"baseUrl": "http://127.0.0.1:1/v1"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hooks": True}, "hooks"),
    ({"mcpServers": {"m": {"command": "x"}}}, "mcpServers"),
    ({"customAgents": [{"name": "a", "prompt": "p"}]}, "customAgents"),
    ({"agent": "a"}, "agent"),
    ({"cloud": {}}, "cloud"),
    ({"cloud": {"repository": {}}}, "cloud"),
    ({"remoteSession": "on"}, "remoteSession"),
    ({"remoteSession": "export"}, "remoteSession"),
    ({"toolFilterPrecedence": "available"}, "toolFilterPrecedence"),
    ({"skillDirectories": ["/s"]}, "skillDirectories"),
    ({"hasSkillProvider": True}, "hasSkillProvider"),
    ({"instructionDirectories": ["/i"]}, "instructionDirectories"),
    ({"organizationCustomInstructions": "be kind"}, "organizationCustomInstructions"),
    ({"pluginDirectories": ["/p"]}, "pluginDirectories"),
    ({"agentDirectories": ["/a"]}, "agentDirectories"),
    ({"hookDirectories": ["/h"]}, "hookDirectories"),
    ({"enableManagedSettings": True}, "enableManagedSettings"),
    (
        {"systemMessage": {"mode": "customize", "sections": {"tone": {"action": "transform"}}}},
        "systemMessage.sections.tone",
    ),
    ({"provider": {**HTTP, "type": "anthropic"}}, "provider.type"),
    ({"provider": {**HTTP, "type": "azure"}}, "provider.type"),
    ({"provider": {**HTTP, "wireApi": "responses"}}, "provider.wireApi"),
    ({"provider": {**HTTP, "transport": "websockets"}}, "provider.transport"),
    ({"provider": {**HTTP, "hasBearerTokenProvider": True}}, "provider"),
]


@pytest.mark.parametrize(("members", "named"), REFUSED)
def test_what_is_not_done_is_refused_by_name(members: dict[str, Any], named: str) -> None:
    said = refusal(config(**members))
    assert said is not None
    assert said.startswith(named)
    assert said.endswith(".")


def test_the_refusals_cover_the_table() -> None:
    refused = {name for name, field in FIELDS.items() if field.standing == "refused"}
    assert refused <= {name for members, _ in REFUSED for name in members}


@pytest.mark.parametrize(
    "members",
    [
        {"hooks": False, "mcpServers": {}, "customAgents": [], "agent": "", "skillDirectories": []},
        {"remoteSession": "off", "toolFilterPrecedence": "excluded"},
        {"provider": {**HTTP, "type": "openai", "wireApi": "completions", "transport": "http"}},
        {"providers": [{**HTTP, "name": "n"}], "models": [{"id": "m", "provider": "n"}]},
        {"systemMessage": {"mode": "customize", "sections": {"tone": {"action": "preserve"}}}},
    ],
)
def test_a_field_that_asks_for_nothing_new_is_not_refused(members: dict[str, Any]) -> None:
    assert refusal(config(**members)) is None


# What reaches the disk

SECRET = "5ecret"
"""Put into every place that can hold a secret; nothing else may contain it."""

secret = st.text(alphabet="abc/+=", max_size=4).map(lambda tail: SECRET + tail)
word = st.text(alphabet="xyz-", min_size=1, max_size=5)
headers = st.dictionaries(word, secret, max_size=2)
url = st.one_of(
    st.just("http://127.0.0.1:8080/v1"),
    secret.map(lambda s: f"https://user:{s.replace('/', '-')}@example.test/v1"),
    secret.map(lambda s: f"https://example.test/v1?key={s}#{s}"),
)
endpoint: dict[str, st.SearchStrategy[Any]] = {
    "apiKey": secret,
    "bearerToken": secret,
    "headers": headers,
    "apiKeyCommand": secret | st.lists(secret, max_size=2),
    "type": st.just("openai"),
    "somethingNew": secret,
}
provider = st.fixed_dictionaries({"baseUrl": url}, optional={**endpoint, "wireModel": word})
named_provider = st.fixed_dictionaries({"baseUrl": url, "name": word}, optional=endpoint)
config_members = st.fixed_dictionaries(
    {},
    optional={
        "model": word,
        "name": word,
        "clientName": word,
        "streaming": st.booleans(),
        "reasoningEffort": st.sampled_from(["low", "high"]),
        "workingDirectory": word,
        "systemMessage": st.fixed_dictionaries(
            {"mode": st.sampled_from(["append", "replace", "customize"])},
            optional={
                "content": word,
                "sections": st.dictionaries(
                    word, st.fixed_dictionaries({"action": st.just("append"), "content": word})
                ),
            },
        ),
        "tools": st.lists(
            st.fixed_dictionaries(
                {"name": word},
                optional={"parameters": st.just({"type": "object"}), "metadata": headers},
            ),
            max_size=2,
        ),
        "availableTools": st.lists(word, max_size=2),
        "excludedTools": st.lists(word, max_size=2),
        "modelCapabilities": st.just({"limits": {"max_output_tokens": 12}}),
        "provider": provider,
        "providers": st.lists(named_provider, max_size=2),
        "models": st.lists(st.fixed_dictionaries({"id": word, "provider": word}), max_size=2),
        "gitHubToken": secret,
        "capi": headers,
        "sandboxConfig": headers,
        "managedSettings": headers,
        "authClientIdMetadataUrl": secret,
        "mcpServers": st.dictionaries(
            word,
            st.fixed_dictionaries({"command": secret, "env": headers, "headers": headers}),
            max_size=2,
        ),
        "customAgents": st.lists(st.fixed_dictionaries({"mcpServers": headers}), max_size=2),
        "cloud": headers,
        "requestedEnvironmentVariables": headers,
    },
)


@settings(deadline=None)
@given(members=config_members)
def test_no_secret_reaches_the_disk_or_a_repr(members: dict[str, Any]) -> None:
    given_config = config(**members)
    kept = stored(given_config)
    on_disk = msgspec.json.encode(kept).decode()
    assert SECRET not in on_disk
    assert SECRET not in f"{given_config!r} {kept!r} {given_providers(given_config)!r}"


@settings(deadline=None)
@given(members=config_members)
def test_what_is_stored_comes_back_the_same(members: dict[str, Any]) -> None:
    kept = stored(config(**members))
    again = msgspec.json.decode(msgspec.json.encode(kept), type=SessionConfig)
    assert again == kept
    assert stored(again) == kept


@settings(deadline=None)
@given(members=config_members)
def test_what_matters_later_is_stored(members: dict[str, Any]) -> None:
    before, kept = config(**members), stored(config(**members))
    for name in ("model", "name", "streaming", "system_message", "working_directory", "tools"):
        assert getattr(kept, name) == getattr(before, name)
    assert (kept.provider is None) is (before.provider is None)


def test_params_of_a_call_are_not_stored_with_the_config() -> None:
    params = ResumeParams(session_id="s", model="m", disable_resume=True)
    assert stored(params) == SessionConfig(model="m")
    assert type(stored(params)) is SessionConfig


# A resume


@settings(deadline=None)
@given(old=config_members, new=config_members)
def test_a_resume_replaces_what_it_gives_and_keeps_the_rest(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    before, change = config(**old), config(**new)
    after = merged(before, change)
    endpoints = {"provider", "providers", "models"}
    for name in set(SessionConfig.__struct_fields__) - endpoints:
        given_now = getattr(change, name)
        assert getattr(after, name) == (getattr(before, name) if given_now is None else given_now)
    assert merged(before, SessionConfig()) == before


def test_a_value_that_is_empty_or_false_replaces_too() -> None:
    before = config(streaming=True, tools=[{"name": "t"}], excludedTools=["a"])
    after = merged(before, config(streaming=False, tools=[], excludedTools=[]))
    assert (after.streaming, after.tools, after.excluded_tools) == (False, [], [])


def test_one_way_of_naming_endpoints_puts_the_other_out() -> None:
    one = config(provider=HTTP)
    many = config(providers=[{**HTTP, "name": "n"}], models=[{"id": "m", "provider": "n"}])
    assert merged(one, many) == many
    assert merged(many, one) == one
    assert refusal(merged(one, many)) is None
    assert refusal(merged(many, one)) is None


# Tools

FILTERS: list[tuple[list[str] | None, list[str] | None, list[str]]] = [
    (None, None, ["read", "read_all", "write"]),
    (None, [], ["read", "read_all", "write"]),
    ([], None, []),
    (["read"], None, ["read"]),
    (["custom:write", "read"], None, ["read", "write"]),
    (["custom:*"], None, ["read", "read_all", "write"]),
    (["custom:read*"], None, ["read", "read_all"]),
    (["builtin:*", "mcp:read"], None, []),
    (None, ["write"], ["read", "read_all"]),
    (None, ["custom:*"], []),
    (None, ["builtin:read", "mcp:*"], ["read", "read_all", "write"]),
    (["read", "write"], ["write"], ["read"]),
    (["*"], ["read*"], ["write"]),
]


@pytest.mark.parametrize(("available", "excluded", "names"), FILTERS)
def test_filters_choose_what_the_model_is_told_of(
    available: list[str] | None, excluded: list[str] | None, names: list[str]
) -> None:
    tools = [{"name": name} for name in ("read", "read_all", "write")]
    chosen = config(tools=tools, availableTools=available, excludedTools=excluded)
    assert [tool.name for tool in offered_tools(chosen)] == names


def test_the_main_agents_exclusions_count_as_well() -> None:
    tools = [{"name": "read"}, {"name": "write"}]
    chosen = config(tools=tools, defaultAgent={"excludedTools": ["read"]})
    assert [tool.name for tool in offered_tools(chosen)] == ["write"]


def test_a_session_without_tools_offers_none() -> None:
    assert offered_tools(SessionConfig(available_tools=["*"])) == []
