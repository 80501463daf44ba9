"""The command `tertulia` in a process of its own, for the tests of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.clients.conftest import BOUND_S

TERTULIA = [sys.executable, "-m", "tertulia"]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that the test writes to, reads from, and waits for. It is killed after `BOUND_S`, so that
    a read of what never comes ends, and where the test fails before."""
    with subprocess.Popen(
        [*TERTULIA, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        bound = threading.Timer(BOUND_S, process.kill)
        bound.start()
        try:
            yield process
        finally:
            bound.cancel()
            process.kill()


def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TERTULIA, *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, **env},
        timeout=BOUND_S,
        check=False,
    )


def ok(*arguments: str, stdin: str = "", **env: str) -> str:
    done = run(*arguments, stdin=stdin, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout
