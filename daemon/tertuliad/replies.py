"""A reply that is given later: what a handler returns when the answer waits for a commit.

A `Reply` is the future that python-lsp-jsonrpc's endpoint waits on, and the store's answer too. It
is completed and looked at on the event loop's thread only, so it needs no lock: the one of
`concurrent.futures` makes up most of what a future costs, and a turn takes a dozen of them.

A refusal that a reply keeps holds no frames: with their traceback, each holds the request that was
refused, and mostly the reply, and all of that stays until the collector comes. What is a bug keeps
its traceback for the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

import anyio

from tertulia_protocol.errors import RpcError
from tertuliad.askers import asker, asking

log = logging.getLogger(__name__)

T = TypeVar("T")
_PENDING: Any = object()
_NOT_TAKEN = "what waited for a reply failed"


class Reply(Future[Any]):
    """Completed once, with a result or an exception; a second completion is ignored. `on_cancel`
    asks the work to stop."""

    def __init__(self, on_cancel: Callable[[], object] | None = None) -> None:
        # Not the base class's: nothing of it is used but its name.
        self.on_cancel = on_cancel
        self._result: Any = _PENDING
        self._exception: BaseException | None = None
        self._callbacks: list[Callable[[Future[Any]], object]] | None = None

    @classmethod
    def of(cls, result: Any) -> Reply:
        """A reply that has its result already."""
        reply = cls()
        reply._result = result
        return reply

    @classmethod
    def failed(cls, error: BaseException) -> Reply:
        """A reply that has failed already."""
        reply = cls()
        reply.fail(error)
        return reply

    def give(self, result: Any) -> None:
        if self._result is not _PENDING:
            return
        self._result = result
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:
                log.exception(_NOT_TAKEN)

    def fail(self, error: BaseException) -> None:
        if self._result is _PENDING:
            if isinstance(error, RpcError):
                error.__traceback__ = error.__cause__ = error.__context__ = None
            self._result, self._exception = None, error
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks or ():
                self._call(callback)

    def follow(self, source: Future[Any]) -> None:
        """Take over the outcome of `source`, which is done."""
        error = source.exception()
        if error is not None:
            self.fail(error)
        else:
            self.give(source.result())

    def settled(self) -> Coroutine[Any, Any, Any]:
        """Wait for the outcome; raises what the reply failed with."""
        return settled(self)

    def _call(self, callback: Callable[[Future[Any]], object]) -> None:
        error = self._exception
        bare = error is not None and error.__traceback__ is None
        try:
            callback(self)
        except Exception:
            log.exception(_NOT_TAKEN)
        if error is not None and bare:  # whoever raised it has added frames
            error.__traceback__ = error.__context__ = None

    # What a `Future` offers

    def cancel(self) -> bool:
        """Ask the work to stop. The answer still comes, from the work: never a cancelled future."""
        if self.on_cancel is not None:
            self.on_cancel()
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return self._result is _PENDING

    def done(self) -> bool:
        return self._result is not _PENDING

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        if self._result is not _PENDING:
            self._call(fn)
        elif self._callbacks is None:
            self._callbacks = [fn]
        else:
            self._callbacks.append(fn)

    def result(self, timeout: float | None = None) -> Any:
        """The outcome; nobody can wait here for one that is not there."""
        if self.exception(timeout) is None:
            return self._result
        try:
            raise self._exception  # type: ignore[misc]
        finally:
            del self  # what is raised holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._result is _PENDING:
            raise InvalidStateError("A reply that was not given yet was looked at.")
        return self._exception

    set_result = give
    set_exception = fail  # type: ignore[assignment]


async def settled(source: Future[T]) -> T:
    """Wait for the outcome of a future that is completed on the event loop's thread. Whoever leaves
    meanwhile asks the work to stop."""
    try:
        if not source.done():
            event = anyio.Event()
            source.add_done_callback(lambda _: event.set())
            await event.wait()
        return source.result()
    finally:
        if not source.done():
            source.cancel()
        del source  # what is raised holds this frame, and may do so until the collector comes


def _made(source: Future[T], make: Callable[[T], Any]) -> Reply:
    """A reply of what `make` makes of the result of `source`, which is done."""
    error = source.exception()
    if error is not None:
        return Reply.failed(error)
    try:
        return Reply.of(make(source.result()))
    except Exception as failure:  # noqa: BLE001 - it belongs to whoever waits for the reply
        return Reply.failed(failure)


def mapped(source: Future[T], change: Callable[[T], Any]) -> Reply:
    """A reply with `change(result)` once `source` has its result; failures pass through. What
    cancels it cancels `source`."""
    if source.done():
        return _made(source, change)
    reply = Reply(source.cancel)
    source.add_done_callback(lambda done: reply.follow(_made(done, change)))
    return reply


def then(source: Future[T], go_on: Callable[[T], Future[Any]]) -> Reply:
    """A reply that follows `go_on(result)` once `source` has its result; failures pass through.
    What cancels it cancels what it waits for, or will wait for. Whoever asks now asks on then."""
    if source.done():
        made = _made(source, go_on)
        return made if made.exception() is not None else _as_reply(made.result())
    who = asker.get()
    under_way: list[Future[Any]] = [source]
    is_cancelled = False

    def cancel() -> None:
        nonlocal is_cancelled
        is_cancelled = True
        under_way[0].cancel()

    reply = Reply(cancel)

    def done(first: Future[T]) -> None:
        with asking(who):
            made = _made(first, go_on)
        if made.exception() is not None:
            reply.follow(made)
            return
        under_way[0] = following = made.result()
        following.add_done_callback(reply.follow)
        if is_cancelled:
            following.cancel()

    source.add_done_callback(done)
    return reply


def _as_reply(source: Future[Any]) -> Reply:
    return source if isinstance(source, Reply) else mapped(source, lambda result: result)


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
