"""What can go wrong for a client, by what its caller can do about it.

Two families. `TertuliaError` is this side's: the daemon could not be reached, the connection ended,
a turn failed, a wait took too long. `RpcError` and its children are the daemon's answers to single
requests, rebuilt from the wire by `rpc_error`. No error's text or repr holds a key or a token.
"""

from __future__ import annotations

import copy
from typing import ClassVar, TypeVar

from tertulia_protocol.errors import (
    Draining,
    InvalidParams,
    MethodNotFound,
    ModelUnavailable,
    NotAuthenticated,
    NotSupported,
    Overloaded,
    RpcError,
    SeqMoved,
    SessionExists,
    SessionNotFound,
    StoreFailed,
    TurnBusy,
    rpc_error,
)

__all__ = [
    "ConnectionLost",
    "CursorExpired",
    "DaemonFailed",
    "Draining",
    "FellBehind",
    "InvalidParams",
    "MessageRemoved",
    "MethodNotFound",
    "ModelUnavailable",
    "NobodyListens",
    "NotAuthenticated",
    "NotSupported",
    "Overloaded",
    "RpcError",
    "SeqMoved",
    "SessionDeleted",
    "SessionExists",
    "SessionNotFound",
    "StoreFailed",
    "TertuliaError",
    "Timeout",
    "TurnAborted",
    "TurnBusy",
    "TurnFailed",
    "rpc_error",
]


SAYS_WHY = "tertuliad: "
"""How the line begins in which a daemon says why it does not run."""

E = TypeVar("E", bound=Exception)


def again(error: E) -> E:
    """The same for one more who is told. An exception that was raised keeps the frames that it
    passed, with all that they hold, and more of them each time."""
    return copy.copy(error)


class TertuliaError(Exception):
    """The base of what this side raises. Can be pickled and copied."""

    __reduce__ = RpcError.__reduce__


class ConnectionLost(TertuliaError):
    """The connection is over: by the daemon's end, the network's, or `close`.

    The sessions are in the daemon's log: connect again and resume them.
    """


class NobodyListens(ConnectionLost):
    """At the address there is no daemon, or no more than the socket that one left."""


class DaemonFailed(TertuliaError):
    """A spawned daemon did not come up. `stderr` is the end of what it wrote there; where that ends
    with the reason, it is what is told first."""

    def __init__(self, message: str, *, returncode: int | None = None, stderr: str = "") -> None:
        *earlier, last = stderr.split("\n")
        reason = last.removeprefix(SAYS_WHY)
        told = [message, *earlier, last] if reason == last else [reason, message, *earlier]
        super().__init__("\n".join(filter(None, told)))
        self.returncode = returncode
        self.stderr = stderr


class TurnFailed(TertuliaError):
    """A turn ended with `session.error`. The session lives, and the next `send` works.

    `error_type` names the case for programs (`rate_limit`, `authentication`, ...), `status` is the
    model server's HTTP status where there was one.
    """

    def __init__(self, error_type: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.status = status


class TurnAborted(TertuliaError):
    """A turn was ended by `abort`. `text` is what the model had said until then."""

    _TOLD: ClassVar[str] = "The turn was aborted."

    def __init__(self, text: str = "") -> None:
        super().__init__(self._TOLD)
        self.text = text


class SessionDeleted(TurnAborted):
    """A turn ended because its session was deleted meanwhile, by whoever."""

    _TOLD = "The session was deleted while its turn ran."


class MessageRemoved(TertuliaError):
    """A message was taken out of the queue, by whoever, and gets no turn."""

    def __init__(self) -> None:
        super().__init__("The message was taken out of the queue before its turn.")


class Timeout(TertuliaError, TimeoutError):
    """A wait took longer than its caller allows; what was waited for goes on in the daemon.

    `state` says how far it was.
    """

    def __init__(self, message: str, state: str) -> None:
        super().__init__(f"{message} ({state})")
        self.state = state


class FellBehind(TertuliaError):
    """The reader of a session's events was too slow for the bound of its queue.

    Read the stored ones with `messages` and iterate again.
    """


class CursorExpired(TertuliaError):
    """A cursor is of no use for this log: the session was deleted and made again, perhaps.

    Follow it from the beginning.
    """
