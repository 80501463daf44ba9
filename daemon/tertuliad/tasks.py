"""How those who need a task get one: the daemon's root task group, as they see it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Starts a task that outlives every connection; its failure is logged and ends nothing."""
