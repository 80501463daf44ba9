"""Requests and their replies, through python-lsp-jsonrpc's `Endpoint`. Its only importer here.

The library correlates, and nothing else of it is used. What binds this file, because of what the
library does: its futures are never cancelled (it would raise out of `consume` on a late reply), so
callers wait on futures of ours; an error answer never passes through its exceptions (they fail on
extra members and lose the code 0), but comes as a result that is one of ours; futures that it would
leave behind are failed here; its loggers, which write whole messages, are off whatever the level.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pylsp_jsonrpc.endpoint import Endpoint

from tertulia.errors import RpcError, again

for _name in ("", ".endpoint", ".exceptions", ".dispatchers", ".streams"):
    logging.getLogger("pylsp_jsonrpc" + _name).disabled = True


class Calls:
    """The requests of one connection that wait for a reply. `send` takes each message to write."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        ids = itertools.count(1)
        self._endpoint = Endpoint({}, send, id_generator=lambda: next(ids), max_workers=1)
        self._waiting: set[Future[Any]] = set()

    def ask(self, method: str, params: Any) -> Future[Any]:
        """Send a request. The future ends with the result, an `RpcError`, or what `fail` gives."""
        answer: Future[Any] = Future()
        self._waiting.add(answer)
        asked = self._endpoint.request(method, params)
        asked.add_done_callback(lambda done: self._settle(answer, done.result()))
        return answer

    def reply(self, request_id: str | int, outcome: Any) -> None:
        """Settle the request with that id; an `RpcError` for its error. Unknown ids are dropped."""
        self._endpoint.consume({"jsonrpc": "2.0", "id": request_id, "result": outcome})

    def reply_without_id(self, error: RpcError) -> None:
        """An error for a message whose id the daemon could not read: of one that waits, its own."""
        if len(self._waiting) == 1:
            self._settle(next(iter(self._waiting)), error)

    def refuse(self, request_id: str | int, method: str) -> None:
        """Answer a question of the daemon's: this client answers none, which is -32601."""
        self._endpoint.consume({"jsonrpc": "2.0", "id": request_id, "method": method})

    def fail(self, error: Exception) -> None:
        """End every request that waits with `error`, each with one of its own."""
        for answer in list(self._waiting):
            self._settle(answer, again(error))

    def _settle(self, answer: Future[Any], outcome: Any) -> None:
        if answer not in self._waiting:
            return
        self._waiting.discard(answer)
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
