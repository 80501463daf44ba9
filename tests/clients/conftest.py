"""A scripted model and a data folder for the clients' tests; the daemon is the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
BOUND_S = 60.0
"""Nothing a test waits for takes so long; reaching it is a failure and not a measurement."""


class Model:
    """A scripted model in a process of its own. Lives for the whole run."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    @property
    def provider(self) -> dict[str, Any]:
        return {"type": "openai", "baseUrl": self.base_url, "apiKey": "key-of-a-test"}

    @property
    def requests(self) -> int:
        """How many requests it has had."""
        root = self.base_url.removesuffix("/v1")
        with urllib.request.urlopen(f"{root}/stats", timeout=BOUND_S) as response:
            import json

            return int(json.load(response)["requests"])


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    script = REPO / "tests" / "support" / "scripted_model.py"
    with subprocess.Popen(
        [sys.executable, str(script), "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Model(f"http://127.0.0.1:{int(line.rpartition(':')[2])}/v1")
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=BOUND_S)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model) -> Path:
    """An environment in which the scripted model is the only provider; the home's path."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith(("TERTULIA", "COPILOT", "OPENAI")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("TERTULIA_HOME", str(home))
    monkeypatch.setenv("COPILOT_PROVIDER_BASE_URL", model.base_url)
    monkeypatch.setenv("COPILOT_MODEL", "fake-n3")
    monkeypatch.setenv("NO_PROXY", "*")
    return home


@pytest.fixture
def home(environment: Path) -> Path:
    return environment
