"""A daemon from its start to its end: the event loop it runs on, and what is told of a start that
fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import anyio

from tertuliad import limits, open_files
from tertuliad.daemon import Daemon
from tertuliad.options import Options


def run(options: Options, stdout: int) -> int:
    """Run a daemon until its end; the process's exit status."""

    if not open_files.can_open(limits.FILES_AT_LEAST):
        _tell(open_files.told())
        return 1

    async def root() -> None:
        async with anyio.create_task_group() as tasks:
            await Daemon(options, tasks).serve(stdout)

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
        from tertuliad.config import ConfigError
        from tertuliad.listeners import ListenFailed

        told, others = group.split((ConfigError, ListenFailed))
        if told is None or others is not None:
            raise
        for error in _leaves(told):
            _tell(error)
        raise SystemExit(1) from None


def _tell(error: object) -> None:
    # A path may have bytes that are no text: they go out as they came in.
    os.write(2, f"tertuliad: {error}\n".encode(errors="surrogateescape"))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
