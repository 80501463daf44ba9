"""The scripted models, each a process of its own, so that none of them is what is measured.

One is enough: with 1,000 streams it needs half the processor time of the client that reads them
(0.45 of 0.9 s for 50,000 chunks, 2 cores), and three of them are no faster.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "tests" / "support" / "scripted_model.py"
STOP_S = 10


@contextlib.contextmanager
def scripted_models(count: int) -> Iterator[list[str]]:
    """So many of them; their base URLs."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_scripted_model()) for _ in range(count)]


@contextlib.contextmanager
def _scripted_model() -> Iterator[str]:
    command = [sys.executable, str(MODEL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(process.stdout.readline().rpartition(b":")[2])
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.stdin.close()
            process.wait(STOP_S)
