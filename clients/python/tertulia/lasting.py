"""A session for people that outlives the daemon it was opened in.

Where the connection is lost, the next daemon is found as the first one was: at the address that was
given, else in the home. There a shared one has some seconds to come back before a daemon of this
client's own takes its place; one of its own is started anew at once.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

from tertulia import limits
from tertulia.client import Client
from tertulia.commands.common import own_client, shared_client
from tertulia.errors import ConnectionLost, Draining, RpcError, TertuliaError
from tertulia.params import SILENT
from tertulia.patience import Backoff
from tertulia.talk import opened


class LastingSession:
    """Lives as long as its `with` block; `session` is another object after each `come_back`."""

    def __init__(self, options: argparse.Namespace, session_id: str, given: dict[str, Any]) -> None:
        self._options = options
        found = shared_client(options)
        self._own = found is None
        self._client = found or own_client(options)
        try:
            self.session, self.new = opened(self._client, session_id, given)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> LastingSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def come_back(self) -> None:
        """Connect and attach anew. Raises `SessionNotFound`, or what the last try was refused with
        where no daemon comes back in time."""
        self._client.close()
        seconds = limits.RECONNECT_S if self._options.connect else limits.SHARED_BACK_S
        backoff = Backoff(time.monotonic() + seconds)
        while not self._tried(wait := backoff.wait(time.monotonic())):
            time.sleep(wait or 0.0)

    def forget_if_unused(self) -> None:
        """Delete a session in which nobody has said anything."""
        with contextlib.suppress(TertuliaError, RpcError):
            if not self.session.rewind_points():
                self._client.delete_session(self.session.id)

    def _tried(self, wait: float | None) -> bool:
        """Whether it is attached again. Raises the failure of the last try: there is no `wait`
        after it."""
        try:
            found = shared_client(self._options)
            self._own = found is None and (self._own or wait is None)
            if found is None and not self._own:
                return False
            self._attach(found or own_client(self._options))
        except (ConnectionLost, Draining):
            if wait is None:
                raise
            return False
        return True

    def _attach(self, client: Client) -> None:
        try:
            self.session = client.resume_session(self.session.id, streaming=True, **SILENT)
        except BaseException:
            client.close()
            raise
        self._client = client
