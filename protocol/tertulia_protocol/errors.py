"""Errors of the wire: what a request is answered with when it fails.

An `RpcError` has a code, a message that says what to do, and `data` whose `kind` names the case for
programs. A subclass exists only where a caller acts differently; `rpc_error` is the inverse
mapping, for clients. What is broken in the bytes themselves is a value of `framing` and `envelope`,
and anything else that is raised is a bug of this side's own.
"""

from __future__ import annotations

from typing import Any, ClassVar

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REQUEST_CANCELLED = -32800

NOT_AUTHENTICATED = -32000
SESSION_NOT_FOUND = -32001
SESSION_EXISTS = -32002
TURN_BUSY = -32003
OVERLOADED = -32004
DRAINING = -32005
NOT_SUPPORTED = -32006
MODEL_UNAVAILABLE = -32007
STORE_FAILED = -32008
SEQ_MOVED = -32009


def _made(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    """An error without its constructor, whose arguments are other ones than `args`."""
    error = kind.__new__(kind, *args)
    error.args = args  # an OSError's are its constructor's affair
    error.__dict__.update(state)
    return error


class RpcError(Exception):
    """An error answer: JSON-RPC `code`, a message for people, and `data` for programs."""

    kind: ClassVar[str] = "error"

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def __reduce__(self: Exception) -> tuple[Any, ...]:
        return _made, (type(self), self.args, self.__dict__)

    @property
    def retry_ms(self) -> int | None:
        """What was asked was not done, and the same request may be taken after so many ms; None:
        not by waiting alone, and the message says what to do."""
        after = (self.data or {}).get("retryMs")
        return after if type(after) is int and after > 0 else None


class _CodedError(RpcError):
    """An `RpcError` whose class fixes the code and `data.kind`. `retry_ms` is `data.retryMs`."""

    default_code: ClassVar[int]

    def __init__(
        self, message: str, data: dict[str, Any] | None = None, *, retry_ms: int | None = None
    ) -> None:
        after = {} if retry_ms is None else {"retryMs": retry_ms}
        super().__init__(self.default_code, message, {"kind": self.kind, **after, **(data or {})})


class InvalidParams(_CodedError):
    """The params do not have the method's shape; `data.path` is the JSON path of the fault."""

    kind = "invalid_params"
    default_code = INVALID_PARAMS


class MethodNotFound(_CodedError):
    kind = "method_not_found"
    default_code = METHOD_NOT_FOUND


class NotAuthenticated(_CodedError):
    """`connect` with the right token has to come first."""

    kind = "not_authenticated"
    default_code = NOT_AUTHENTICATED


class SessionNotFound(_CodedError):
    kind = "session_not_found"
    default_code = SESSION_NOT_FOUND

    @classmethod
    def of(cls, session_id: str) -> SessionNotFound:
        """The error for `session_id`; SDKs match on the words "Session not found"."""
        return cls(
            f"Session not found: {session_id}. Create it with session.create, or attach to a"
            " stored one with session.resume, and wait for the answer.",
            {"sessionId": session_id},
        )


class SessionExists(_CodedError):
    kind = "session_exists"
    default_code = SESSION_EXISTS


class TurnBusy(_CodedError):
    """A turn runs or messages wait, and the request asked for an idle session. `data.retryMs`
    where that passes by itself."""

    kind = "turn_busy"
    default_code = TURN_BUSY


class SeqMoved(_CodedError):
    """The log is not where the request expected it; `data.seq` says where it is."""

    kind = "seq_moved"
    default_code = SEQ_MOVED


class Overloaded(_CodedError):
    """A bound is reached. `data.retryMs` says when to try again, where room comes by itself."""

    kind = "overloaded"
    default_code = OVERLOADED


class Draining(_CodedError):
    """The daemon is stopping and takes no new work, now or later: connect to the next one."""

    kind = "draining"
    default_code = DRAINING

    @classmethod
    def of(cls, refused: str) -> Draining:
        """The error of a daemon that is stopping; `refused` says what it does not do any more."""
        return cls(f"The daemon is stopping and {refused}: connect again when another one runs.")


class NotSupported(_CodedError):
    """A known field or method that this version does not do; the message names it."""

    kind = "not_supported"
    default_code = NOT_SUPPORTED


class ModelUnavailable(_CodedError):
    """No provider answers for the model; the message says how to name or install one."""

    kind = "model_unavailable"
    default_code = MODEL_UNAVAILABLE


class StoreFailed(_CodedError):
    """The data folder cannot be read or written; the message says what is wrong with it.
    `data.retryMs` where somebody else only holds it."""

    kind = "store_failed"
    default_code = STORE_FAILED


def cancelled() -> RpcError:
    """The answer to a request that its client has cancelled."""
    return RpcError(REQUEST_CANCELLED, "The request was cancelled.")


BY_KIND: dict[str, type[_CodedError]] = {cls.kind: cls for cls in _CodedError.__subclasses__()}
"""The classes above by their `data.kind`."""


def rpc_error(code: int, message: str, data: Any = None) -> RpcError:
    """The exception for an error object of the wire: the inverse of what the daemon sends."""
    fields = data if isinstance(data, dict) else None
    cls = BY_KIND.get(fields.get("kind", "")) if fields else None
    if cls is not None and cls.default_code == code:
        return cls(message, fields)
    return RpcError(code, message, fields)
