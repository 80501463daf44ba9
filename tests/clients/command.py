"""The command `tertulia` in a process of its own, for the tests of it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.clients.conftest import BOUND_S

TERTULIA = [sys.executable, "-m", "tertulia"]


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
