"""Promises 3 and 4 with several daemons on one home: any of them takes any command at any time, and
dies at any time; there is one log, and everybody sees a piece of it without gap or repeat.

A daemon that runs a session's turn is its owner: the others refuse what they are asked of it, until
the turn is over or the owner is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.machine.engine import ANY, NAMES, learn_ids, pick
from tests.machine.ground import (
    Client,
    Daemon,
    Ground,
    answered,
    check_call,
    check_log,
    check_rows,
)
from tests.machine.paper import Book, Message, Paper, Refused
from tests.machine.test_engine_machine import HOW, LONG, SETTINGS, WHICH, WHO
from tests.support.in_process_model import Call

DAEMONS = 3


class House:
    """Several daemons, each with one client, and the book of what they do together."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.book = Book()
        self.daemons: list[Daemon] = []
        self.clients: list[Client] = []
        self.owners: dict[int, int] = {}
        """By a session's number, the place of the daemon that runs its turn."""
        self.calls: dict[int, Call] = {}
        self._words = 0

    async def open(self) -> None:
        for _ in range(DAEMONS):
            daemon = Daemon(self.ground.home)
            await daemon.start()
            self.daemons.append(daemon)
            self.clients.append(Client(daemon.room.connect()))

    def new_words(self) -> str:
        self._words += 1
        return f"w{self._words:04}"

    def paper(self, which: int) -> Paper | None:
        papers = [self.book.papers[name] for name in sorted(self.book.papers)]
        return pick(papers, which) if papers else None

    async def ask(
        self,
        place: int,
        session: str,
        method: str,
        params: dict[str, Any],
        effect: Callable[[], Any],
    ) -> Any:
        """A request to one of the daemons; None: it was rightly refused."""
        await self._attach(place, session)
        answer = await answered(self.clients[place].frames, method, params)
        expected: Any = Refused("session_not_found")
        if self.clients[place].attached(session):
            expected = self._on_paper(place, session, effect)
        if isinstance(expected, Refused) or isinstance(answer, Refused):
            kinds = [e.kind if isinstance(e, Refused) else None for e in (answer, expected)]
            assert kinds[0] == kinds[1], f"{method}: refused as {kinds[0]} instead of {kinds[1]}"
            return None
        return answer

    def _on_paper(self, place: int, session: str, effect: Callable[[], Any]) -> Any:
        paper = self.book.papers[session]
        if self.elsewhere(place, paper):
            return Refused("turn_busy")
        try:
            paper.touch()
            return effect()
        except Refused as refused:
            return refused
        finally:
            if paper.turn is not None and not paper.turn.orphan:
                self.owners[paper.number] = place

    def elsewhere(self, place: int, paper: Paper) -> bool:
        """Whether another daemon, which lives, runs the session's turn."""
        turn = paper.turn
        return turn is not None and not turn.orphan and self.owners[paper.number] != place

    async def _attach(self, place: int, session: str) -> None:
        client, paper = self.clients[place], self.book.papers[session]
        if client.attached(session) or self.elsewhere(place, paper):
            return
        await client.frames.request("session.resume", {"sessionId": session, "disableResume": True})

        def effect() -> None:
            client.view(session).attach(paper, len(paper.told))
            paper.go_on()

        self._on_paper(place, session, effect)

    async def settle(self) -> None:
        running: dict[int, Call] = {}
        for paper in self.book.papers.values():
            log = await self.daemons[0].log(paper.id, len(paper.log))
            check_log(paper, log, self.ground.ids.setdefault(paper.number, {}))
            learn_ids(paper, log)
            if paper.turn is not None and not paper.turn.orphan:
                call = await self.daemons[self.owners[paper.number]].call_of(paper)
                check_call(paper, call)
                running[paper.number] = call
        self.calls = running
        for daemon in self.daemons:
            listed = await daemon.observer.request("session.list", ANY)
            check_rows(self.book.papers, listed["sessions"])
        for client in self.clients:
            for session, view in client.views.items():
                if view.paper is not None:
                    self._check_view(client, session, view.paper)

    def _check_view(self, client: Client, session: str, paper: Paper) -> None:
        """What it saw stored is in order and once, and nothing that is still there is left out."""
        ids = self.ground.ids[paper.number]
        seen = [e["id"] for e in client.seen(session) if not e.get("ephemeral")]
        seen = seen[-len([one for one in seen if one in set(ids.values())]) :] if seen else []
        order = [ids[event.seq] for event in paper.told if event.seq]
        places = [order.index(one) for one in seen if one in order]
        assert len(places) == len(seen) or paper.id != session, "an event that nobody stored"
        assert places == sorted(set(places)), f"{session}: out of order, or twice"
        if places:
            between = set(order[places[0] : places[-1] + 1]) - set(seen)
            left = {ids[event.seq] for event in paper.shown}
            assert not between & left, f"{session}: a gap"

    async def kill(self, place: int) -> None:
        """One daemon is gone at once, and another comes in its place."""
        await self.daemons[place].end()
        for paper in self.book.papers.values():
            if paper.turn is not None and self.owners.get(paper.number) == place:
                paper.turn.orphan = True
        daemon = self.daemons[place] = Daemon(self.ground.home)
        await daemon.start()
        self.clients[place] = Client(daemon.room.connect())
        daemon.take_up()
        for paper in self.book.papers.values():
            if paper.waiting:
                self._on_paper(place, paper.id, paper.go_on)

    async def close(self) -> None:
        for daemon in self.daemons:
            await daemon.end()


