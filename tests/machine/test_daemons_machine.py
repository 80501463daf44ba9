"""Promises 3 and 4 with several daemons on one home: any of them takes any command at any time, and
dies at any time; there is one log, and everybody sees a piece of it without gap or repeat.

A daemon that runs a session's turn is its owner: the others refuse what they are asked of it, until
the turn is over or the owner is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine

from tests.machine.book import Message, Refused
from tests.machine.engine import NAMES, pick
from tests.machine.ground import Ground, answered
from tests.machine.house import DAEMONS, House
from tests.machine.paper import Paper
from tests.machine.rules import LONG, SETTINGS, with_rules


async def create(house: House, place: int, which: int, how: int) -> None:
    session, client = pick(NAMES, which), house.clients[place]
    known = session in house.book.papers
    params = {"sessionId": session, "model": "m0", "streaming": how % 2 == 0}
    answer = await answered(client.frames, "session.create", params)
    assert isinstance(answer, Refused) == known
    if known:
        assert answer.kind in ("session_exists", "turn_busy")
        # Where it is in memory, a refusal ends a turn that nobody runs.
        await _note(house, place, house.book.papers[session])
    else:
        paper = Paper.create(house.book, session, "m0", how % 2 == 0)
        client.view(session).attach(paper, 0)


async def _note(house: House, place: int, paper: Paper) -> Any:
    words = house.new_words()
    params = {"sessionId": paper.id, "message": words}
    return await house.ask(
        place, paper.id, "session.log", params, lambda: paper.note(words, ephemeral=False)
    )


async def note(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is None:
        return
    answer = await _note(house, place, paper)
    client = house.clients[place]
    if answer is not None and client.attached(paper.id):
        wanted = answer["eventId"]
        await client.frames.until(lambda: any(e["id"] == wanted for e in client.seen(paper.id)))


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


async def send_and_stay(house: House, place: int, which: int, how: int) -> None:
    """The answer comes when the session is idle, or with `sendAndWait` when the turn is over, in
    whichever daemon that is."""
    paper = house.paper(which)
    if paper is None:
        return
    await house.attach(place, paper.id)
    client = house.clients[place]
    if not client.attached(paper.id):
        return
    message = Message(house.new_words())
    params = {"sessionId": paper.id, "prompt": message.prompt, "wait": True}
    method = "session.sendAndWait" if how % 2 else "session.send"
    asked = await client.frames.ask(method, params)
    expected = house.on_paper(place, paper.id, lambda: paper.send(message))
    if isinstance(expected, Refused):
        assert (await client.frames.answer(asked))["error"]["data"]["kind"] == expected.kind
    else:
        client.waits[asked] = (paper, message if how % 2 else None)


async def pause(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is not None:
        paused = not paper.paused
        params = {"sessionId": paper.id, "paused": paused}
        method = "session.queue.setDrainPaused"
        await house.ask(place, paper.id, method, params, lambda: paper.pause(paused))


async def take_out(house: House, place: int, which: int, how: int) -> None:
    paper = house.paper(which)
    if paper is not None and paper.waiting:
        method = "session.queue.removeMostRecent"
        await house.ask(place, paper.id, method, {"sessionId": paper.id}, paper.remove_last)


async def send_at_once(house: House, place: int, which: int, how: int) -> None:
    """Two daemons are asked at the same moment: one runs the turn, the other refuses."""
    paper = house.paper(which)
    if paper is None or paper.turn is not None or paper.waiting or paper.paused:
        return
    places = (place, (place + 1 + how % 2) % DAEMONS)
    asked = []
    for each in places:
        await house.attach(each, paper.id)
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
    house.on_paper(winner, paper.id, lambda: paper.send(taken))


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


async def look(house: House, place: int, which: int, how: int) -> None:
    await house.look(place)


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


STEPS: tuple[Step, ...] = (
    create,
    send,
    send_and_stay,
    pause,
    take_out,
    finish,
    note,
    send_at_once,
    rename,
    rewind,
    fork,
    abort,
    evict,
    look,
    kill,
)

TestDaemons = with_rules(DaemonsMachine, STEPS).TestCase
TestDaemons.settings = settings(SETTINGS, max_examples=150 if LONG else 15)
