"""The process ends though nobody reads what it has to say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.wire import BOUND_S

ENDS = """
import threading
from tertuliad.lifetime import end_anyway
end_anyway(0.01, status=3)
threading.Event().wait()
"""
ENDS_WITH_A_FULL_PIPE = """
import os, threading
from tertuliad.lifetime import end_anyway
os.set_blocking(2, False)
for size in (4096, 1):
    try:
        while True:
            os.write(2, b"x" * size)
    except BlockingIOError:
        pass
os.set_blocking(2, True)
end_anyway(0.01, status=3)
threading.Event().wait()
"""


def test_a_stop_that_takes_too_long_is_ended_though_nobody_reads_standard_error() -> None:
    unread, stderr = os.pipe()
    with subprocess.Popen([sys.executable, "-c", ENDS_WITH_A_FULL_PIPE], stderr=stderr) as process:
        try:
            assert process.wait(BOUND_S) == 3
        finally:
            process.kill()
            os.close(stderr)
            os.close(unread)


@pytest.mark.parametrize("become", ["closed", "not read by anybody"])
def test_a_stop_that_takes_too_long_is_ended_whatever_has_become_of_standard_error(
    become: str,
) -> None:
    unread, stderr = os.pipe()
    close = "import os; os.close(2)\n" if become == "closed" else ""
    with subprocess.Popen([sys.executable, "-c", close + ENDS], stderr=stderr) as process:
        os.close(stderr)
        os.close(unread)
        try:
            assert process.wait(BOUND_S) == 3
        finally:
            process.kill()
