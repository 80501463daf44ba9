"""The log goes to standard error, never blocks, and says what it lost."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest
import uvloop

from tertuliad.process_log import PIPE_ATOMIC_BYTES, LossyHandler, tells_something


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue  # the test closed it


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("tertuliad", logging.INFO, __file__, 1, text, None, None)


def fill(write_end: int) -> None:
    """Put so much into a pipe that it takes no more."""
    os.set_blocking(write_end, False)
    try:
        while os.write(write_end, b"." * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(write_end, True)


def drain(read_end: int) -> bytes:
    """All that is in a pipe now."""
    got = b""
    while select.select([read_end], [], [], 0)[0]:
        got += os.read(read_end, 65536)
    return got


def test_a_record_is_a_line(pipe: tuple[int, int]) -> None:
    handler = LossyHandler(pipe[1])
    handler.emit(line("hello ü"))
    handler.emit(line("there"))
    assert os.read(pipe[0], 100).decode() == "hello ü\nthere\n"


def test_a_full_pipe_loses_lines_and_says_how_many(pipe: tuple[int, int]) -> None:
    handler = LossyHandler(pipe[1])
    fill(pipe[1])
    for number in range(3):
        handler.emit(line(f"lost {number}"))
    assert b"lost" not in drain(pipe[0])
    handler.emit(line("found"))
    handler.emit(line("and on"))
    assert drain(pipe[0]) == b"(3 lines were lost here)\nfound\nand on\n"


def test_a_long_line_is_cut_and_never_blocks(pipe: tuple[int, int]) -> None:
    handler = LossyHandler(pipe[1])
    handler.emit(line("x" * 1_000_000))
    got = drain(pipe[0])
    assert len(got) == PIPE_ATOMIC_BYTES
    assert got.endswith(b"x\n")


def test_a_reader_that_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    handler = LossyHandler(pipe[1])
    os.close(pipe[0])
    handler.emit(line("to nobody"))
    os.close(pipe[1])
    handler.emit(line("to nothing"))


PROGRAM = """
import logging, sys
from tertuliad import process_log
process_log.set_up(sys.argv[1])
for name in ("tertuliad.x", "somebody.else"):
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging.getLogger(name), level)(f"{name}:{level}")
"""


@pytest.mark.parametrize(
    ("level", "ours", "others"),
    [
        ("none", [], []),
        ("error", ["error", "critical"], ["error", "critical"]),
        ("info", ["info", "warning", "error", "critical"], ["warning", "error", "critical"]),
        (
            "debug",
            ["debug", "info", "warning", "error", "critical"],
            ["warning", "error", "critical"],
        ),
    ],
)
def test_a_level_is_for_our_own_lines_and_libraries_warn(
    level: str, ours: list[str], others: list[str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, level],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = [text.rpartition(" ")[2] for text in ran.stderr.splitlines()]
    assert ran.stdout == ""
    assert said == [
        *(f"tertuliad.x:{each}" for each in ours),
        *(f"somebody.else:{each}" for each in others),
    ]


def reported(callback: str) -> list[bool]:
    """What is thought of the loop's report of a callback that fails, on each loop there is."""
    thoughts: list[bool] = []
    handler = logging.Handler()
    handler.emit = lambda record: thoughts.append(tells_something(record))  # type: ignore[method-assign]
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(_fail(callback))
    finally:
        logger.removeHandler(handler)
    return thoughts


async def _fail(callback: str) -> None:
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    gone.cancel()
    loop.call_soon(getattr(gone, callback), None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_wake_up_that_came_too_late_is_no_news() -> None:
    assert reported("set_result") == [False, False]


def test_a_record_that_was_told_of_no_exception_is_told() -> None:
    record = line("the loop cannot be made")
    setattr(record, "exc_info", False)  # noqa: B010 - as logging has it, whatever its types say
    assert tells_something(record)


def test_other_failures_of_the_loop_are_told() -> None:
    assert reported("set_exception") == [True, True]
