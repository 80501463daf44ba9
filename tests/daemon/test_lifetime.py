"""The process ends with the one that it watches, and though nobody reads what it has to say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import anyio
import pytest

from tertuliad import limits
from tertuliad.lifetime import wait_for_death
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


def test_a_stop_that_takes_too_long_is_ended_though_there_is_no_thread_for_it() -> None:
    refuse = """
import threading
def refused(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refused
"""
    with subprocess.Popen([sys.executable, "-c", refuse + ENDS]) as process:
        try:
            assert process.wait(BOUND_S) == -signal.SIGALRM
        finally:
            process.kill()


@pytest.mark.anyio
@pytest.mark.parametrize("platform", ["with a file for a process", "without one"])
async def test_the_death_of_a_process_is_seen(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PARENT_POLL_S", 0.001)
    if platform == "without one":
        monkeypatch.delattr(os, "pidfd_open")
    seen = anyio.Event()

    async def watch(pid: int) -> None:
        await wait_for_death(pid, is_parent=False)
        seen.set()

    async with anyio.create_task_group() as tasks:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            tasks.start_soon(watch, process.pid)
            await anyio.wait_all_tasks_blocked()
            assert not seen.is_set()
            process.kill()
            process.wait(BOUND_S)
            with anyio.fail_after(BOUND_S):
                await seen.wait()


@pytest.mark.anyio
@pytest.mark.parametrize("platform", ["with a file for a process", "without one"])
async def test_a_parent_that_is_another_one_by_now_is_gone(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform == "without one":
        monkeypatch.delattr(os, "pidfd_open")
    with anyio.fail_after(BOUND_S):
        await wait_for_death(os.getpid(), is_parent=True)
