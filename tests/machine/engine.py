"""One step after another of the whole engine, each done on paper and by the daemon, then compared.

Every step is made of a few small numbers, and each number means something at any time: what is done
never depends on what was seen, so that the same numbers are the same steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import anyio.lowlevel

from tests.machine.book import Book, Event, Message, Refused
from tests.machine.ground import (
    Daemon,
    Ground,
    answered,
    check_call,
    check_log,
    check_rows,
    check_view,
    refused,
    shown,
)
from tests.machine.paper import Paper
from tests.machine.view import Client
from tests.support.in_process_model import PATIENCE_S, Call

NAMES = ("a", "b", "c", "d")
NOBODY = "nobody"
CLIENTS = 3
MODES: tuple[dict[str, Any], ...] = ({}, {"mode": "immediate"}, {"mode": "enqueue"}, {"prepend": 1})

T = TypeVar("T")


def pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]


class Engine:
    """The daemon of one example and its book."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.book = Book()
        self.daemon: Daemon
        self.clients: list[Client] = []
        self.calls: dict[int, Call] = {}
        """By a session's number, the model call of its turn."""
        self.documents: list[tuple[Any, Paper]] = []
        self.dies_in: int | None = None
        """The next command is cut by a crash, after so many rounds of the event loop."""
        self.forgetful = False
        """Idle sessions are dropped from memory after every step."""
        self._words = 0
        self._settled = -1

    # A daemon's life

    async def start(self) -> None:
        self.daemon = Daemon(self.ground.home)
        await self.daemon.start()
        self.clients = [Client(self.daemon.room.connect()) for _ in range(CLIENTS)]
        self.calls = {}

    async def crash(self) -> None:
        """The daemon is killed with nothing under way."""
        self.ground.crash()
        await self._again([self.book.copy()])

    async def _again(self, states: list[dict[str, Paper]]) -> None:
        """Start on what was left, which has to be one of `states`."""
        cursors = [client.cursors for client in self.clients]
        await self.daemon.end()
        await self.start()
        for client, kept in zip(self.clients, cursors, strict=True):
            client.cursors = kept
        self.book.papers = await self._found(states)
        for paper in self.book.papers.values():
            paper.told = []
            if paper.turn is not None:
                paper.turn.orphan = True
        self.daemon.take_up()
        taken_up = [paper for paper in self.book.papers.values() if paper.waiting]
        for paper in taken_up:
            paper.go_on()
        for paper in taken_up:
            paper.modified = self.book.clock  # which of them is first is the daemon's affair
        self._settled = -1

    async def _found(self, states: list[dict[str, Paper]]) -> dict[str, Paper]:
        listed = await self.daemon.observer.request("session.list", ANY)
        disk = {}
        for session in [row["sessionId"] for row in listed["sessions"]]:
            log = await self.daemon.log(session, 1)
            disk[session] = log
        told = {name: [(i["seq"], *shown(i["event"])) for i in log] for name, log in disk.items()}
        for state in reversed(states):
            wanted = {n: [(e.seq, e.type, e.said) for e in p.log] for n, p in state.items()}
            if wanted == told:
                for name, paper in state.items():
                    learn_ids(paper, disk[name])
                return state
        raise AssertionError(f"none of {len(states)} states was left: {told}")

    # One command, on paper and by the daemon

    async def do(
        self, client: Client, method: str, params: dict[str, Any], effect: Callable[[], T]
    ) -> tuple[Any, T] | None:
        """The answer and what it has to be; None: both refuse it, or nobody lived to see it."""
        if self.dies_in is not None:
            await self._die(lambda: client.frames.ask(method, params), effect, client)
            return None
        expected: T | Refused
        try:
            expected = effect()
        except Refused as refusal:
            expected = refusal
        answer = await answered(client.frames, method, params)
        if refused(method, answer, expected):
            return None
        return answer, cast(T, expected)

    async def act(self, act: Callable[[], object], effect: Callable[[], None]) -> None:
        """Something that is no request."""
        if self.dies_in is not None:
            await self._die(act, effect, None)
        else:
            effect()
            act()

    async def _die(
        self, act: Callable[[], object], effect: Callable[[], object], client: Client | None
    ) -> None:
        rounds, self.dies_in = self.dies_in or 0, None
        states = self.book.pages = [self.book.copy()]
        self.book.asked = 0
        try:
            effect()
        except Refused:
            pass
        finally:
            self.book.pages = None
        asked = act()
        if inspect.isawaitable(asked):
            asked = await asked
        for _ in range(rounds):
            await anyio.lowlevel.checkpoint()
        done = client is not None and any(
            frame.get("id") == asked and "result" in frame for frame in client.frames.answers()
        )
        self.ground.crash()
        await self._again(states[max(0, self.book.asked - 1) :] if done else states)

    # What holds after every step

    async def settle(self) -> None:
        """Wait for all that has to come, and compare everything with the paper."""
        if self.forgetful:
            self.daemon.room.sessions.let_go()
        for paper in list(self.book.papers.values()):
            if paper.modified > self._settled:
                log = await self.daemon.log(paper.id, len(paper.log))
                check_log(paper, log, self.ground.ids.setdefault(paper.number, {}))
                learn_ids(paper, log)
        self._settled = self.book.clock
        await self._settle_calls()
        listed = await self.daemon.observer.request("session.list", ANY)
        check_rows(self.book.papers, listed["sessions"])
        for client in self.clients:
            for session in client.views if client.reads else ():
                await check_view(client, session, self.ground.ids)
            if client.reads:
                await self._settle_waits(client)

    async def _settle_waits(self, client: Client) -> None:
        """Who waits is answered when what it waits for is over, and not before."""
        for asked, (paper, message) in list(client.waits.items()):
            left = [*paper.waiting, *([] if paper.turn is None else [paper.turn.message])]
            if message is not None:
                left = [each for each in left if each.id == message.id]
            if self.book.papers.get(paper.id) is not paper or not left:
                await client.frames.answer(asked)
                del client.waits[asked]
            else:
                assert all(frame.get("id") != asked for frame in client.frames.answers())

    async def _settle_calls(self) -> None:
        running: dict[int, Call] = {}
        for paper in self.book.papers.values():
            if paper.turn is not None and not paper.turn.orphan:
                call = await self.daemon.call_of(paper)
                if self.calls.get(paper.number) is not call:
                    check_call(paper, call)
                running[paper.number] = call
        self.calls = running
        for call in self.daemon.room.model.calls:
            if call not in running.values():
                await bounded(call.ended.wait())

    async def end(self) -> None:
        for client in self.clients:
            await self.read_on(client)
            await client.frames.request("ping")
        self._settled = -1
        await self.settle()
        await self.daemon.end()

    async def reconnect(self, place: int) -> None:
        """The client's pipe ends, and it comes with another one."""
        old = self.clients[place]
        await old.frames.aclose()
        await self.daemon.room.gone(old.frames)
        new = self.clients[place] = Client(self.daemon.room.connect())
        new.cursors = old.cursors

    async def stop_reading(self, client: Client) -> None:
        """The client takes no more, and so much lies in front of it that it falls behind."""
        client.reads = False
        for view in client.views.values():
            view.stop()
        await self.daemon.fill(client.frames)

    async def read_on(self, client: Client) -> None:
        """The client takes what waits for it, and has caught up."""
        client.reads = True
        for view in client.views.values():
            view.go_on()
        await self.daemon.drain(client.frames)

    # Who and what

    @property
    def said(self) -> int:
        """How many words were made."""
        return self._words

    def new_words(self) -> str:
        """Words that nobody has said."""
        self._words += 1
        return f"w{self._words:04}"

    def client(self, who: int) -> Client:
        """One that reads."""
        return pick([client for client in self.clients if client.reads], who)

    def session(self, which: int) -> str:
        """One that is there, most times."""
        return pick(
            [*sorted(self.book.papers), *([NOBODY] if which % 7 == 0 else [])] or NAMES, which
        )

    def running(self, which: int) -> Paper | None:
        papers = [self.book.papers[name] for name in sorted(self.book.papers)]
        found = [p for p in papers if p.turn is not None and p.number in self.calls]
        return pick(found, which) if found else None

    async def at(self, who: int, which: int) -> tuple[Client, str]:
        """A client, most times attached to the session."""
        client, session = self.client(who), self.session(which)
        if session in self.book.papers and not client.attached(session) and who % 7:
            dies_in, self.dies_in = self.dies_in, None
            await self.resume(client, session, streaming=None, silent=True)
            self.dies_in = dies_in
            await self.settle()
        return client, session

    async def crowd(self, who: int, which: int) -> list[Client]:
        """Three clients that mean the same session at once."""
        return [(await self.at(who * 7 + 1 + n, which))[0] for n in range(3)]

    def of(self, client: Client, session: str) -> Paper:
        """The paper, for who is attached."""
        if not client.attached(session):
            raise Refused("session_not_found")
        return self.book.get(session)

    async def resume(
        self, client: Client, session: str, *, streaming: bool | None, silent: bool
    ) -> None:
        params = {"sessionId": session, "disableResume": silent}
        if streaming is not None:
            params["streaming"] = streaming

        def effect() -> None:
            paper = self.book.get(session)
            paper.touch()
            client.view(session).attach(paper, len(paper.told))
            paper.resume(streaming=streaming, silent=silent)
            paper.go_on()

        await self.do(client, "session.resume", params, effect)

    async def touch(self, session: str) -> None:
        """Ask something that changes nothing, so that a turn which nobody runs is ended."""
        paper = self.book.papers.get(session)
        if paper is not None:
            paper.touch()
            await self.daemon.observer.request("session.metadata.get", {"sessionId": session})

    def forget(self, session: str) -> None:
        """Nobody follows it any more."""
        for client in self.clients:
            if session in client.views:
                client.views[session].end()

    def event_id(self, paper: Paper, event: Event) -> str:
        return self.ground.ids[paper.number][event.seq]


