"""What each step of the daemon's work costs, in µs of one processor: `python -m tests.bench.costs`.

The parts are called as the daemon calls them, one by one and without a client. ARCHITECTURE.md has
the table and what bounds each row. The best of several rounds is shown, as others use the machine.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from tertulia_protocol import envelope, events, methods
from tertulia_protocol.framing import Framer, encode_frame
from tertuliad.askers import NOBODY
from tertuliad.clock import now_ms
from tertuliad.follow import Hub
from tertuliad.providers.base import Message, ModelRequest
from tertuliad.providers.openai_answer import StreamedAnswer
from tertuliad.providers.openai_wire import encode_request
from tertuliad.replies import Reply
from tertuliad.sessions.decide import Decision, Draft
from tertuliad.sessions.sealed import Published, Sealed, event_frame, seal
from tertuliad.sessions.state import SessionState, apply
from tertuliad.store import sqlite
from tertuliad.store.base import Append, Known, Record, Row
from tertuliad.store.durable import sync_file
from tertuliad.store.log_file import LogFile
from tertuliad.store.schema import open_database
from tertuliad.store.sqlite import SqliteStore
from tertuliad.store.writer import commit
from tests.support.gate_alone import GateAlone

ROUNDS = 5
SESSIONS = 200
TEXT = "a message of some eighty characters, as people write them to a model every day, "
USER = events.UserMessage(content=TEXT, message_id="m" * 36, turn_id="0")
REPLY = events.AssistantMessage(message_id="m" * 36, content=TEXT * 4, model="m", turn_id="0")
DELTA = events.AssistantMessageDelta(message_id="m" * 36, delta_content="word ")
CHUNK = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
SEND = (
    b'{"jsonrpc":"2.0","id":7,"method":"session.send","params":{"sessionId":"s","prompt":"%b"}}'
    % (TEXT.encode())
)


def cost(work: Callable[[], object], times: int) -> float:
    """µs of one call, the best of the rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, (time.perf_counter() - start) / times)
    return best * 1e6


def requests() -> Iterator[tuple[str, float]]:
    frame = encode_frame(SEND)
    yield "a frame is cut from the stream", cost(lambda: list(Framer().feed(frame)), 2000)
    yield "a request is decoded and its params checked", cost(_decode, 2000)
    gate = GateAlone({"ping": lambda _, params: {"message": params.message}})
    message = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"x"}}'
    yield "a request passes the gate and is answered", cost(lambda: gate.take(message), 2000)


def _decode() -> None:
    request = envelope.decode(SEND)
    assert isinstance(request, envelope.Request)
    methods.decode(methods.METHODS["session.send"], request.params)


def told() -> Iterator[tuple[str, float]]:
    state = SessionState(id="s", created_ms=0, history=[])
    user, reply, delta = Draft(USER), Draft(REPLY), Draft(DELTA)
    now = now_ms()
    yield "an event gets its place and its bytes", cost(lambda: seal(state, (user,), now), 2000)
    sealed = seal(state, (user, reply), now)
    yield "a stored event is folded into the state", cost(lambda: _apply(sealed), 1000) / 2
    yield "a delta is read from the model's stream", cost(_read_deltas, 200) / 50
    yield "a delta becomes a frame", cost(lambda: _framed(state, delta, now), 2000)
    for followers in (1, 10, 100):
        hub = Hub(None, lambda _: Reply())  # type: ignore[arg-type]
        for _ in range(followers):
            hub.attach(_Outlet(), "s", Known(0))
        body = event_frame("s", sealed[0].body)

        def publish(hub: Hub = hub, body: bytes = body) -> None:
            hub.publish(Published("s", 0, [body], 0, 0))

        yield f"a frame is given to {followers} who follow", cost(publish, 2000 // followers)


class _Outlet:
    asker = NOBODY

    def send(self, frame: bytes) -> None:
        pass

    def offer(self, frame: bytes) -> bool:
        return True


def _apply(sealed: list[Sealed]) -> None:
    state = SessionState(id="s", created_ms=0, history=[])
    for item in sealed:
        apply(state, item.seq, item.type, item.id, item.data)


def _read_deltas() -> None:
    answer = StreamedAnswer("a model")
    for _ in range(50):
        answer.feed(CHUNK)


def _framed(state: SessionState, delta: Draft, now: int) -> None:
    decision = Decision(drafts=(delta,))
    for item in seal(state, decision.drafts, now):
        event_frame("s", item.body)


def histories() -> Iterator[tuple[str, float]]:
    for count in (10, 100, 1000):
        said = [Message(role="user", content=TEXT)] * count
        request = ModelRequest(model="m", messages=said)

        def encode(request: ModelRequest = request) -> bytes:
            return encode_request(request, usage=True, completion_limit="max_tokens")

        yield f"a request to the model, {count} messages", cost(encode, 200)


def stored(folder: Path) -> Iterator[tuple[str, float]]:
    db = open_database(folder / "sessions.db")
    for number in range(SESSIONS):
        commit(db, [partial(sqlite._create, append=_append(number, 0))])
    heads = dict.fromkeys(range(SESSIONS), 2)
    turn = iter(range(10**9))

    def append() -> Callable[[sqlite3.Connection], object]:
        number = next(turn) % SESSIONS
        given = _append(number, heads[number])
        heads[number] += 2
        return partial(sqlite._append, append=given)

    alone = cost(lambda: commit(db, [append()]), 200)
    yield "two events are appended, alone in a transaction", alone
    group = cost(lambda: commit(db, [append() for _ in range(50)]), 10) / 50
    yield "the same, as one of fifty in it", group
    log = LogFile(folder / "sessions.db")
    commit(db, [lambda _: log.lengthen()])
    sync_file(log.descriptor())

    def synced() -> None:
        commit(db, [append()])
        sync_file(log.descriptor())

    yield "the write-ahead log is made durable (the thread)", cost(synced, 50) - alone
    log.close()
    db.close()


def _append(number: int, head: int) -> Append:
    body = msgspec.json.encode({"id": "i" * 36, "type": "user.message", "data": {"content": TEXT}})
    records = tuple(Record(head + step, "user.message", body) for step in (1, 2))
    row = Row(id=f"s{number}", created_ms=1, modified_ms=now_ms(), head=head + 2, title=TEXT[:60])
    return Append(head, row, records)


def answered(folder: Path) -> Iterator[tuple[str, float]]:
    """The same through the store's own front, as an actor sees it."""

    async def measure() -> float:
        store = SqliteStore(folder / "home", asyncio.get_running_loop())
        for number in range(3):
            await asyncio.wrap_future(store.create(_append(number, 0)))
        head, each = 2, []
        for _ in range(200):
            start = time.perf_counter()
            await asyncio.wrap_future(store.append(_append(0, head)))
            head += 2
            each.append(time.perf_counter() - start)
        store.close()
        return sorted(each)[len(each) // 2] * 1e6

    yield "an append, asked and answered (the median)", asyncio.run(measure())


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for part in (requests(), told(), histories(), stored(folder), answered(folder)):
            for title, value in part:
                print(f"{value:9.1f} µs  {title}")


if __name__ == "__main__":
    main()
