"""A reply that is given later: what a handler returns when the answer waits for a commit.

A `Reply` is the future that python-lsp-jsonrpc's endpoint waits on. It is completed on the event
loop's thread only, so nothing of it is ever waited for with a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class Reply(Future[Any]):
    """Completed once, with a result or an exception; a second completion is ignored."""

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.on_cancel = on_cancel

    def cancel(self) -> bool:
        """Ask the work to stop. The answer still comes, from the work: never a cancelled future."""
        if self.on_cancel is not None:
            self.on_cancel()
        return False

    def give(self, result: Any) -> None:
        if not self.done():
            self.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.done():
            self.set_exception(error)

    def follow(self, source: Future[Any]) -> None:
        """Take over the outcome of `source`, which is done."""
        error = source.exception()
        if error is not None:
            self.fail(error)
        else:
            self.give(source.result())

    async def settled(self) -> Any:
        """Wait for the outcome; raises what the reply failed with."""
        return await settled(self)


async def settled(source: Future[T]) -> T:
    """Wait for the outcome of a future that is completed on the event loop's thread."""
    if not source.done():
        event = anyio.Event()
        source.add_done_callback(lambda _: event.set())
        await event.wait()
    return source.result()


def mapped(source: Future[T], change: Callable[[T], Any]) -> Reply:
    """A reply with `change(result)` once `source` has its result; failures pass through."""
    reply = Reply()

    def done(future: Future[T]) -> None:
        error = future.exception()
        if error is not None:
            reply.fail(error)
            return
        try:
            reply.give(change(future.result()))
        except Exception as failure:  # noqa: BLE001 - it belongs to whoever waits for the reply
            reply.fail(failure)

    source.add_done_callback(done)
    return reply


def all_settled(replies: list[Reply]) -> Reply:
    """A reply of None once all of `replies` have an outcome, whatever it is."""
    final = Reply()
    left = len(replies)

    def settle(_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            final.give(None)

    for reply in replies:
        reply.add_done_callback(settle)
    if not replies:
        final.give(None)
    return final
