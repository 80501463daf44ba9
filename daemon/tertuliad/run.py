"""A daemon on its event loop, until its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio

from tertuliad.daemon import Daemon
from tertuliad.descriptors import tell
from tertuliad.start import Start


def run(start: Start) -> int:
    """Run a daemon until its end; the process's exit status."""

    async def root() -> None:
        async with anyio.create_task_group() as tasks:
            await Daemon(start, tasks).serve()

    backend: dict[str, Any] = {}
    with contextlib.suppress(ImportError):
        import uvloop

        backend["loop_factory"] = uvloop.new_event_loop
    try:
        with _explained():
            anyio.run(root, backend="asyncio", backend_options=backend)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What a person can do something about is said in a line, without a traceback."""
    try:
        yield
    except BaseExceptionGroup as group:
        from tertuliad.listeners import ListenFailed

        told, others = group.split(ListenFailed)
        if told is None or others is not None:
            raise
        for error in _leaves(told):
            tell(error)
        raise SystemExit(1) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
