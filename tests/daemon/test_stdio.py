"""The standard streams: only frames on standard output, and no waiting that blocks others."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tertuliad import stdio
from tertuliad.stdio import StdioStream

pytestmark = pytest.mark.anyio


class Pipes:
    """The far ends of a process's standard streams."""

    def __init__(self) -> None:
        self.stdin, self.to_stdin = os.pipe()
        self.from_stdout, self.stdout = os.pipe()

    def close(self) -> None:
        for fd in (self.stdin, self.to_stdin, self.from_stdout, self.stdout):
            try:
                os.close(fd)
            except OSError:
                continue  # the test closed it


@pytest.fixture
def standard() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.close()


async def test_bytes_come_as_they_were_written(standard: Pipes) -> None:
    stream = StdioStream(standard.stdin, standard.stdout)
    with anyio.fail_after(20):
        os.write(standard.to_stdin, b"one")
        assert await stream.receive() == b"one"
        os.write(standard.to_stdin, b"two")
        assert await stream.receive(2) == b"tw"
        assert await stream.receive(2) == b"o"
        await stream.send(b"answer")
    assert os.read(standard.from_stdout, 100) == b"answer"
    await stream.aclose()


async def test_a_read_that_fails_is_the_end_of_input(
    standard: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a terminal's, to a process in the background that nobody is in charge of."""
    stream = StdioStream(standard.stdin, standard.stdout)
    with anyio.fail_after(20):
        os.write(standard.to_stdin, b"one")
        assert await stream.receive() == b"one"

        def gone(fd: int, size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "read", gone)
        os.write(standard.to_stdin, b"what nobody can read")
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
    monkeypatch.undo()
    await stream.aclose()


async def test_a_reader_waits_without_holding_up_others(standard: Pipes) -> None:
    stream = StdioStream(standard.stdin, standard.stdout)
    got: list[bytes] = []

    async def read() -> None:
        got.append(await stream.receive())

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert got == []
            os.write(standard.to_stdin, b"now")
    assert got == [b"now"]
    await stream.aclose()


async def test_a_client_that_floods_leaves_others_their_turn(standard: Pipes) -> None:
    stream = StdioStream(standard.stdin, standard.stdout)
    os.write(standard.to_stdin, b"x" * 50)
    taken: list[int] = []

    async def other() -> None:
        taken.append(left)

    left = 50
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            while left:
                await stream.receive(1)
                left -= 1
    assert taken[0] > 40, "the other task had to wait until the flood was over"
    await stream.aclose()


async def test_no_more_is_read_ahead_than_its_bound(
    standard: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "READ_AHEAD_BYTES", 10)
    monkeypatch.setattr(stdio, "READ_CHUNK_BYTES", 4)
    stream = StdioStream(standard.stdin, standard.stdout)
    sent = bytes(range(100))
    os.write(standard.to_stdin, sent)
    with anyio.fail_after(20):
        read = await stream.receive()
        await anyio.wait_all_tasks_blocked()
        os.set_blocking(standard.stdin, False)
        left = len(os.read(standard.stdin, 200))
        assert 100 - left <= len(read) + 12, "it was read on while nobody took it"
        taken = 100 - left
        while len(read) < taken:
            read += await stream.receive()
    assert read == sent[:taken]
    await stream.aclose()


async def test_the_end_of_input_is_told(standard: Pipes) -> None:
    stream = StdioStream(standard.stdin, standard.stdout)
    os.write(standard.to_stdin, b"last")
    os.close(standard.to_stdin)
    with anyio.fail_after(20):
        assert await stream.receive() == b"last"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
    await stream.aclose()


async def test_a_long_answer_is_written_whole_at_the_readers_pace(standard: Pipes) -> None:
    stream = StdioStream(standard.stdin, standard.stdout)
    sent = os.urandom(1_000_000)
    read = bytearray()

    async def reader() -> None:
        while len(read) < len(sent):
            read.extend(await anyio.to_thread.run_sync(os.read, standard.from_stdout, 70_000))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await stream.send(sent)
    assert bytes(read) == sent
    await stream.aclose()


async def test_a_reader_that_is_gone_breaks_the_stream(standard: Pipes) -> None:
    stream = StdioStream(standard.stdin, standard.stdout)
    os.close(standard.from_stdout)
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"x")
    await stream.aclose()


async def test_the_descriptors_are_given_back_as_they_were(standard: Pipes) -> None:
    os.set_blocking(standard.stdout, False)
    stream = StdioStream(standard.stdin, standard.stdout)
    assert not os.get_blocking(standard.stdin)
    await stream.aclose()
    assert os.get_blocking(standard.stdin)
    assert not os.get_blocking(standard.stdout)


async def test_files_are_streams_too(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        stream = StdioStream(source.fileno(), target.fileno())
        assert await stream.receive() == b"from a file"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send(b"to a file")
        await stream.aclose()
    assert (tmp_path / "out").read_bytes() == b"to a file"


NOISY = """
import os, subprocess, sys
from tertuliad.descriptors import claim_stdout
real = claim_stdout()
print("from print")
sys.stdout.write("from sys.stdout\\n")
sys.stdout.flush()
os.write(1, b"from descriptor 1\\n")
subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
os.write(real, b"FRAME")
"""


def test_whatever_prints_only_frames_reach_standard_output() -> None:
    ran = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, timeout=60, check=True)
    assert ran.stdout == b"FRAME"
    for source in (b"print", b"sys.stdout", b"descriptor 1", b"a child"):
        assert b"from " + source in ran.stderr


def test_a_child_does_not_inherit_standard_output() -> None:
    program = """
import os, subprocess, sys
from tertuliad.descriptors import claim_stdout
real = claim_stdout()
look = "import os, sys\\ntry: os.fstat(int(sys.argv[1]))\\nexcept OSError: sys.exit(3)"
ran = subprocess.run([sys.executable, "-c", look, str(real)], close_fds=False)
os.write(real, b"%d" % ran.returncode)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert ran.stdout == b"3", ran.stderr
