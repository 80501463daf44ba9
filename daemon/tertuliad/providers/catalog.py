"""Which provider answers for a model's name; `listing` has all that can be used now.

A name is never given to another provider than the one it means: what cannot be placed is refused
with `ModelUnavailable`, whose text names what is known. Servers on this machine that nobody
configured are only asked when the models are listed, or when a default is needed and nothing else
is configured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from tertulia_protocol.errors import ModelUnavailable
from tertulia_protocol.provider_config import SessionProviders, refusal
from tertuliad import limits
from tertuliad.config import (
    EMBEDDED_NAME,
    LOCAL_NAMES,
    PRESETS,
    ProviderSettings,
    Settings,
)
from tertuliad.providers.base import ProviderFailed, Target
from tertuliad.providers.endpoints import Endpoints
from tertuliad.providers.http import Http
from tertuliad.providers.session_models import session_target

if TYPE_CHECKING:
    from tertulia_protocol.models import ModelInfo

_HOW_TO_ADD = (
    "Give session.create a provider (baseUrl and apiKey), put a [providers.NAME] table into"
    " config.toml, or set a variable such as OPENAI_API_KEY. The file and the variables are read"
    " when the daemon starts: restart it after a change. models.list shows what can be used."
)


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
        """All models, the default first; endpoints are asked at once and within a bound."""
        from tertuliad.providers.listing import Listing

        return await Listing(self._settings, self._endpoints, self._embedded, self._named).models()

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
        if rest and not declaring and self._is_anothers(head, taker):
            explicit = f" To ask {taker.name} for it all the same, say {taker.name}/{name}."
            raise ModelUnavailable(
                f"{name!r} is a model of {head!r}, and there is no such one here."
                f"{explicit if head != EMBEDDED_NAME else ''} {self._known()}"
            )
        return self._endpoints.target(taker, name)

    def _takes_any(self) -> ProviderSettings | None:
        """The provider for names that nobody declared: the pass-through, or a sole open one."""
        if self._settings.pass_through is not None:
            return self._settings.pass_through
        providers = [*self._endpoints.configured.values()]
        return providers[0] if len(providers) == 1 and not providers[0].models else None

    def _is_anothers(self, head: str, taker: ProviderSettings) -> bool:
        """Whether `head` names a place that is not configured, so that what is said is not for
        `taker`. The models of OpenRouter are named by their makers."""
        if head == EMBEDDED_NAME:
            return True
        if taker is self._settings.pass_through:
            return False
        return head in LOCAL_NAMES or (head in PRESETS and taker.name != "openrouter")

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

    def _known(self) -> str:
        """What a refusal tells of the models that there are."""
        names = []
        for provider in self._endpoints.configured.values():
            names += [self._endpoints.id_of(provider, m.id) for m in provider.models] or [
                f"{provider.name}/..."
            ]
        if self._embedded is not None:
            names.append(self._embedded.model_id)
        shown = ", ".join(names[: limits.MODEL_NAMES_TOLD]) or "none"
        more = (
            f" and {len(names) - limits.MODEL_NAMES_TOLD} more"
            if len(names) > limits.MODEL_NAMES_TOLD
            else ""
        )
        return f"Configured: {shown}{more}. {_HOW_TO_ADD}"
