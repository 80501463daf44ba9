"""Methods about the models."""

from __future__ import annotations

from tertulia_protocol.methods import models as methods
from tertuliad.handlers.context import Caller, Context


async def listed(
    ctx: Context, caller: Caller, params: methods.ModelsListParams
) -> methods.ModelsListResult:
    return methods.ModelsListResult(models=await ctx.models.list())
