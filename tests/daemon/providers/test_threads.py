"""Where the system gives no more threads, libuv would end the process with the first connection to
a model: that call is refused before."""

from __future__ import annotations

import threading

import pytest

from tertuliad import threads
from tertuliad.providers.base import ProviderFailed
from tertuliad.providers.http import Http

pytestmark = pytest.mark.anyio


async def test_without_the_threads_that_a_connection_takes_the_call_is_refused_until_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    http, start = Http(), threading.Thread.start
    left = [1, 1, 1]

    def start_few(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_few)
        with pytest.raises(ProviderFailed) as refused:
            await http.ask("GET", "http://127.0.0.1:1/", headers={})
    assert (refused.value.kind, refused.value.message) == ("unavailable", threads.TOLD)
    assert refused.value.retryable
    assert not any(thread.name == "tried" for thread in threading.enumerate())
    with pytest.raises(ProviderFailed, match="refused the connection"):
        await http.ask("GET", "http://127.0.0.1:1/", headers={})
    await http.aclose()
