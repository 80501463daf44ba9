"""The configuration file and the environment, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tertuliad import options
from tertuliad.config import PRESETS, ConfigError, ModelSettings, Settings, load

KEY = "sk-config-secret-7"


def configured(home: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    (home / "config.toml").write_text(text, "utf-8")
    return load(home, environ=environ or {})


def test_an_empty_home_and_environment_give_only_the_local_servers(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={})
    assert settings.default_model is None
    assert settings.providers == {}
    assert [(s.name, s.base_url) for s in settings.local_servers] == [
        ("ollama", "http://127.0.0.1:11434/v1"),
        ("lmstudio", "http://127.0.0.1:1234/v1"),
        ("llamacpp", "http://127.0.0.1:8080/v1"),
        ("vllm", "http://127.0.0.1:8000/v1"),
    ]


def test_the_file_gives_providers_models_and_the_embedded_one(tmp_path: Path) -> None:
    settings = configured(
        tmp_path,
        """
        default_model = "work/x"
        local_servers = false
        [providers.work]
        base_url = "https://models.example/v1"
        api_key_env = "WORK_KEY"
        headers = { x-team = "blue" }
        models = ["x", { id = "y", name = "Why", context_window = 9, vision = true, tools = false }]
        [embedded]
        model_path = "m.gguf"
        threads = 2
        """,
    )
    work = settings.providers["work"]
    assert settings.default_model == "work/x"
    assert settings.local_servers == ()
    assert (work.base_url, work.api_key_env) == ("https://models.example/v1", "WORK_KEY")
    assert work.headers == {"x-team": "blue"}
    assert work.models == (
        ModelSettings("x"),
        ModelSettings("y", "Why", 9, None, vision=True, tools=False),
    )
    assert settings.embedded.model_path == str(tmp_path / "m.gguf")
    assert (settings.embedded.threads, settings.embedded.slots) == (2, 4)


def test_a_known_service_needs_no_address(tmp_path: Path) -> None:
    openai = configured(tmp_path, '[providers.openai]\nmodels = ["gpt-x"]').providers["openai"]
    assert openai.base_url == "https://api.openai.com/v1"
    assert openai.api_key_env == "OPENAI_API_KEY"


def test_a_known_services_key_never_goes_to_another_address(tmp_path: Path) -> None:
    text = '[providers.openai]\nbase_url = "http://elsewhere/v1"'
    assert configured(tmp_path, text).providers["openai"].api_key_env is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_key_in_the_environment_is_found(tmp_path: Path, name: str) -> None:
    preset = PRESETS[name]
    settings = load(tmp_path, environ={preset.key_env: KEY})
    (found,) = settings.providers.values()
    assert (found.name, found.base_url, found.api_key_env) == (
        name,
        preset.base_url,
        preset.key_env,
    )
    assert KEY not in repr(settings)
    assert load(tmp_path, environ={preset.key_env: ""}).providers == {}


def test_the_file_hides_what_the_environment_would_give(tmp_path: Path) -> None:
    settings = configured(
        tmp_path, '[providers.openai]\nbase_url = "http://mine/v1"', {"OPENAI_API_KEY": KEY}
    )
    assert [p.base_url for p in settings.providers.values()] == ["http://mine/v1"]


def test_openais_address_can_be_another_without_a_key(tmp_path: Path) -> None:
    (found,) = load(tmp_path, environ={"OPENAI_BASE_URL": "http://h/v1"}).providers.values()
    assert (found.base_url, found.api_key_env) == ("http://h/v1", None)


def test_the_copilot_variables_name_a_provider_for_any_model(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        environ={
            "COPILOT_PROVIDER_BASE_URL": "http://h/v1",
            "COPILOT_PROVIDER_BEARER_TOKEN": KEY,
            "COPILOT_MODEL": "m",
        },
    )
    assert settings.pass_through is not None
    assert settings.pass_through.bearer_token_env == "COPILOT_PROVIDER_BEARER_TOKEN"
    assert settings.pass_through.api_key_env is None
    assert settings.default_model == "m"
    assert KEY not in repr(settings)


def test_the_copilot_model_alone_means_another_program(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"COPILOT_MODEL": "claude-x"}).default_model is None


def test_the_default_model_of_the_environment_wins(tmp_path: Path) -> None:
    text = 'default_model = "file"'
    assert configured(tmp_path, text, {"TERTULIA_MODEL": "env"}).default_model == "env"
    assert configured(tmp_path, text).default_model == "file"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0:9000", "http://127.0.0.1:9000/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        (":9000", "http://127.0.0.1:9000/v1"),
        ("localhost", "http://localhost:11434/v1"),
        ("http://localhost:9000/", "http://localhost:9000/v1"),
        ("[::1]:9000", "http://[::1]:9000/v1"),
        ("gpu.example:11434", None),
        ("http://[", None),
    ],
)
def test_ollama_is_looked_for_on_this_machine_only(
    tmp_path: Path, host: str, url: str | None
) -> None:
    found = {
        s.name: s.base_url for s in load(tmp_path, environ={"OLLAMA_HOST": host}).local_servers
    }
    assert found.get("ollama") == url


def test_the_search_for_local_servers_can_be_turned_off(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"TERTULIA_LOCAL_SERVERS": "off"}).local_servers == ()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("default_model = 7", "default_model: a string is expected, not an integer"),
        ('default_model = ""', "default_model: a string of length >= 1 is expected"),
        ("models = []", "top level: there is no key 'models' here; the known ones are"),
        ("what = 1", "the known ones are default_model, local_servers, session_idle_timeout,"),
        ('[provider.work]\nbase_url = "http://x"', "'provider' here; did you mean providers"),
        ("x = ", "is not TOML"),
        ('[providers.a]\nbase_url = "ftp://x"', "providers.a.base_url"),
        ("[providers.a]", "providers.a.base_url"),
        ('[providers.a]\nbase_ur = "http://x"', "'base_ur' here; did you mean base_url"),
        (
            '[providers.a]\nbase_url = "http://x"\nmodels = [{ id = "m", windows = 1 }]',
            "providers.a.models[0]: there is no key 'windows' here; the known ones are id, name",
        ),
        ('[providers.a]\nbase_url = "http://x"\nmodels = [{}]', "providers.a.models[0].id"),
        ("[embedded]\nthread = 1", "embedded: there is no key 'thread' here; did you mean threads"),
        ('[providers.a]\nbase_url = "http://x"\nmodels = [1]', "providers.a.models[0]"),
        ('[providers.a]\nbase_url = "http://x"\nmodels = ["m", "m"]', "providers.a.models[1]"),
        (
            '[providers.a]\nbase_url = "http://x"\nmodels = [{ id = "m", context_window = 0 }]',
            "providers.a.models[0].context_window",
        ),
        ('[providers."a/b"]\nbase_url = "http://x"', 'providers."a/b"'),
        ('[providers.local]\nbase_url = "http://x"', "providers.local"),
        ("[embedded]\nthreads = 0", "embedded.threads"),
        ("providers = 3", "providers"),
    ],
)
def test_a_fault_is_named_with_its_file_and_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, text)
    assert str(tmp_path / "config.toml") in str(caught.value)
    assert place in str(caught.value)


@pytest.mark.parametrize("key", ["api_key", "bearer_token", "apiKey", "token"])
def test_a_key_in_the_file_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, f'[providers.a]\nbase_url = "http://x"\n{key} = "{KEY}"')
    assert f"providers.a.{key}" in str(caught.value)
    assert "api_key_env" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", [KEY, f" {KEY}", "Bearer X", "A KEY", "$MY_KEY", "1KEY", "ключ"])
@pytest.mark.parametrize("member", ["api_key_env", "bearer_token_env"])
def test_a_key_in_the_place_of_a_variables_name_is_refused_and_not_repeated(
    tmp_path: Path, member: str, name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, f'[providers.a]\nbase_url = "http://x"\n{member} = "{name}"')
    assert f"providers.a.{member}: this is not the name of" in str(caught.value)
    assert name not in str(caught.value)


@pytest.mark.parametrize("header", ["Authorization", "api-key", "X-API-Key", "x-goog-api-key"])
def test_a_key_among_the_headers_is_refused_and_not_repeated(tmp_path: Path, header: str) -> None:
    text = f'[providers.a]\nbase_url = "http://x"\nheaders = {{ {header} = "Bearer {KEY}" }}'
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, text)
    assert f"providers.a.headers.{header}" in str(caught.value)
    assert "api_key_env" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"providers\.a\.base_url.*api_key_env") as caught:
        configured(tmp_path, f'[providers.a]\nbase_url = "http://me:{KEY}@x/v1"')
    assert KEY not in str(caught.value)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path, path=tmp_path / "other.toml", environ={})


def test_a_home_is_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=rf"The home {file} is a file.*--home"):
        load(file, environ={})
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path, path=file / "other.toml", environ={})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path, environ={})


def test_headers_are_not_shown(tmp_path: Path) -> None:
    text = f'[providers.a]\nbase_url = "http://x/v1?k={KEY}"\nheaders = {{ k = "{KEY}" }}'
    settings = configured(tmp_path, text)
    assert settings.providers["a"].headers == {"k": KEY}
    assert KEY not in repr(settings)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--port", "abc", "a port is a number between 0 and 65535"),
        ("--port", "65536", "a port is a number between 0 and 65535"),
        ("--port", "9" * 5000, "a port is a number between 0 and 65535"),
        ("--max-body", "1MB", "a number of bytes between 1 KiB and 1 GiB"),
        ("--max-body", "5", "a number of bytes between 1 KiB and 1 GiB"),
    ],
)
def test_a_number_on_the_command_line_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse([option, value])
    assert ended.value.code == 2
    assert f"argument {option}: {said}" in capsys.readouterr().err


def test_a_file_that_came_after_the_start_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("this is = = no TOML")
    assert load(tmp_path, environ={}, without_file=True) == load(tmp_path / "empty", environ={})