async def create(house: House, place: int, which: int, how: int) -> None:
    session, client = pick(NAMES, which), house.clients[place]
    known = session in house.book.papers
    params = {"sessionId": session, "model": "m0", "streaming": how % 2 == 0}
    answer = await answered(client.frames, "session.create", params)
    assert isinstance(answer, Refused) == known
    if known:
        assert answer.kind in ("session_exists", "turn_busy")
        # Where it is in memory, a refusal ends a turn that nobody runs.
        await house.ask(
            place, session, "session.log", _note(house, session), _noted(house, session)
        )
    else:
        paper = Paper.create(house.book, session, "m0", how % 2 == 0)
        client.view(session).attach(paper, 0)


def _note(house: House, session: str) -> dict[str, Any]:
    return {"sessionId": session, "message": house.new_words()}


def _noted(house: House, session: str) -> Callable[[], None]:
    words = f"w{house._words:04}"
    return lambda: house.book.papers[session].note(words, ephemeral=False)


async def note(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is None:
        return
    session = paper.id
    words = house.new_words()
    params = {"sessionId": session, "message": words}
    answer = await house.ask(
        place, session, "session.log", params, lambda: paper.note(words, ephemeral=False)
    )
    client = house.clients[place]
    if answer is not None and client.attached(session):
        wanted = answer["eventId"]
        await client.frames.until(lambda: any(e["id"] == wanted for e in client.seen(session)))


async def send(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is None:
        return
    message, session = Message(house.new_words()), paper.id
    params: dict[str, Any] = {"sessionId": session, "prompt": message.prompt}
    expected = None
    if how % 4 == 1:
        # The log's end as somebody else has seen it just now.
        expected = (await house.daemons[0].log(session, 1))[-1]["seq"]
        params["expectedSeq"] = expected
    answer = await house.ask(
        place,
        session,
        "session.send",
        params,
        lambda: paper.send(message, if_idle=False, expected_seq=expected),
    )
    if answer is not None:
        message.id = answer["messageId"]


async def send_at_once(house: House, place: int, which: int, how: int) -> None:
    """Two daemons are asked at the same moment: one runs the turn, the other refuses."""
    paper = house.paper(which)
    if paper is None or paper.turn is not None or paper.waiting:
        return
    places = (place, (place + 1 + how % 2) % DAEMONS)
    asked = []
    for each in places:
        await house._attach(each, paper.id)
    for each in places:
        message = Message(house.new_words())
        params = {"sessionId": paper.id, "prompt": message.prompt}
        frames = house.clients[each].frames
        asked.append((each, message, await frames.ask("session.send", params)))
    accepted = []
    for each, message, number in asked:
        answer = await house.clients[each].frames.answer(number)
        if "result" in answer:
            message.id = answer["result"]["messageId"]
            accepted.append((each, message))
        else:
            assert answer["error"]["data"]["kind"] == "turn_busy"
    [(winner, taken)] = accepted
    house._on_paper(winner, paper.id, lambda: paper.send(taken))


async def rename(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is not None:
        words = house.new_words()
        params = {"sessionId": paper.id, "name": words}
        await house.ask(place, paper.id, "session.name.set", params, lambda: paper.rename(words))


async def rewind(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is None or paper.turn is not None:
        return
    event = pick(paper.shown, how)
    event_id = house.ground.ids[paper.number][event.seq]
    params = {"sessionId": paper.id, "eventId": event_id}
    method = "session.history.truncate"
    await house.ask(place, paper.id, method, params, lambda: paper.rewind(event))


async def fork(house: House, place: int, which: int, how: int) -> None:
    paper, child = house.paper(which), pick(NAMES, how)
    if paper is None:
        return
    params = {"sessionId": paper.id, "newSessionId": child}
    answer = await answered(house.clients[place].frames, "sessions.fork", params)
    if child in house.book.papers:
        assert isinstance(answer, Refused)
    else:
        paper.fork(child, None, None)


async def finish(house: House, place: int, which: int, how: int) -> None:
    running = [p for p in house.book.papers.values() if p.number in house.calls]
    if running:
        paper = pick(running, which)
        house.calls[paper.number].finish(f"a{how}")
        paper.delta(f"a{how}", "")
        paper.finish("stop")


async def abort(house: House, place: int, which: int, how: int) -> None:
    """Through the daemon that runs the turn."""
    running = [p for p in house.book.papers.values() if p.number in house.calls]
    if running:
        paper = pick(running, which)
        owner = house.owners[paper.number]
        params = {"sessionId": paper.id}
        await house.ask(owner, paper.id, "session.abort", params, paper.abort)


async def evict(house: House, place: int, which: int, how: int) -> None:
    house.daemons[place].room.sessions.let_go()


async def kill(house: House, place: int, which: int, how: int) -> None:
    await house.kill(place)


Step = Callable[[House, int, int, int], Awaitable[None]]


class DaemonsMachine(RuleBasedStateMachine):
    """The steps above in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ground = Ground()
        self.house = House(self.ground)
        self.ground.run(self.house.open())

    def step(self, step: Step, who: int, which: int, how: int) -> None:
        async def whole() -> None:
            await step(self.house, who % DAEMONS, which, how)
            await self.house.settle()

        self.ground.run(whole())

    def teardown(self) -> None:
        try:
            self.ground.run(self.house.close())
        finally:
            self.ground.close()


def _rule(step: Step) -> Callable[..., None]:
    def run(self: DaemonsMachine, who: int, which: int, how: int) -> None:
        self.step(step, who, which, how)

    run.__name__ = step.__name__
    made: Callable[..., None] = rule(who=WHO, which=WHICH, how=HOW)(run)
    return made


STEPS: tuple[Step, ...] = (
    create,
    send,
    finish,
    note,
    send_at_once,
    rename,
    rewind,
    fork,
    abort,
    evict,
    kill,
)
for _step in STEPS:
    setattr(DaemonsMachine, _step.__name__, _rule(_step))

TestDaemons = DaemonsMachine.TestCase
TestDaemons.settings = settings(SETTINGS, max_examples=400 if LONG else 15)
