"""Methods about the models that sessions can be answered by."""

from __future__ import annotations

from tertulia_protocol.models import ModelInfo
from tertulia_protocol.shapes import Params, Result


class ModelsListParams(Params, frozen=True, kw_only=True):
    selection_id: str | None = None


class ModelsListResult(Result, frozen=True, kw_only=True):
    models: list[ModelInfo]
