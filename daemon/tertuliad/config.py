"""What the daemon is configured with: `config.toml` in its home, and the environment.

Keys are never in these structs: they name the environment variables that hold them, and the
catalog reads those when it builds a provider. A literal key in the file is refused and not
repeated. A provider in the file hides one of the same name that the environment would give.
`ConfigError` names the file and the place of the fault. `spec/config.md` tells people all of it,
and a test compares the two.

    default_model = "work/gpt-x"
    local_servers = true                # look for Ollama, LM Studio, llama.cpp, vLLM here
    session_idle_timeout = 600          # seconds

    [providers.work]
    base_url = "https://models.example/v1"
    api_key_env = "WORK_KEY"
    headers = { x-team = "blue" }
    models = ["gpt-x", { id = "gpt-y", context_window = 128000, vision = true }]

    [embedded]
    model_path = "model.gguf"           # relative to this file
    threads = 2
    slots = 4
    context = 8192

Environment: TERTULIA_MODEL is the default model and wins over the file's. COPILOT_PROVIDER_BASE_URL
with COPILOT_PROVIDER_API_KEY or COPILOT_PROVIDER_BEARER_TOKEN and COPILOT_MODEL, names an endpoint
that takes any model. `PRESETS` lists the variables of known services. OLLAMA_HOST moves Ollama,
and TERTULIA_LOCAL_SERVERS=off is as `local_servers = false`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from tertulia_protocol import faults, layout
from tertulia_protocol.decoding import convert
from tertulia_protocol.provider_config import is_http, is_loopback, public_url
from tertuliad import limits

FILE_NAME = layout.CONFIG_FILE
EMBEDDED_NAME = "local"  # the embedded model's provider; nobody else may have the name
PASS_THROUGH_NAME = "copilot-env"  # noqa: S105
_OFF = frozenset({"0", "off", "false", "no"})
_LITERAL_KEYS = ("api_key", "bearer_token", "token", "key", "apiKey", "bearerToken")
_KEY_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"}
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_NO_KEYS_HERE = (
    "keys are not kept in files, where backups and other people find them. Put the key into an"
    ' environment variable and name that: api_key_env = "MY_KEY" (or bearer_token_env).'
)

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=limits.OPTION_S)]
NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class ConfigError(Exception):
    """The configuration cannot be used; the text says where the fault is and what to write."""


class Preset(NamedTuple):
    """A well-known service: `preferred` are the models to take where nobody names one."""

    base_url: str
    key_env: str
    preferred: tuple[str, ...]


PRESETS = {
    "openai": Preset(
        "https://api.openai.com/v1", "OPENAI_API_KEY", ("gpt-5-mini", "gpt-4.1-mini", "gpt-4o-mini")
    ),
    "openrouter": Preset(
        "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", ("openrouter/auto",)
    ),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY", ("llama-3.3-70b-versatile",)),
    "mistral": Preset("https://api.mistral.ai/v1", "MISTRAL_API_KEY", ("mistral-small-latest",)),
    "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", ("deepseek-chat",)),
    "gemini": Preset(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        ("models/gemini-2.5-flash", "gemini-2.5-flash"),
    ),
    "xai": Preset("https://api.x.ai/v1", "XAI_API_KEY", ("grok-4-fast", "grok-3-mini")),
}
LOCAL_PORTS = {"lmstudio": 1234, "llamacpp": 8080, "vllm": 8000}  # and Ollama, by OLLAMA_HOST
OLLAMA_PORT = 11434
LOCAL_NAMES = frozenset({"ollama", *LOCAL_PORTS})


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that a provider is said to have; sizes are in tokens."""

    id: NonEmpty
    name: str | None = None
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    vision: bool = False
    tools: bool = True


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One OpenAI-compatible endpoint. `source` says for people where it was configured."""

    name: str
    base_url: str
    source: str
    api_key_env: str | None = None
    bearer_token_env: str | None = None
    headers: dict[str, str] = {}
    models: tuple[ModelSettings, ...] = ()
    preferred: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ProviderSettings({self.name!r}, {public_url(self.base_url)!r}, {self.source!r})"


class EmbeddedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedded model: `context` is in tokens and shared by the `slots`."""

    model_path: str | None = None
    threads: Count | None = None
    slots: Count = 4
    context: Count = 8192


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `providers` are in the order in which a default is looked for."""

    default_model: str | None = None
    providers: dict[str, ProviderSettings] = {}
    pass_through: ProviderSettings | None = None
    local_servers: tuple[ProviderSettings, ...] = ()
    embedded: EmbeddedSettings = EmbeddedSettings()
    session_idle_s: float = limits.SESSION_IDLE_S


class _ProviderTable(msgspec.Struct, forbid_unknown_fields=True):
    base_url: str | None = None
    api_key_env: NonEmpty | None = None
    bearer_token_env: NonEmpty | None = None
    headers: dict[str, str] = {}
    models: list[str | ModelSettings] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    default_model: NonEmpty | None = None
    local_servers: bool = True
    session_idle_timeout: Seconds = limits.SESSION_IDLE_S
    providers: dict[str, dict[str, Any]] = {}
    embedded: EmbeddedSettings = EmbeddedSettings()


T = TypeVar("T")


def load(
    home: Path,
    *,
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    without_file: bool = False,
) -> Settings:
    """The settings from `path`, which must exist, or from `home`'s file, which need not.
    `without_file`: there was none when it was to be read. Raises `ConfigError`.
    """
    place = path or home / FILE_NAME
    file = _File() if without_file else _read(place, required=path is not None)
    providers = {name: _from_table(place, name, table) for name, table in file.providers.items()}
    for found in _from_environment(environ):
        providers.setdefault(found.name, found)
    pass_through = _pass_through(environ)
    copilot_model = environ.get("COPILOT_MODEL") if pass_through else None
    look = file.local_servers and environ.get("TERTULIA_LOCAL_SERVERS", "").lower() not in _OFF
    return Settings(
        default_model=environ.get("TERTULIA_MODEL") or file.default_model or copilot_model or None,
        providers=providers,
        pass_through=pass_through,
        local_servers=tuple(s for s in _local_servers(environ) if look and s.name not in providers),
        embedded=_embedded(place, file.embedded),
        session_idle_s=file.session_idle_timeout,
    )


def _read(place: Path, *, required: bool) -> _File:
    try:
        text = place.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError) as exc:
        if required:
            raise ConfigError(f"{place}: there is no such configuration file.") from None
        if isinstance(exc, NotADirectoryError):
            raise ConfigError(
                f"The home {place.parent} is a file, or under one: give --home with a folder."
            ) from None
        return _File()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError(f"{place}: cannot be read ({reason}).") from None
    import tomllib

    try:
        return _convert(place, tomllib.loads(text), _File, "")
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{place}: is not TOML: {exc}.") from None


def _convert(place: Path, value: Any, shape: type[T], at: str) -> T:
    try:
        return convert(value, shape)
    except msgspec.ValidationError as exc:
        text, _, _ = str(exc).partition(" - at `$")
        path, fault = faults.explain(str(exc))
        if unknown := _UNKNOWN.fullmatch(text):
            fault = _unknown(unknown[1], _table_at(shape, path))
        where = f"{at}{path[1:]}".lstrip(".")
        raise ConfigError(f"{place}: {where or 'top level'}: {fault}.") from None


def _table_at(shape: type[Any], path: str) -> type[msgspec.Struct]:
    """The struct of the table at `path` within `shape`."""
    if path.startswith("$.models"):
        return ModelSettings
    return EmbeddedSettings if path == "$.embedded" else shape


def _unknown(key: str, table: type[msgspec.Struct]) -> str:
    import difflib

    known = table.__struct_fields__
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}" if near else f"the known ones are {', '.join(known)}"
    return f"there is no key {key!r} here; {hint}"


def _from_table(place: Path, name: str, table: dict[str, Any]) -> ProviderSettings:
    at = f"providers.{name}" if re.fullmatch(r"[\w-]+", name) else f'providers."{name}"'
    if not name or "/" in name or name in (EMBEDDED_NAME, PASS_THROUGH_NAME):
        raise ConfigError(
            f"{place}: {at}: this name cannot be used: it must not be empty, hold a slash, or be"
            f" {EMBEDDED_NAME!r} or {PASS_THROUGH_NAME!r}. Choose another."
        )
    for key in _LITERAL_KEYS:
        if key in table:
            raise ConfigError(f"{place}: {at}.{key}: {_NO_KEYS_HERE}")
    parsed = _convert(place, table, _ProviderTable, at)
    for where, fault in _literal_keys(parsed):
        raise ConfigError(f"{place}: {at}.{where}: {fault}")
    preset = PRESETS.get(name) if parsed.base_url is None else None
    base_url = preset.base_url if preset else parsed.base_url
    if base_url is None or not is_http(base_url):
        raise ConfigError(
            f"{place}: {at}.base_url: give an http:// or https:// address,"
            " for example https://api.openai.com/v1."
        )
    if "@" in urlsplit(base_url).netloc:
        raise ConfigError(f"{place}: {at}.base_url: it holds a name or password: {_NO_KEYS_HERE}")
    return ProviderSettings(
        name=name,
        base_url=base_url,
        source=f"{at} in {place}",
        api_key_env=parsed.api_key_env or (preset.key_env if preset else None),
        bearer_token_env=parsed.bearer_token_env,
        headers=parsed.headers,
        models=tuple(_models(place, at, parsed.models)),
        preferred=preset.preferred if preset else (),
    )


def _literal_keys(table: _ProviderTable) -> Iterator[tuple[str, str]]:
    """Where a key stands, or seems to, that only a variable may hold. Never repeats a value."""
    for member in ("api_key_env", "bearer_token_env"):
        value = getattr(table, member)
        if value is not None and not _VARIABLE.fullmatch(value):
            yield (
                member,
                "this is not the name of an environment variable (letters, digits and _). Put the"
                f' key into a variable, and give its name here: {member} = "MY_KEY".',
            )
    for header in table.headers:
        if header.strip().lower() in _KEY_HEADERS:
            yield f"headers.{header}", _NO_KEYS_HERE


def _models(place: Path, at: str, listed: list[str | ModelSettings]) -> Iterator[ModelSettings]:
    seen: set[str] = set()
    for n, entry in enumerate(listed):
        model = ModelSettings(entry) if isinstance(entry, str) else entry
        if not model.id or model.id in seen:
            raise ConfigError(f"{place}: {at}.models[{n}]: {model.id!r} is empty or there twice.")
        seen.add(model.id)
        yield model


def _embedded(place: Path, given: EmbeddedSettings) -> EmbeddedSettings:
    """`given` with an absolute path: the file's are relative to its folder."""
    if given.model_path is None:
        return given
    path = place.parent / Path(given.model_path).expanduser()
    return msgspec.structs.replace(given, model_path=str(path.absolute()))


