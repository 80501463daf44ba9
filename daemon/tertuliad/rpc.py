"""The gate: decoded frames in, answers out, with python-lsp-jsonrpc's `Endpoint` between.

The rules of this file:
- A frame is decoded and admitted by us first; only an admitted request reaches `consume`.
- Handlers give back a result, or a `Reply` whose `cancel` never cancels the future itself.
- Results are `msgspec.Raw`, encoded once: the endpoint would merge some dicts into its reply.
- One function, `wire_error`, maps exceptions to error answers; an unexpected one is logged under a
  reference, and the reference is all that the other side learns.
- Every admitted request is in `_in_flight` until its answer is queued; its id is forgotten first.
- A large body is worked on in steps, and the others have their turn between them: `take_large` is
  waited for by its connection's reader, so that the order of the frames stays. A large result is
  not copied into its frame.
- Events never pass here: they are encoded once and go to the connections as bytes.
This is one of the two places that import pylsp_jsonrpc.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import anyio
import msgspec
from pylsp_jsonrpc.endpoint import Endpoint
from pylsp_jsonrpc.exceptions import JsonRpcException

from tertulia_protocol import envelope, errors
from tertulia_protocol.decoding import json_decoder
from tertulia_protocol.framing import Body, Broken, Frame, Skipped, encode_frame, opening
from tertulia_protocol.methods import ENDING, METHODS, Method, decode
from tertuliad import limits, open_files
from tertuliad.askers import asker
from tertuliad.replies import Reply
from tertuliad.spread import spread

log = logging.getLogger(__name__)

for _name in ("pylsp_jsonrpc", "pylsp_jsonrpc.endpoint"):
    # It logs whole messages, keys included.
    logging.getLogger(_name).disabled = True

CANCEL_METHOD = "$/cancelRequest"
_encoder = msgspec.json.Encoder()
_STOPPED = "The daemon stopped before this was answered: whether it was done, the next one knows."

Handler = Callable[[Any, Any], Any]
"""(caller, params) to a result struct, a `Reply`, or for a method in a task an awaitable."""


class Send(Protocol):
    """Queues a frame, whole or as its pieces in their order."""

    def __call__(self, *pieces: bytes | memoryview) -> None: ...


class Caller(Protocol):
    """What the gate has to know of whoever sends the requests."""

    asker: int

    @property
    def authenticated(self) -> bool: ...

    @property
    def draining(self) -> bool: ...


def wire_error(error: BaseException) -> tuple[int, str, dict[str, Any] | None]:
    """(code, message, data) for an exception that a handler let out."""
    if isinstance(error, errors.RpcError):
        return error.code, envelope.sayable(error.message), spread(error.data)
    if open_files.are_short(error):
        return wire_error(
            errors.Overloaded(open_files.told(), retry_ms=limits.CONNECTIONS_RETRY_MS)
        )
    reference = os.urandom(4).hex()
    log.error("unexpected error %s", reference, exc_info=error)
    return (
        errors.INTERNAL_ERROR,
        f"An error inside the daemon; its log has it under {reference}.",
        {"kind": "internal", "reference": reference},
    )


def _carried(error: BaseException) -> JsonRpcException:
    """`error` in the endpoint's own exception, which is only the carrier."""
    if isinstance(error, JsonRpcException):
        return error
    code, message, data = wire_error(error)
    return JsonRpcException(message=message, code=code, data=data)


