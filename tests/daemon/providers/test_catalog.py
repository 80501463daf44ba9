"""Which provider answers for a name, and what is listed: over real endpoints."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import anyio
import msgspec
import pytest

from tertulia_protocol.errors import ModelUnavailable
from tertulia_protocol.models import ModelInfo
from tertulia_protocol.provider_config import (
    NamedProviderConfig,
    ProviderConfig,
    ProviderModelConfig,
    SessionProviders,
)
from tertuliad.config import ModelSettings, ProviderSettings, Settings
from tertuliad.providers.base import Done, Message, ModelRequest, Target
from tertuliad.providers.catalog import Catalog
from tertuliad.providers.http import Http
from tertuliad.providers.openai_chat import OpenAIChat
from tests.support.scripted_model import ScriptedModel

pytestmark = pytest.mark.anyio
KEY = "sk-catalog-secret-42"
BOUND_S = 20


class EmbeddedStub:
    """Stands for the embedded model, whose own tests run it."""

    model_id = "local/tiny"

    def __init__(self, http: Http, fault: str | None = None) -> None:
        self.fault = fault
        self.chat = OpenAIChat("local", "http://127.0.0.1:9/v1", http)

    def problem(self) -> str | None:
        return self.fault

    def target(self) -> Target:
        return Target(
            provider=self.chat, model="tiny", id=self.model_id, display_name="Tiny", tools=False
        )


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(models=["m1", "m2"], api_key=KEY) as model:
        yield model


@pytest.fixture
def closed_url() -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


def endpoint(name: str, base_url: str, *models: str | ModelSettings) -> ProviderSettings:
    declared = tuple(ModelSettings(m) if isinstance(m, str) else m for m in models)
    return ProviderSettings(
        name=name, base_url=base_url, source="test", api_key_env="KEY", models=declared
    )


def settings(*providers: ProviderSettings, **more: object) -> Settings:
    return msgspec.structs.replace(Settings(providers={p.name: p for p in providers}), **more)


def catalog(http: Http, given: Settings, embedded: EmbeddedStub | None = None) -> Catalog:
    return Catalog(given, http, embedded, environ={"KEY": KEY})


async def answer(target: Target) -> None:
    with anyio.fail_after(BOUND_S):
        request = ModelRequest(model=target.model, messages=[Message("user", "[[fake]]")])
        items = [item async for item in target.provider.stream(request)]
    assert isinstance(items[-1], Done)


async def listed(catalog: Catalog) -> list[ModelInfo]:
    with anyio.fail_after(BOUND_S):
        return await catalog.list()


# What a session brought


async def test_a_sessions_provider_takes_the_sessions_model(
    http: Http, model: ScriptedModel
) -> None:
    given = SessionProviders(ProviderConfig(base_url=model.base_url, api_key=KEY))
    target = await catalog(http, Settings()).resolve("some-model", given)
    assert target.model == "some-model"
    await answer(target)
    assert model.chats[0].body["model"] == "some-model"


@pytest.mark.parametrize(
    ("config", "wire", "shown"),
    [
        (ProviderConfig(base_url="http://h/v1", wire_model="w", model_id="i"), "w", "i"),
        (ProviderConfig(base_url="http://h/v1", wire_model="w"), "w", "session"),
        (ProviderConfig(base_url="http://h/v1", model_id="i"), "i", "i"),
        (ProviderConfig(base_url="http://h/v1"), "session", "session"),
    ],
)
async def test_the_wire_model_is_the_most_exact_name_and_the_models_own_the_one_that_is_shown(
    http: Http, config: ProviderConfig, wire: str, shown: str
) -> None:
    target = await catalog(http, Settings()).resolve("session", SessionProviders(config))
    assert (target.model, target.display_name) == (wire, shown)


async def test_a_sessions_provider_wins_over_all_that_is_configured(http: Http) -> None:
    configured = settings(endpoint("a", "http://a/v1", "m"), default_model="a/m")
    given = SessionProviders(ProviderConfig(base_url="http://b/v1"))
    target = await catalog(http, configured).resolve("a/m", given)
    assert repr(target.provider) == "OpenAIChat('session', 'http://b/v1/chat/completions')"
    with pytest.raises(ModelUnavailable, match="needs a model"):
        await catalog(http, configured).resolve(None, given)


async def test_a_registry_is_selected_by_provider_and_id(http: Http) -> None:
    given = SessionProviders(
        providers=[NamedProviderConfig(name="p", base_url="http://p/v1")],
        models=[
            ProviderModelConfig(
                id="big",
                provider="p",
                wire_model="big-2",
                max_context_window_tokens=9000,
                capabilities={"supports": {"vision": True}, "limits": {"max_output_tokens": 5}},
            )
        ],
    )
    cat = catalog(http, settings(endpoint("a", "http://a/v1", "m")))
    target = await cat.resolve("p/big", given)
    assert (target.model, target.context_window, target.vision) == ("big-2", 9000, True)
    assert target.max_output_tokens == 5
    assert (await cat.resolve(None, given)).model == "big-2"
    assert (await cat.resolve("p/undeclared", given)).model == "undeclared"
    assert (await cat.resolve("a/m", given)).provider.name == "a"  # the registry only adds


async def test_what_this_version_does_not_do_is_refused(http: Http) -> None:
    given = SessionProviders(ProviderConfig(base_url="http://h", type="azure"))
    with pytest.raises(ModelUnavailable, match="azure"):
        await catalog(http, Settings()).resolve("m", given)


# What is configured


async def test_a_configured_model_is_named_with_or_without_its_provider(
    http: Http, model: ScriptedModel
) -> None:
    declared = ModelSettings("m1", "The One", context_window=100, max_output_tokens=7, vision=True)
    cat = catalog(http, settings(endpoint("a", model.base_url, declared)))
    for name in ("a/m1", "m1", None):
        target = await cat.resolve(name, None)
        assert (target.model, target.display_name) == ("m1", "The One")
        assert (target.context_window, target.max_output_tokens, target.vision) == (100, 7, True)
    await answer(target)
    assert model.chats[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(target)


async def test_a_name_with_slashes_goes_whole_to_its_provider(http: Http) -> None:
    cat = catalog(http, settings(endpoint("router", "http://r/v1"), endpoint("b", "http://b/v1")))
    assert (await cat.resolve("router/meta/llama", None)).model == "meta/llama"


async def test_a_name_that_two_providers_declare_has_to_be_exact(http: Http) -> None:
    cat = catalog(http, settings(endpoint("a", "http://a/v1", "m"), endpoint("b", "http://b", "m")))
    with pytest.raises(ModelUnavailable, match="a/m or b/m"):
        await cat.resolve("m", None)
    assert (await cat.resolve("b/m", None)).provider.name == "b"


async def test_an_unknown_name_is_refused_with_what_there_is(http: Http) -> None:
    cat = catalog(
        http, settings(endpoint("a", "http://a/v1", "m"), endpoint("b", "http://b/v1")),
        EmbeddedStub(http),
    )  # fmt: skip
    with pytest.raises(ModelUnavailable) as caught:
        await cat.resolve("gpt-9", None)
    for word in ("gpt-9", "a/m", "b/...", "local/tiny", "config.toml", "models.list", "restart"):
        assert word in caught.value.message


async def test_the_pass_through_takes_any_name_that_nobody_declared(http: Http) -> None:
    through = endpoint("copilot-env", "http://t/v1", "usual")
    given = settings(endpoint("a", "http://a/v1", "m"), pass_through=through)
    cat = catalog(http, given)
    assert (await cat.resolve("anything/else", None)).provider.name == "copilot-env"
    assert (await cat.resolve("m", None)).provider.name == "a"
    assert (await cat.resolve(None, None)).model == "usual"


async def test_a_sole_provider_takes_any_name_only_if_it_declares_none(http: Http) -> None:
    assert (
        await catalog(http, settings(endpoint("a", "http://a/v1"))).resolve("x", None)
    ).model == "x"
    with pytest.raises(ModelUnavailable):
        await catalog(http, settings(endpoint("a", "http://a/v1", "m"))).resolve("x", None)


@pytest.mark.parametrize("name", ["local/smolm", "ollama/llama3", "groq/llama3"])
async def test_a_name_that_means_another_place_is_not_sent_to_the_sole_provider(
    http: Http, name: str
) -> None:
    """Somebody may have meant a model on this machine, and mistyped it."""
    cat = catalog(http, settings(endpoint("openai", "http://o/v1")), EmbeddedStub(http))
    with pytest.raises(ModelUnavailable) as caught:
        await cat.resolve(name, None)
    head = name.partition("/")[0]
    assert f"is a model of {head!r}" in caught.value.message
    assert (f"say openai/{name}" in caught.value.message) == (head != "local")
    assert (await cat.resolve(f"openai/{name}", None)).model == name


async def test_names_that_an_endpoint_for_many_makers_takes(http: Http) -> None:
    router = catalog(http, settings(endpoint("openrouter", "http://r/v1")))
    assert (await router.resolve("mistral/small", None)).model == "mistral/small"
    through = settings(pass_through=endpoint("copilot-env", "http://t/v1"))
    assert (await catalog(http, through).resolve("ollama/x", None)).model == "ollama/x"
    for cat in (router, catalog(http, through)):
        with pytest.raises(ModelUnavailable, match="'local'"):
            await cat.resolve("local/typo", None)


async def test_a_key_that_is_not_set_is_named(http: Http) -> None:
    cat = Catalog(settings(endpoint("a", "http://a/v1", "m")), http, environ={})
    with pytest.raises(ModelUnavailable, match=r"KEY, which is not set .* restart the daemon"):
        await cat.resolve("a/m", None)
    (info,) = await listed(cat)
    assert info.tertulia is not None
    assert not info.tertulia.available


async def test_a_key_in_the_place_of_its_variable_is_not_repeated(http: Http) -> None:
    key = "gsk_aB3dE5"  # would pass for a variable's name
    given = ProviderSettings(name="a", base_url="http://a/v1", source="test", api_key_env=key)
    cat = Catalog(settings(given), http, environ={})
    with pytest.raises(ModelUnavailable, match="the name, not the key") as caught:
        await cat.resolve("a/m", None)
    assert key not in caught.value.message
    assert key not in str(await listed(cat))


# The default


async def test_the_configured_default_wins_and_is_never_replaced(http: Http) -> None:
    providers = (endpoint("a", "http://a/v1", "m"), endpoint("b", "http://b/v1", "n"))
    cat = catalog(http, settings(*providers, default_model="b/n"), EmbeddedStub(http))
    assert (await cat.resolve(None, None)).model == "n"
    cat = catalog(http, settings(*providers, default_model="gone"), EmbeddedStub(http))
    with pytest.raises(ModelUnavailable, match="gone"):
        await cat.resolve(None, None)


async def test_without_a_declared_model_the_endpoint_is_asked_once(
    http: Http, model: ScriptedModel
) -> None:
    model.models = ["text-embedding-3", {"id": "m1", "context_window": 77}, "m2"]
    cat = catalog(http, settings(endpoint("a", model.base_url)))
    for _ in range(2):
        target = await cat.resolve(None, None)
        assert (target.model, target.context_window) == ("m1", 77)
    assert len(model.requests) == 1


async def test_an_endpoint_that_cannot_be_asked_is_not_replaced_by_another(
    http: Http, model: ScriptedModel, closed_url: str
) -> None:
    given = settings(endpoint("a", closed_url), endpoint("b", model.base_url, "m1"))
    with pytest.raises(ModelUnavailable, match="refused the connection"):
        await catalog(http, given, EmbeddedStub(http)).resolve(None, None)


async def test_a_local_server_is_found_only_where_nothing_is_configured(
    http: Http, closed_url: str
) -> None:
    async with ScriptedModel(models=["llama"]) as running:
        local = (
            ProviderSettings(name="ollama", base_url=closed_url, source="x"),
            ProviderSettings(name="vllm", base_url=running.base_url, source="x"),
        )
        target = await catalog(http, Settings(local_servers=local)).resolve(None, None)
        assert (target.provider.name, target.model) == ("vllm", "llama")
        before = len(running.requests)
        given = settings(endpoint("a", "http://a/v1", "m"), local_servers=local)
        assert (await catalog(http, given).resolve(None, None)).model == "m"
        assert (await catalog(http, given).resolve("vllm/llama", None)).provider.name == "vllm"
        assert len(running.requests) == before


async def test_the_embedded_model_is_the_last_resort_even_if_it_cannot_run(http: Http) -> None:
    for embedded in (EmbeddedStub(http), EmbeddedStub(http, "not installed")):
        cat = catalog(http, Settings(), embedded)
        assert (await cat.resolve(None, None)).provider is embedded.chat
        assert (await cat.resolve("local/tiny", None)).provider is embedded.chat
    with pytest.raises(ModelUnavailable, match="No model is configured"):
        await catalog(http, Settings()).resolve(None, None)


# The list


async def test_the_list_tells_what_can_be_used_now(
    http: Http, model: ScriptedModel, closed_url: str
) -> None:
    given = settings(
        endpoint("off", closed_url, "gone"),
        endpoint("open", model.base_url),
        endpoint("some", model.base_url, "m9"),
        default_model="open/m2",
    )
    models = await listed(catalog(http, given, EmbeddedStub(http, "pip install it")))
    told = {m.id: (m.tertulia.available, m.tertulia.reason) for m in models if m.tertulia}
    assert [m.id for m in models] == ["open/m2", "off/gone", "open/m1", "some/m9", "local/tiny"]
    assert told["open/m1"] == (True, None)
    assert told["some/m9"] == (True, None)
    assert told["local/tiny"] == (False, "pip install it")
    available, reason = told["off/gone"]
    assert not available
    assert "refused the connection" in (reason or "")
    states = {m.id: m.policy.state for m in models if m.policy}
    assert states["off/gone"] == "disabled"
    assert states["open/m1"] == "enabled"
    assert KEY not in str(models)


async def test_a_configured_endpoint_that_lists_nothing_is_listed_with_its_reason(
    http: Http, model: ScriptedModel, closed_url: str
) -> None:
    model.models_status = 404
    no_key = ProviderSettings(name="c", base_url="http://c/v1", source="t", api_key_env="GONE")
    given = settings(
        endpoint("a", closed_url), endpoint("b", model.base_url), no_key,
        local_servers=(ProviderSettings(name="ollama", base_url=closed_url, source="found"),),
    )  # fmt: skip
    told = {m.id: m.tertulia for m in await listed(catalog(http, given)) if m.tertulia}
    reasons = {"a/*": "refused the connection", "b/*": "name one yourself", "c/*": "GONE"}
    assert list(told) == list(reasons)  # a local server that does not run is the usual case
    for model_id, reason in reasons.items():
        assert not told[model_id].available
        assert reason in (told[model_id].reason or "")


async def test_the_first_of_the_list_is_what_a_session_without_a_model_gets(
    http: Http, closed_url: str
) -> None:
    async with ScriptedModel(models=["m1", "m2", "m3"]) as open_to_all:
        asked = endpoint("a", open_to_all.base_url)
        preferring = msgspec.structs.replace(asked, preferred=("gone", "m2"))
        declaring = msgspec.structs.replace(preferring, models=(ModelSettings("m3"),))
        local = ProviderSettings(name="vllm", base_url=open_to_all.base_url, source="found")
        silent = ProviderSettings(name="ollama", base_url=closed_url, source="found")
        for given, first in (
            (settings(asked), "a/m1"),
            (settings(preferring), "a/m2"),
            (settings(declaring), "a/m3"),
            (settings(local_servers=(silent, local)), "vllm/m1"),
            (settings(local_servers=(silent,)), "local/tiny"),
        ):
            cat = catalog(http, given, EmbeddedStub(http))
            taken = await cat.resolve(None, None)
            told = [(m.id, m.tertulia and m.tertulia.default) for m in await listed(cat)]
            assert (taken.id, told[0]) == (first, (first, True))
            assert not any(default for _, default in told[1:])


@pytest.mark.parametrize(
    ("default", "first", "available", "reason"),
    [
        ("open/m2", "open/m2", True, None),
        ("m9", "some/m9", True, None),
        ("some/slip", "some/slip", False, "'some' does not list it"),
        ("open/slip", "open/slip", False, "'open' does not list it"),
        ("bare/any", "bare/any", True, None),
        ("off/any", "off/any", False, "refused the connection"),
        ("gone/m1", "gone/m1", False, "No provider has the model 'gone/m1'"),
        ("local/tiny", "local/tiny", True, None),
    ],
)
async def test_a_default_that_is_configured_is_the_first_of_the_list_and_says_if_it_is_a_slip(
    http: Http,
    model: ScriptedModel,
    closed_url: str,
    default: str,
    first: str,
    available: bool,
    reason: str | None,
) -> None:
    async with ScriptedModel(models=[]) as bare:
        given = settings(
            endpoint("open", model.base_url), endpoint("some", model.base_url, "m9"),
            endpoint("off", closed_url), endpoint("bare", bare.base_url), default_model=default,
        )  # fmt: skip
        infos = await listed(catalog(http, given, EmbeddedStub(http)))
    assert [m.id for m in infos].count(first) == 1
    origin = infos[0].tertulia
    assert origin is not None
    assert (infos[0].id, origin.available) == (first, available)
    assert (reason or "") in (origin.reason or "")
    assert (origin.reason is None) is available


async def test_any_model_of_the_pass_through_may_be_the_default(
    http: Http, model: ScriptedModel
) -> None:
    through = endpoint("copilot-env", model.base_url, "usual")
    given = settings(pass_through=through, default_model="other")
    infos = await listed(catalog(http, given))
    assert [(m.id, m.tertulia and m.tertulia.available) for m in infos] == [
        ("other", True),
        ("usual", True),
    ]


async def test_the_list_is_bounded_by_the_slowest_bound_not_by_the_endpoints(http: Http) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        models = await listed(
            catalog(http, settings(*(endpoint(f"p{i}", url, "m") for i in range(20))))
        )
    assert len(models) == 20
    assert all(m.tertulia and "did not answer" in (m.tertulia.reason or "") for m in models)


@pytest.mark.parametrize(("status", "available"), [(404, True), (401, False), (500, False)])
async def test_an_endpoint_without_a_list_may_still_answer(
    http: Http, model: ScriptedModel, status: int, available: bool
) -> None:
    model.models_status = status
    (info,) = await listed(catalog(http, settings(endpoint("a", model.base_url, "m"))))
    assert info.tertulia is not None
    assert info.tertulia.available is available


async def test_an_entry_has_what_the_sdks_insist_on(http: Http, model: ScriptedModel) -> None:
    models = await listed(catalog(http, settings(endpoint("a", model.base_url, "m1"))))
    assert json.loads(msgspec.json.encode(models)) == [
        {
            "id": "a/m1",
            "name": "m1",
            "capabilities": {
                "supports": {"vision": False, "reasoningEffort": False, "toolCalls": True},
                "limits": {},
            },
            "policy": {"state": "enabled", "terms": ""},
            "tertulia": {"provider": "a", "available": True, "default": True},
        }
    ]


def test_the_catalog_is_imported_without_the_http_library() -> None:
    code = (
        "import sys, tertuliad.providers.catalog as c, tertuliad.config;"
        "c.Catalog(tertuliad.config.Settings(), c.Http());"
        "print([m for m in ('aiohttp', 'yarl', 'ssl', 'email', 'tomllib', 'urllib.request')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_what_a_call_needs_is_imported_before_its_time_is_taken() -> None:
    code = (
        "import anyio, sys, tertuliad.providers.catalog as c, tertuliad.config as t\n"
        "from tertulia_protocol.provider_config import ProviderConfig, SessionProviders\n"
        "given = SessionProviders(provider=ProviderConfig(base_url='http://127.0.0.1:9/v1'))\n"
        "catalog = c.Catalog(t.Settings(), c.Http(), environ={})\n"
        "assert 'aiohttp' not in sys.modules\n"
        "anyio.run(catalog.resolve, 'm', given)\n"
        "assert 'aiohttp' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