def _from_environment(environ: Mapping[str, str]) -> Iterator[ProviderSettings]:
    for name, preset in PRESETS.items():
        base_url = environ.get("OPENAI_BASE_URL") if name == "openai" else None
        if environ.get(preset.key_env) or base_url:
            yield ProviderSettings(
                name=name,
                base_url=base_url or preset.base_url,
                source=preset.key_env if environ.get(preset.key_env) else "OPENAI_BASE_URL",
                api_key_env=preset.key_env if environ.get(preset.key_env) else None,
                preferred=preset.preferred,
            )


def _pass_through(environ: Mapping[str, str]) -> ProviderSettings | None:
    base_url = environ.get("COPILOT_PROVIDER_BASE_URL")
    if not base_url:
        return None
    model = environ.get("COPILOT_MODEL")

    def named(variable: str) -> str | None:
        return variable if environ.get(variable) else None

    return ProviderSettings(
        name=PASS_THROUGH_NAME,
        base_url=base_url,
        source="COPILOT_PROVIDER_BASE_URL",
        api_key_env=named("COPILOT_PROVIDER_API_KEY"),
        bearer_token_env=named("COPILOT_PROVIDER_BEARER_TOKEN"),
        models=(ModelSettings(model),) if model else (),
    )


def _local_servers(environ: Mapping[str, str]) -> Iterator[ProviderSettings]:
    """Where model servers usually listen on this machine; OLLAMA_HOST of another is left out."""
    addresses = {"ollama": _ollama_address(environ.get("OLLAMA_HOST", ""))}
    addresses |= {name: f"http://127.0.0.1:{port}" for name, port in LOCAL_PORTS.items()}
    for name, address in addresses.items():
        if is_loopback(address):
            yield ProviderSettings(name=name, base_url=f"{address}/v1", source="found running")


def _ollama_address(host: str) -> str:
    """OLLAMA_HOST as a URL: it may lack the scheme, the host or the port, and may say "any"."""
    scheme, _, place = host.strip().rstrip("/").rpartition("://")
    name, colon, port = place.rpartition(":")
    if not colon or not port.isdigit():
        name, port = place, str(OLLAMA_PORT)
    if name in ("", "0.0.0.0", "[::]", "::"):  # noqa: S104  what a server listens on, not us
        name = "127.0.0.1"
    return f"{scheme or 'http'}://{name}:{port}"
