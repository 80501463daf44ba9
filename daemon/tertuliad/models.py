"""The models of the daemon, as the rest of it sees them; their modules are imported when asked.

Nothing about models is needed to answer a handshake, and reading their modules is a tenth of the
start. `warm` reads them, and the HTTP client, in a thread while the first session is set up.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from tertulia_protocol.provider_config import SessionProviders
from tertuliad.config import Settings
from tertuliad.providers.base import Target

if TYPE_CHECKING:
    from tertulia_protocol.models import ModelInfo
    from tertuliad.providers.catalog import Catalog
    from tertuliad.providers.embedded import EmbeddedModel
    from tertuliad.providers.http import Http


class Models:
    """One for each daemon; see `Catalog` for what each call does and raises."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self, model: str | None, given: SessionProviders | None) -> None:
        self._catalog.check(model, given)

    async def resolve(self, model: str | None, given: SessionProviders | None) -> Target:
        return await self._catalog.resolve(model, given)

    async def list(self) -> list[ModelInfo]:
        return await self._catalog.list()

    async def warm(self) -> None:
        """Import what the first turn needs, without holding up the event loop."""
        await anyio.to_thread.run_sync(importlib.import_module, "tertuliad.providers.catalog")
        await self._http.warm()

    async def aclose(self) -> None:
        """End the embedded model's process and close all connections."""
        for part in ("_embedded", "_http"):
            if part in self.__dict__:
                await getattr(self, part).aclose()

    @functools.cached_property
    def _catalog(self) -> Catalog:
        from tertuliad.providers.catalog import Catalog

        return Catalog(self._settings, self._http, self._embedded)

    @functools.cached_property
    def _http(self) -> Http:
        from tertuliad.providers.http import Http

        return Http()

    @functools.cached_property
    def _embedded(self) -> EmbeddedModel:
        from tertuliad.providers.embedded import EmbeddedModel

        given = self._settings.embedded
        return EmbeddedModel(
            model_path=Path(given.model_path) if given.model_path else None,
            threads=given.threads,
            slots=given.slots,
            context=given.context,
        )