ANY = {"filter": {"archived": "any"}}


async def bounded(work: Awaitable[T]) -> T:
    with anyio.fail_after(PATIENCE_S):
        return await work


def learn_ids(paper: Paper, log: list[dict[str, Any]]) -> None:
    """The ids of messages stand in the log; those that were answered have to be the same."""
    by_prompt: dict[str, str] = {}
    queue: list[str] | None = None
    for item in log:
        event = item["event"]
        data = event["data"]
        if event["type"] in ("user.message", "tertulia.message_queued"):
            by_prompt[data["content"]] = data["messageId"]
            queue = None
        elif event["type"] == "tertulia.queue_changed":
            queue = [waiting["messageId"] for waiting in data["pending"]]
        elif event["type"] == "tertulia.rewound":
            queue = None
    if queue is not None and len(queue) == len(paper.waiting):
        for message, message_id in zip(paper.waiting, queue, strict=True):
            assert message.id in (None, message_id)
            message.id = message_id
    turn = [paper.turn.message] if paper.turn is not None else []
    for message in [*paper.waiting, *paper.keys.values(), *turn]:
        if message.id is None:
            message.id = by_prompt[message.prompt]


def a_message(words: str, how: int, key: int) -> tuple[Message, dict[str, Any]]:
    """A message on paper and as a request has it."""
    mode = pick(MODES, how)
    first = mode.get("mode") == "immediate" or "prepend" in mode
    name = f"key{key}" if key else None
    params = {"prompt": words, **mode, **({"idempotencyKey": name} if name else {})}
    if "prepend" in params:
        params["prepend"] = True
    return Message(words, first, name), params
