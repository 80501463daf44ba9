"""Several daemons on one home, and the book of what they do together.

A daemon that runs a session's turn is its owner: the others refuse what they are asked of it, until
the turn is over or the owner is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.machine.book import Book, Message, Refused
from tests.machine.engine import ANY, learn_ids, pick
from tests.machine.ground import (
    Daemon,
    Ground,
    answered,
    check_call,
    check_log,
    check_rows,
    refused,
)
from tests.machine.paper import Paper
from tests.machine.view import Client, View
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
        await self.attach(place, session)
        answer = await answered(self.clients[place].frames, method, params)
        expected: Any = Refused("session_not_found")
        if self.clients[place].attached(session):
            expected = self.on_paper(place, session, effect)
        return None if refused(method, answer, expected) else answer

    def on_paper(self, place: int, session: str, effect: Callable[[], Any]) -> Any:
        """What a command of that daemon's comes to: its effect's answer, or `Refused`."""
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

    async def attach(self, place: int, session: str) -> None:
        """Have that daemon's client follow the session, where the daemon may."""
        client, paper = self.clients[place], self.book.papers[session]
        if client.attached(session) or self.elsewhere(place, paper):
            return
        await client.frames.request("session.resume", {"sessionId": session, "disableResume": True})

        def effect() -> None:
            client.view(session).attach(paper, len(paper.told))
            paper.go_on()

        self.on_paper(place, session, effect)

    async def look(self, place: int) -> None:
        """One of the daemons looks what the others have written: it ends turns that nobody runs,
        and its client gets what was stored since it follows."""
        client = self.clients[place]
        await self.daemons[place].room.look()
        for session, view in client.views.items():
            if view.paper is not None:
                if not self.elsewhere(place, view.paper):
                    self.on_paper(place, session, lambda: None)
                await self._has_all(client, session, view)
        await self._answers(client)

    async def _answers(self, client: Client) -> None:
        """Who waits is answered when what it waits for is over, wherever it was."""
        for asked, (paper, message) in list(client.waits.items()):
            if not _left(paper, message):
                await client.frames.answer(asked)
                del client.waits[asked]

    async def _has_all(self, client: Client, session: str, view: View) -> None:
        assert view.paper is not None
        log = await self.daemons[0].log(session, len(view.paper.log))
        since = {event.seq for event in view.paper.told[view.start :] if event.seq}
        wanted = {item["event"]["id"] for item in log if item["seq"] in since}
        await client.frames.until(lambda: wanted <= {event["id"] for event in client.seen(session)})

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
            answered = {frame.get("id") for frame in client.frames.answers()}
            client.over |= {asked for asked, wait in client.waits.items() if not _left(*wait)}
            assert answered.isdisjoint(client.waits.keys() - client.over), "answered too early"
            for session, view in client.views.items():
                if view.paper is not None:
                    self._check_view(client, session, view.paper)

    def _check_view(self, client: Client, session: str, paper: Paper) -> None:
        """What it saw stored is in order and once, and nothing that is still there is left out."""
        ids = self.ground.ids[paper.number]
        seen = [e["id"] for e in client.seen(session) if not e.get("ephemeral")]
        order = [ids[event.seq] for event in paper.told if event.seq]
        assert set(seen) <= set(order), f"{session}: an event that nobody stored"
        places = [order.index(one) for one in seen]
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
                self.on_paper(place, paper.id, paper.go_on)

    async def close(self) -> None:
        for daemon in self.daemons:
            await daemon.end()


def _left(paper: Paper, message: Message | None) -> list[Message]:
    """What is left to do before who waits for `message`, or for an idle session, is answered."""
    left = [*paper.waiting, *([] if paper.turn is None else [paper.turn.message])]
    return left if message is None else [each for each in left if each is message]
