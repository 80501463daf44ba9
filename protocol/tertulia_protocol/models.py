"""The entries of `models.list`.

Member names are those of the wire; limits keep their snake_case. `policy.terms` and
`capabilities.supports` are always sent, as some SDKs fail without them.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class VisionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`max_prompt_image_size` is in bytes."""

    supported_media_types: list[str]
    max_prompt_images: int
    max_prompt_image_size: int


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """In tokens; absent where nobody says."""

    max_context_window_tokens: int | None = None
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    vision: VisionLimits | None = None


class ModelSupports(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    vision: bool = False
    reasoning_effort: bool = False
    tool_calls: bool = True


class ModelCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    supports: ModelSupports = ModelSupports()
    limits: ModelLimits = ModelLimits()


class ModelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`disabled` is a model that cannot be used now; `tertulia.reason` says why."""

    state: Literal["enabled", "disabled", "unconfigured"] = "enabled"
    terms: str = ""


class ModelBilling(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    multiplier: float | None = None


class ModelOrigin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who answers for the model, whether it can be used now, and what to know or do about it.
    `default`: a session without a model gets it."""

    provider: str
    available: bool
    reason: str | None = None
    default: bool = False


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One model. `id` is what `session.create` takes; `tertulia` is our addition."""

    id: str
    name: str
    capabilities: ModelCapabilities = msgspec.field(default_factory=ModelCapabilities)
    policy: ModelPolicy | None = None
    billing: ModelBilling | None = None
    supported_reasoning_efforts: list[str] | None = None
    default_reasoning_effort: str | None = None
    supported_context_tiers: list[str] | None = None
    model_picker_category: Literal["lightweight", "versatile", "powerful"] | None = None
    model_picker_price_category: Literal["low", "medium", "high", "very_high"] | None = None
    tertulia: ModelOrigin | None = None
