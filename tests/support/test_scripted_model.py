"""The test double itself, where other tests do not show it: as a process, and its bookkeeping."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_connection import EARLY_S, Connection
from tests.support.model_script import Call
from tests.support.scripted_model import ScriptedModel

SCRIPT = Path(__file__).with_name("scripted_model.py")
BOUND_S = 20


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("NO_PROXY", "*")
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--models", "a,b"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("scripted model on 127.0.0.1:")
    return "http://" + line.split()[-1]


def call(url: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=BOUND_S) as answer:
        content: bytes = answer.read()
    return content


def chat(base: str, spec: str, text: str = "hi", *, stream: bool = True) -> bytes:
    messages = [{"role": "user", "content": "first"}, {"role": "user", "content": text}]
    body = {"model": spec, "stream": stream, "messages": messages}
    return call(f"{base}/v1/chat/completions", body)


def test_the_process_ends_with_its_stdin(process: subprocess.Popen[str]) -> None:
    address(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(BOUND_S) == 0


def test_the_process_ends_on_sigterm(process: subprocess.Popen[str]) -> None:
    address(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(BOUND_S) == 0


def test_the_books_are_kept(process: subprocess.Popen[str]) -> None:
    base = address(process)
    listed = json.loads(call(f"{base}/v1/models"))
    assert [m["id"] for m in listed["data"]] == ["a", "b"]
    assert chat(base, "fake-n3-d1").endswith(b"data: [DONE]\n\n")
    stats = json.loads(call(f"{base}/stats"))
    assert stats["byPath"] == {"/v1/models": 1, "/v1/chat/completions": 1}
    assert (stats["requests"], stats["active"], stats["aborted"]) == (2, 0, 0)
    (last,) = json.loads(call(f"{base}/last"))
    assert (last["model"], last["n"], last["users"], last["stream"]) == ("fake-n3-d1", 2, 2, True)
    call(f"{base}/reset", {})
    assert json.loads(call(f"{base}/stats"))["requests"] == 0


@pytest.mark.parametrize(
    ("spec", "text", "answer"),
    [
        ("fake-n2-s12", "hi", "w0 lorem ipsw1 lorem ips"),
        ("other", "hi", "w0 lo"),
        ("other", "[[fake-n2-s2]]", "w0w1"),
        ("fake-history", "hi", "first | hi"),
        ("fake-crowd1", "hi", "w0 lo"),
        ("fake", "[[say: what I say]]", "what I say"),
        ("fake-echo", "hi", None),
    ],
)
def test_the_answer_follows_the_script(
    process: subprocess.Popen[str], spec: str, text: str, answer: str | None
) -> None:
    base = address(process)
    whole = json.loads(chat(base, spec, text, stream=False))
    said = whole["choices"][0]["message"]["content"]
    assert said == answer or (answer is None and said.startswith("messages=2 users=2 bytes="))
    streamed = ""
    for event in chat(base, spec, text).split(b"\n\n"):
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:])["choices"]:
                streamed += choice["delta"].get("content") or ""
    assert streamed == said or answer is None


class StandingClock(asyncio.SelectorEventLoop):
    """A loop that stands still: the test sets its time and makes its calls."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, callback: Callable[[], object], *_: object, context: Any = None
    ) -> asyncio.TimerHandle:
        self.due.append(callback)
        return asyncio.TimerHandle(when, callback, (), self, context)


class Written(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data


def test_a_chunk_that_is_due_though_rounding_does_not_owe_it_yet_comes_a_little_later() -> None:
    def rounded_down(start: float) -> bool:
        due = start + 36 * 0.01
        return due - EARLY_S + EARLY_S == due and int((due - start) / 0.01) == 35

    start = next(filter(rounded_down, (6709 + k / 7 for k in itertools.count())))
    loop = StandingClock()
    model = ScriptedModel()
    model.loop = loop
    loop.now = start
    connection = Connection(model)
    connection.transport = written = Written()
    connection.begin(Call(1, {"model": "fake-n50-d10", "stream": True}, 0))
    loop.now = start + 36 * 0.01 - EARLY_S
    for _ in range(10):
        loop.due.pop()()
    assert b"w35 " in written.data
    assert b"w36 " not in written.data
    loop.now = start + 1
    loop.due.pop()()
    assert written.data.endswith(b"0\r\n\r\n")
    loop.close()