class Gate:
    """One connection's JSON-RPC. Dies with the connection."""

    def __init__(
        self,
        caller: Caller,
        handlers: Mapping[str, Handler],
        send: Send,
        spawn: Callable[[Callable[[], Awaitable[None]]], Callable[[], None]],
    ) -> None:
        """`spawn` starts a task and gives what cancels it."""
        self._caller = caller
        self._handlers = handlers
        self._send = send
        self._spawn = spawn
        self._in_flight: dict[envelope.RequestId, int] = {}
        """The bytes of their params."""
        self._bytes_in_flight = 0
        self._endpoint = Endpoint(_Dispatcher(self._call), self._answer)
        self.on_quiet: Callable[[], None] | None = None
        """Called when the last request in flight was answered."""

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def take(self, frame: Frame) -> None:
        """Act on one frame; a `Broken` one is answered, closing is the caller's."""
        match frame:
            case Body(data):
                self._admit(envelope.decode(data))
            case Skipped():
                found = envelope.find_id(frame.head)
                self._refuse(found, errors.INVALID_REQUEST, frame.message)
            case Broken():
                self._refuse(None, errors.PARSE_ERROR, frame.message)

    async def take_large(self, body: envelope.Encoded) -> None:
        """Act on a large body."""
        message = await _in_steps(envelope.decoding(body))
        if not isinstance(message, envelope.Request):
            self._admit(message)
            return
        error: Exception | None = self._objection(message)
        params = None
        if error is None:
            await anyio.sleep(limits.STEP_PAUSE_S)
            try:
                params = decode(METHODS[message.method], message.params)
            except Exception as refused:  # noqa: BLE001 - as in _call
                error = refused
            await anyio.sleep(limits.STEP_PAUSE_S)
        if error is None:
            self._admit_request(message, params)
        else:
            self._refuse_request(message, error)

    def refuse(self, error: errors.RpcError) -> None:
        """Tell the peer an error that answers nothing it asked."""
        self._refuse(None, *wire_error(error))

    def refuse_rest(self) -> None:
        """The daemon stops: what is not answered yet is answered now, and what may still come of
        it goes to nobody."""
        code, message, data = wire_error(errors.Draining(_STOPPED))
        for request_id in list(self._in_flight):
            error = {"code": code, "message": message, "data": data}
            self._answer({"jsonrpc": "2.0", "id": request_id, "error": error})

    def close(self) -> None:
        """The connection ended: nothing more is answered, and nobody waits for it."""
        asked = list(self._in_flight)
        self._in_flight.clear()
        for request_id in asked:
            self._cancel(request_id)
        self._endpoint.shutdown()

    def _admit(self, message: envelope.Envelope) -> None:
        match message:
            case envelope.Request():
                self._admit_request(message)
            case envelope.Notification():
                self._take_notification(message)
            case envelope.Fault():
                self._refuse(message.id, message.code, message.message)
            case envelope.Reply():
                log.debug("an answer to nothing that was asked")

    def _admit_request(self, request: envelope.Request, params: Any = None) -> None:
        """`params`, where they are decoded already."""
        error = self._objection(request)
        if error is not None:
            self._refuse_request(request, error)
            return
        size = self._in_flight[request.id] = len(request.params)
        self._bytes_in_flight += size
        self._endpoint.consume(
            {
                "jsonrpc": "2.0",
                "id": request.id,
                "method": request.method,
                "params": request.params if params is None else params,
            }
        )

    def _objection(self, request: envelope.Request) -> errors.RpcError | None:
        """Why the request is not admitted, if so."""
        if not self._caller.authenticated and request.method != "connect":
            return errors.NotAuthenticated(
                "AUTHENTICATION_FAILED: call connect with the connection token first."
            )
        if request.id in self._in_flight:
            return errors.RpcError(
                errors.INVALID_REQUEST,
                f"The id {request.id!r} is in use by a request that is not answered yet.",
            )
        if request.method not in self._handlers:
            return errors.MethodNotFound(
                f"Unhandled method {request.method}: rpc.discover lists those that there are."
            )
        if self._caller.draining and request.method not in ENDING:
            return errors.Draining.of("takes no more requests")
        room = limits.REQUESTS_IN_FLIGHT + limits.URGENT_COMMANDS * (request.method in ENDING)
        if len(self._in_flight) >= room:
            return errors.Overloaded(
                f"More than {limits.REQUESTS_IN_FLIGHT} requests of this connection are"
                " unanswered; wait for answers and send this one again.",
                retry_ms=limits.IN_FLIGHT_RETRY_MS,
            )
        if request.method in ENDING:
            return None
        if self._in_flight and self._bytes_in_flight + len(request.params) > limits.BYTES_IN_FLIGHT:
            return errors.Overloaded(
                f"The unanswered requests of this connection have {limits.BYTES_IN_FLIGHT} bytes"
                " together; wait for answers and send this one again.",
                retry_ms=limits.IN_FLIGHT_RETRY_MS,
            )
        return None

    def _take_notification(self, notification: envelope.Notification) -> None:
        if notification.method != CANCEL_METHOD:
            return  # no notification of a client means anything yet
        try:
            asked = json_decoder(_CancelParams).decode(notification.params)
        except (msgspec.DecodeError, RecursionError):
            return
        if asked.id in self._in_flight:
            self._cancel(asked.id)

    def _cancel(self, request_id: envelope.RequestId) -> None:
        self._endpoint.consume(
            {"jsonrpc": "2.0", "method": CANCEL_METHOD, "params": {"id": request_id}}
        )

    def _call(self, method: Method, params: Any) -> Any:
        """What the endpoint gets for a request: a `Raw` result, a `Reply`, or its exception."""
        asker.set(self._caller.asker)
        try:
            if isinstance(params, msgspec.Raw):
                params = decode(method, params)
            handler = self._handlers[method.name]
            if method.runs == "in a task":
                return self._in_task(handler, params)
            result = handler(self._caller, params)
            return _awaited(result) if isinstance(result, Reply) else _raw(result)
        except Exception as error:  # noqa: BLE001 - mapped, and logged if it is unexpected
            raise _carried(error) from None

    def _in_task(self, handler: Handler, params: Any) -> Reply:
        reply = Reply()

        async def run() -> None:
            try:
                result = await handler(self._caller, params)
                reply.give(_raw(result))
            except Exception as error:  # noqa: BLE001 - as in _call
                reply.fail(_carried(error))
            finally:
                reply.fail(_carried(errors.cancelled()))

        reply.on_cancel = self._spawn(run)
        return reply

    def _answer(self, message: dict[str, Any]) -> None:
        """The endpoint's consumer: forget the id, then send."""
        size = self._in_flight.pop(message["id"], None)
        if size is None:
            return  # answered already, or the connection is closing
        self._bytes_in_flight -= size
        result = message.get("result")
        if isinstance(result, msgspec.Raw) and len(result) > limits.LARGE_BODY_BYTES:
            self._send_large(message["id"], memoryview(result))
        else:
            self._send(encode_frame(_encoder.encode(message)))
        if not self._in_flight and self.on_quiet is not None:
            self.on_quiet()

    def _send_large(self, request_id: envelope.RequestId, result: memoryview) -> None:
        before = b'{"jsonrpc":"2.0","id":%b,"result":' % _encoder.encode(request_id)
        self._send(opening(before, len(result) + 1), result, b"}")

    def _refuse_request(self, request: envelope.Request, error: Exception) -> None:
        self._refuse(request.id, *wire_error(error))

    def _refuse(
        self,
        request_id: envelope.RequestId | None,
        code: int,
        message: str,
        data: dict[str, Any] | None = None,
    ) -> None:
        self._send(encode_frame(envelope.encode_error(request_id, code, message, data)))


