"""What `models.list` answers: the models that can be used now, and why others cannot.

A configured endpoint without a model to name has one entry for all of them, `NAME/*`, and a
configured default that nobody lists has its own: each is disabled, or says why it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
from tertuliad.config import ModelSettings, ProviderSettings, Settings
from tertuliad.providers.base import ProviderFailed, Target
from tertuliad.providers.endpoints import NO_LIST, Endpoints, first_of

if TYPE_CHECKING:
    from tertuliad.providers.catalog import Embedded

_IS_DEFAULT = "It is configured as the default (TERTULIA_MODEL, or default_model in config.toml)."


class _Offer(NamedTuple):
    """What an endpoint has, as far as it is known, and why it cannot be used now."""

    models: Sequence[ModelSettings]
    fault: str | None


class Listing:
    """Made for one answer."""

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        embedded: Embedded | None,
        named: Callable[[str], Target],
    ) -> None:
        """`named` places a model's name, or raises `ModelUnavailable`."""
        self._settings = settings
        self._endpoints = endpoints
        self._embedded = embedded
        self._named = named
        self._offers: dict[str, _Offer] = {}

    async def models(self) -> list[ModelInfo]:
        """All of them, the default first; endpoints are asked at once and within a bound."""
        sources = [*self._endpoints.configured.values(), *self._endpoints.local.values()]
        async with anyio.create_task_group() as tasks:
            for provider in sources:
                tasks.start_soon(self._ask, provider)
        models = [model for provider in sources for model in self._rows(provider)]
        models += self._embedded_row()
        first = self._default_row(models)
        return [_default(first), *(m for m in models if m is not first)] if first else models

    async def _ask(self, provider: ProviderSettings) -> None:
        self._offers[provider.name] = await self._offer(provider)

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

    def _rows(self, provider: ProviderSettings) -> Iterator[ModelInfo]:
        offer = self._offers[provider.name]
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

    def _embedded_row(self) -> Iterator[ModelInfo]:
        if self._embedded is not None:
            problem = self._embedded.problem()
            yield _info(self._embedded.model_id, self._embedded.target(), problem)

    def _default_row(self, models: Sequence[ModelInfo]) -> ModelInfo | None:
        wanted = self._settings.default_model
        return self._usual_row(models) if wanted is None else self._configured_row(wanted, models)

    def _usual_row(self, models: Sequence[ModelInfo]) -> ModelInfo | None:
        """Where no default is configured: the first provider's first model. Without a provider, a
        server of this machine that runs, else the embedded model."""
        provider = next(iter(self._endpoints.configured.values()), None)
        if provider is None:
            return next(iter(models), None)
        first = first_of(provider, self._offers[provider.name].models)
        return None if first is None else _row_of(self._endpoints.id_of(provider, first), models)

    def _configured_row(self, wanted: str, models: Sequence[ModelInfo]) -> ModelInfo | None:
        """That of the configured default, which has one even where nobody lists it."""
        try:
            target = self._named(wanted)
        except ModelUnavailable as refused:
            known = (m for m in models if m.id == wanted and m.tertulia and m.tertulia.reason)
            return next(known, None) or _refused(wanted, refused.message)
        provider = self._endpoints.known(target.provider.name)
        model_id = self._endpoints.id_of(provider, target.model) if provider else wanted
        row = _row_of(model_id, models)
        if row is not None or provider is None:
            return row
        fault = self._why_unlisted(provider)
        return _info(model_id, target, fault and f"{_IS_DEFAULT} {fault}")

    def _why_unlisted(self, provider: ProviderSettings) -> str | None:
        offer = self._offers[provider.name]
        takes_any = provider is self._settings.pass_through or not offer.models
        return offer.fault or (
            None if takes_any else f"Provider {provider.name!r} does not list it."
        )


def _row_of(model_id: str, models: Sequence[ModelInfo]) -> ModelInfo | None:
    return next((model for model in models if model.id == model_id), None)


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
