"""The endpoints that the daemon is configured with, and what they say they have.

Keys are read from the environment when an endpoint is first used, and live in its provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import anyio

from tertulia_protocol.errors import ModelUnavailable
from tertulia_protocol.provider_config import public_url
from tertuliad import limits
from tertuliad.config import ModelSettings, ProviderSettings, Settings
from tertuliad.providers.base import ProviderFailed, Target
from tertuliad.providers.http import Http
from tertuliad.providers.openai_chat import OpenAIChat

NO_LIST = frozenset({404, 405, 501})  # an endpoint that does not list models may still answer
_NOT_FOR_CHAT = (  # compiled when the first list is read
    r"(?i)embed|whisper|tts|dall-e|moderation|realtime|transcribe|rerank|davinci|babbage"
    r"|(^|[/-])(image|audio|imagen|veo|sora|bge)([-.]|$)"
)
_SURELY_A_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")  # some keys would pass for a variable


class Endpoints:
    """`configured` and `local` hold the settings by name, in the order of preference."""

    def __init__(self, settings: Settings, http: Http, environ: Mapping[str, str]) -> None:
        self._pass_through = settings.pass_through
        through = [settings.pass_through] if settings.pass_through else []
        self.configured = {p.name: p for p in [*through, *settings.providers.values()]}
        self.local = {p.name: p for p in settings.local_servers}
        self._http = http
        self._environ = environ
        self._providers: dict[str, OpenAIChat] = {}
        self._first: dict[str, str] = {}  # the model taken where nobody names one
        self._windows: dict[tuple[str, str], int | None] = {}  # of what was listed

    def known(self, name: str) -> ProviderSettings | None:
        """The settings of that name."""
        return self.configured.get(name) or self.local.get(name)

    def id_of(self, settings: ProviderSettings, model: str) -> str:
        """How people name `model` of that endpoint."""
        return model if settings is self._pass_through else f"{settings.name}/{model}"

    def target(self, settings: ProviderSettings, model: str) -> Target:
        """`model` at that endpoint. Raises `ModelUnavailable` where its key is missing."""
        if fault := self.missing_key(settings):
            raise ModelUnavailable(fault)
        declared = next((m for m in settings.models if m.id == model), ModelSettings(model))
        return self.describe(settings, declared)

    def describe(self, settings: ProviderSettings, model: ModelSettings) -> Target:
        """What is known of `model`, whether it can be used or not."""
        return Target(
            provider=self._provider(settings),
            model=model.id,
            display_name=model.name or model.id,
            id=self.id_of(settings, model.id),
            context_window=model.context_window or self._windows.get((settings.name, model.id)),
            max_output_tokens=model.max_output_tokens,
            vision=model.vision,
            tools=model.tools,
        )

    async def offered(self, settings: ProviderSettings) -> list[ModelSettings]:
        """The chat models that the endpoint lists now. Raises `ProviderFailed`."""
        listed = await self._listed(settings)
        self._windows.update({(settings.name, m.id): m.context_window for m in listed})
        return listed

    async def first_model(self, settings: ProviderSettings) -> str:
        """The model to take where nobody names one; the endpoint is asked at most once.

        Raises `ProviderFailed`.
        """
        if settings.name not in self._first:
            listed = () if settings.models else await self.offered(settings)
            first = first_of(settings, listed)
            if first is None:
                raise ProviderFailed("bad_response", "It lists no model that is made for chat.")
            self._first[settings.name] = first
        return self._first[settings.name]

    def missing_key(self, settings: ProviderSettings) -> str | None:
        """Which variable that should hold the endpoint's key is not set, as a sentence."""
        given = {"api_key_env": settings.api_key_env, "bearer_token_env": settings.bearer_token_env}
        for member, variable in given.items():
            if variable and not self._environ.get(variable):
                shown = variable if _SURELY_A_NAME.fullmatch(variable) else _not_shown(member)
                return (
                    f"Provider {settings.name!r} takes its key from {shown}, which is not set"
                    " in the daemon's environment. That is read when the daemon starts: set it, and"
                    " restart the daemon."
                )
        return None

    async def _listed(self, settings: ProviderSettings) -> list[ModelSettings]:
        bound = limits.LOCAL_PROBE_S if settings.name in self.local else None
        with anyio.move_on_after(bound):
            return [
                ModelSettings(m.id, m.name, m.context)
                for m in await self._provider(settings).models()
                if m.id and not re.search(_NOT_FOR_CHAT, m.id)
            ]
        raise ProviderFailed("timeout", f"{public_url(settings.base_url)} does not answer.")

    def _provider(self, settings: ProviderSettings) -> OpenAIChat:
        if settings.name not in self._providers:
            self._providers[settings.name] = OpenAIChat(
                settings.name,
                settings.base_url,
                self._http,
                api_key=self._environ.get(settings.api_key_env or ""),
                bearer_token=self._environ.get(settings.bearer_token_env or ""),
                headers=settings.headers,
            )
        return self._providers[settings.name]


def first_of(settings: ProviderSettings, listed: Sequence[ModelSettings]) -> str | None:
    """The model that an endpoint which lists these is asked for where nobody names one: the first
    that is declared, else the one preferred most, else the first."""
    if settings.models:
        return settings.models[0].id
    names = [model.id for model in listed]
    return next((name for name in (*settings.preferred, *names) if name in names), None)


def _not_shown(member: str) -> str:
    """Words for a variable whose name may be the key itself, put into the wrong place."""
    return f"the variable that its {member} names (the name, not the key, belongs there)"