async def _in_steps(steps: envelope.Steps) -> envelope.Envelope:
    while True:
        await anyio.sleep(limits.STEP_PAUSE_S)
        try:
            next(steps)
        except StopIteration as end:
            found: envelope.Envelope = end.value
            return found


def _raw(result: Any) -> msgspec.Raw:
    return result if isinstance(result, msgspec.Raw) else msgspec.Raw(_encoder.encode(result))


def _awaited(reply: Reply) -> Reply:
    """`reply` as the endpoint can carry it: encoded result, or a carried exception."""
    carried = Reply(reply.cancel)

    def done(source: Any) -> None:
        try:
            carried.give(_raw(source.result()))
        except Exception as error:  # noqa: BLE001 - as in _call
            carried.fail(_carried(error))

    reply.add_done_callback(done)
    return carried


class _CancelParams(msgspec.Struct):
    id: str | int


class _Dispatcher(Mapping[str, Callable[[Any], Any]]):
    """The endpoint's view of the registry. It asks for admitted methods only."""

    def __init__(self, call: Callable[[Method, Any], Any]) -> None:
        self._call = call

    def __getitem__(self, name: str) -> Callable[[Any], Any]:
        method = METHODS[name]
        return lambda params: self._call(method, params)

    def __iter__(self) -> Iterator[str]:
        return iter(METHODS)

    def __len__(self) -> int:
        return len(METHODS)
