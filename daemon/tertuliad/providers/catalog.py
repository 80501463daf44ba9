"""Which provider answers for a model's name, and which models can be used now.

A name is never given to another provider than the one it means: what cannot be placed is refused
with `ModelUnavailable`, whose text names what is known. Servers on this machine that nobody
configured are only asked when the models are listed, or when a default is needed and nothing else
is configured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import anyio
import msgspec

from tertulia_protocol.errors import ModelUnavailable
from tertulia_protocol.models import (
    ModelCapabilities,
    ModelInfo,
    ModelLimits,
    ModelOrigin,
    ModelPolicy,
    ModelSupports,
)
from tertulia_protocol.provider_config import SessionProviders, refusal
from tertuliad.config import ModelSettings, ProviderSettings, Settings
from tertuliad.providers.base import ProviderFailed, Target
from tertuliad.providers.endpoints import NO_LIST, Endpoints
from tertuliad.providers.http import Http
from tertuliad.providers.session_models import session_target

NAMES_SHOWN = 12  # of the models in a refusal
_HOW_TO_ADD = (
    "Give session.create a provider (baseUrl and apiKey), put a [providers.NAME] table into"
    " config.toml, or set a variable such as OPENAI_API_KEY; models.list shows what can be used."
)
_IS_DEFAULT = "It is configured as the default (TERTULIA_MODEL, or default_model in config.toml)."


class Embedded(Protocol):
    """The embedded model, as the catalog sees it. `target` is cheap whether it can run or not."""

    @property
    def model_id(self) -> str: ...

    def problem(self) -> str | None:
        """Why it cannot run here and how to mend that; None when it can."""
        ...

    def target(self) -> Target: ...


class Catalog:
    """The models of one daemon. Lives as long as it does."""

    def __init__(
        self,
        settings: Settings,
        http: Http,
        embedded: Embedded | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._http = http
        self._embedded = embedded
        self._endpoints = Endpoints(settings, http, environ)

    def default_model(self) -> str | None:
        """What a session without a model gets, as far as that is known without asking anyone."""
        if self._settings.default_model:
            return self._settings.default_model
        provider = next(iter(self._endpoints.configured.values()), None)
        if provider is not None:
            return (
                self._endpoints.id_of(provider, provider.models[0].id) if provider.models else None
            )
        if self._endpoints.local or self._embedded is None:
            return None
        return self._embedded.model_id

    async def resolve(self, model: str | None, given: SessionProviders | None) -> Target:
        """Who answers for `model` in a session that brought `given`. Raises `ModelUnavailable`.

        The embedded model is a target even where it cannot run: its turns then say why. What a call
        needs is imported then: it is not part of the time that the model takes.
        """
        target = self._placed(model, given) or await self._default()
        await self._http.warm()
        return target

    def check(self, model: str | None, given: SessionProviders | None) -> None:
        """Raise `ModelUnavailable` where `resolve` would for certain; asks nobody."""
        self._placed(model, given)

    def _placed(self, model: str | None, given: SessionProviders | None) -> Target | None:
        """Who answers for `model`, as far as it is known without asking; None: the default."""
        name = model or self._settings.default_model
        if given:
            if fault := refusal(given):
                raise ModelUnavailable(fault)
            target = session_target(model if given.provider else name, given, self._http)
            if target is not None:
                return target
        return self._named(name) if name else None

    async def list(self) -> list[ModelInfo]:
        """All models, the default first; endpoints are asked at once and within a bound.

        A configured endpoint without a model to name has one entry for all of them, `NAME/*`, and a
        configured default that nobody lists has its own: each is disabled, or says why it is not.
        """
        offers: dict[str, _Offer] = {}

        async def ask(provider: ProviderSettings) -> None:
            offers[provider.name] = await self._offer(provider)

        sources = [*self._endpoints.configured.values(), *self._endpoints.local.values()]
        async with anyio.create_task_group() as tasks:
            for provider in sources:
                tasks.start_soon(ask, provider)
        models = [m for p in sources for m in self._rows(p, offers[p.name])]
        models += self._embedded_info()
        first = self._default_row(models, offers)
        return [_default(first), *(m for m in models if m is not first)] if first else models

    def _named(self, name: str) -> Target:
        if self._embedded is not None and name == self._embedded.model_id:
            return self._embedded.target()
        configured = self._endpoints.configured
        head, _, rest = name.partition("/")
        named = self._endpoints.known(head)
        if named is not None and rest:
            return self._endpoints.target(named, rest)
        declaring = [p for p in configured.values() if any(m.id == name for m in p.models)]
        if len(declaring) > 1:
            choices = " or ".join(f"{p.name}/{name}" for p in declaring)
            raise ModelUnavailable(f"Several providers have the model {name!r}: say {choices}.")
        taker = declaring[0] if declaring else self._takes_any()
        if taker is None:
            raise ModelUnavailable(f"No provider has the model {name!r}. {self._known()}")
        return self._endpoints.target(taker, name)

    def _takes_any(self) -> ProviderSettings | None:
        """The provider for names that nobody declared: the pass-through, or a sole open one."""
        if self._settings.pass_through is not None:
            return self._settings.pass_through
        providers = [*self._endpoints.configured.values()]
        return providers[0] if len(providers) == 1 and not providers[0].models else None

    async def _default(self) -> Target:
        """The model of a session that names none, where no default is configured either."""
        provider = next(iter(self._endpoints.configured.values()), None)
        if provider is not None:
            return await self._first(provider)
        for server in self._endpoints.local.values():
            try:
                return self._endpoints.target(server, await self._endpoints.first_model(server))
            except ProviderFailed:
                continue  # it does not run: the usual case
        if self._embedded is not None:
            return self._embedded.target()
        raise ModelUnavailable(f"No model is configured. {_HOW_TO_ADD}")

    async def _first(self, provider: ProviderSettings) -> Target:
        if fault := self._endpoints.missing_key(provider):
            raise ModelUnavailable(fault)
        try:
            model = await self._endpoints.first_model(provider)
        except ProviderFailed as failed:
            raise ModelUnavailable(
                f"No model is named, and provider {provider.name!r} ({provider.source}) cannot be"
                f" asked for one: {failed.message} Name a model, or set TERTULIA_MODEL."
            ) from failed
        return self._endpoints.target(provider, model)

    async def _offer(self, provider: ProviderSettings) -> _Offer:
        """The models of one endpoint: the declared ones, else those that it lists."""
        listed: Sequence[ModelSettings] = ()
        fault = self._endpoints.missing_key(provider)
        if fault is None:
            try:
                listed = await self._endpoints.offered(provider)
            except ProviderFailed as failed:
                fault = None if failed.status in NO_LIST else failed.message
        return _Offer(provider.models or listed, fault)

    def _rows(self, provider: ProviderSettings, offer: _Offer) -> Iterator[ModelInfo]:
        for model in offer.models:
            target = self._endpoints.describe(provider, model)
            yield _info(self._endpoints.id_of(provider, model.id), target, offer.fault)
        if not offer.models and provider.name in self._endpoints.configured:
            whole = ModelSettings(f"{provider.name}/*")
            fault = offer.fault or (
                f"Provider {provider.name!r} ({provider.source}) lists no model:"
                " name one yourself, as its documentation writes it."
            )
            yield _info(whole.id, self._endpoints.describe(provider, whole), fault)

    def _default_row(
        self, models: Sequence[ModelInfo], offers: Mapping[str, _Offer]
    ) -> ModelInfo | None:
        """The entry of the default; the configured one has an entry even where nobody lists it."""
        wanted = self._settings.default_model
        if wanted is None:
            usual = self._usual_default([m.id for m in models])
            if usual is None and not self._endpoints.configured:
                # As in `_default`: a server of this machine that runs, else the embedded model.
                return next(iter(models), None)
            return next((m for m in models if m.id == usual), None)
        try:
            target = self._named(wanted)
        except ModelUnavailable as refused:
            known = (m for m in models if m.id == wanted and m.tertulia and m.tertulia.reason)
            return next(known, None) or _refused(wanted, refused.message)
        provider = self._endpoints.known(target.provider.name)
        model_id = self._endpoints.id_of(provider, target.model) if provider else wanted
        row = next((m for m in models if m.id == model_id), None)
        if row is not None or provider is None:
            return row
        offer = offers[provider.name]
        takes_any = provider is self._settings.pass_through or not offer.models
        unlisted = None if takes_any else f"Provider {provider.name!r} does not list it."
        fault = offer.fault or unlisted
        return _info(model_id, target, fault and f"{_IS_DEFAULT} {fault}")

    def _embedded_info(self) -> Iterator[ModelInfo]:
        if self._embedded is not None:
            problem = self._embedded.problem()
            yield _info(self._embedded.model_id, self._embedded.target(), problem)

    def _usual_default(self, ids: Sequence[str]) -> str | None:
        """The default among `ids` where none is configured."""
        known = self.default_model()
        if known is not None:
            return known
        provider = next(iter(self._endpoints.configured.values()), None)
        wanted = (
            [self._endpoints.id_of(provider, m) for m in provider.preferred] if provider else []
        )
        return next((w for w in wanted if w in ids), None)

    def _known(self) -> str:
        """What a refusal tells of the models that there are."""
        names = []
        for provider in self._endpoints.configured.values():
            names += [self._endpoints.id_of(provider, m.id) for m in provider.models] or [
                f"{provider.name}/..."
            ]
        if self._embedded is not None:
            names.append(self._embedded.model_id)
        shown = ", ".join(names[:NAMES_SHOWN]) or "none"
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return f"Configured: {shown}{more}. {_HOW_TO_ADD}"


class _Offer(NamedTuple):
    """What an endpoint has, as far as it is known, and why it cannot be used now."""

    models: Sequence[ModelSettings]
    fault: str | None


def _refused(model_id: str, why: str) -> ModelInfo:
    """The entry of a default that has no provider."""
    return ModelInfo(
        id=model_id,
        name=model_id,
        policy=ModelPolicy(state="disabled"),
        tertulia=ModelOrigin(provider="", available=False, reason=f"{_IS_DEFAULT} {why}"),
    )


def _default(model: ModelInfo) -> ModelInfo:
    if model.tertulia is None:
        return model
    origin = msgspec.structs.replace(model.tertulia, default=True)
    return msgspec.structs.replace(model, tertulia=origin)


def _info(model_id: str, target: Target, fault: str | None) -> ModelInfo:
    return ModelInfo(
        id=model_id,
        name=target.display_name,
        capabilities=ModelCapabilities(
            supports=ModelSupports(vision=target.vision, tool_calls=target.tools),
            limits=ModelLimits(
                max_context_window_tokens=target.context_window,
                max_output_tokens=target.max_output_tokens,
            ),
        ),
        policy=ModelPolicy(state="disabled" if fault else "enabled"),
        tertulia=ModelOrigin(provider=target.provider.name, available=fault is None, reason=fault),
    )
