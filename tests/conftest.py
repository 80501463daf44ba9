"""What every test shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.model_thread import ModelThread


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The daemon runs on anyio's asyncio backend only."""
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data folder that is not there yet."""
    return tmp_path / "home"


@pytest.fixture
def model() -> Iterator[ModelThread]:
    """A scripted model behind HTTP, beside the test."""
    with ModelThread() as model:
        yield model


# Started in the background of a shell, or by `nohup`, pytest ignores these, and so would all that
# it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The machines' comparisons stand beside their tests: they too say where two lists differ.
pytest.register_assert_rewrite("tests.machine")
