"""Steps that are about messages: sent, queued, answered, ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tertuliad.providers.base import FailureKind, ToolCall
from tests.machine.book import Message, Refused, T_Facts
from tests.machine.engine import NOBODY, Engine, a_message, pick
from tests.machine.ground import check_full
from tests.machine.paper import Paper
from tests.machine.view import Client

FAILURES: tuple[FailureKind, ...] = ("server_error", "interrupted", "authentication")


async def send(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    message, params = a_message(engine.new_words(), how, key=how % 5)
    conditions: dict[str, Any] = {}
    if how % 3 == 1:
        conditions["ifIdle"] = True
    if how % 4 == 3 and session in engine.book.papers:
        conditions["expectedSeq"] = engine.book.papers[session].head + (how % 8 == 7)

    def effect() -> Message:
        return engine.of(client, session).send(
            message,
            if_idle="ifIdle" in conditions,
            expected_seq=conditions.get("expectedSeq"),
        )

    done = await engine.do(
        client, "session.send", {"sessionId": session, **params, **conditions}, effect
    )
    if done is not None:
        same_id(done[1], done[0]["messageId"])


def same_id(message: Message, message_id: str) -> None:
    assert message.id in (None, message_id), "another message's id"
    message.id = message_id


async def send_plainly(engine: Engine, who: int, which: int, how: int) -> None:
    """What most clients do."""
    await send(engine, who, which, 0)


async def send_and_stay(engine: Engine, who: int, which: int, how: int) -> None:
    """The answer comes when the session is idle, or with `sendAndWait` when the turn is over."""
    if engine.dies_in is not None:
        return
    client, session = await engine.at(who, which)
    message, params = a_message(engine.new_words(), how, key=how % 3)
    params["sessionId"] = session
    method = "session.sendAndWait" if how % 2 else "session.send"
    asked = await client.frames.ask(method, {**params, "wait": True})
    try:
        paper = engine.of(client, session)
        accepted = paper.send(message)
    except Refused as refused:
        kind = refused.kind
    else:
        client.waits[asked] = (paper, accepted if how % 2 else None)
        return
    answer = await client.frames.answer(asked)
    assert answer["error"]["data"]["kind"] == kind


async def all_at_once(engine: Engine, who: int, which: int, how: int) -> None:
    """Every client sends, and nobody waits for an answer before all have."""
    crowd = await engine.crowd(who, which)
    session = engine.session(which)
    if session not in engine.book.papers or engine.dies_in is not None:
        return
    paper = engine.book.papers[session]
    paper.touch()
    asked: list[tuple[Client, Message, int]] = []
    for number in range(2 + how % 4):
        client = pick(crowd, number)
        message = Message(engine.new_words())
        params = {"sessionId": session, "prompt": message.prompt}
        asked.append((client, message, await client.frames.ask("session.send", params)))
    accepted, refused = [], 0
    for client, message, number in asked:
        answer = await client.frames.answer(number)
        if "result" in answer:
            message.id = answer["result"]["messageId"]
            accepted.append(message)
        else:
            assert answer["error"]["data"]["kind"] == "overloaded"
            refused += 1
    log = await engine.daemon.log(session, len(paper.log) + len(accepted))
    taken = [i["event"]["data"].get("messageId") for i in log if i["seq"] > paper.head]
    accepted.sort(key=lambda message: taken.index(message.id))
    for client in crowd:
        mine = [m for c, m, _ in asked if c is client and m in accepted]
        assert mine == [m for m in accepted if m in mine], "a client's messages are out of order"
    for message in accepted:
        paper.send(message)
    check_full(paper, refused)


# The queue

Edit = Callable[[Paper, str], Any]


async def _edit(
    engine: Engine,
    who: int,
    which: int,
    method: str,
    edit: Edit,
    answered: Callable[[Any], Any] = lambda answer: answer,
    *,
    item: int | None = None,
    **params: Any,
) -> None:
    """One of the queue's methods; with `item`, about a message that waits, if there is one."""
    client, session = await engine.at(who, which)
    message_id = NOBODY
    if item is not None:
        paper = engine.book.papers.get(session)
        waiting = [m.id for m in paper.waiting if m.id is not None] if paper else []
        message_id = pick(waiting, item) if waiting else NOBODY
        params["id"] = message_id
    done = await engine.do(
        client,
        method,
        {"sessionId": session, **params},
        lambda: edit(engine.of(client, session), message_id),
    )
    if done is not None:
        expected = done[1]
        if isinstance(expected, Message):
            same_id(expected, answered(done[0]))
        else:
            assert answered(done[0]) == expected, method


async def look_at_queue(engine: Engine, who: int, which: int, how: int) -> None:
    def edit(paper: Paper, _: str) -> T_Facts:
        items, steering = paper.queue()
        return [m.id for m in items], [m.prompt for m in steering], paper.paused

    def answered(answer: Any) -> T_Facts:
        ids = [item["id"] for item in answer["items"]]
        return ids, answer["steeringMessages"], answer.get("paused", False)

    await _edit(engine, who, which, "session.queue.pendingItems", edit, answered)


async def move(engine: Engine, who: int, which: int, how: int) -> None:
    place = how % 5 - 1

    def edit(paper: Paper, message_id: str) -> bool:
        return paper.move(message_id, place)

    await _edit(
        engine,
        who,
        which,
        "session.queue.moveItem",
        edit,
        lambda a: a["changed"],
        item=how,
        toPosition=place,
    )


async def insert(engine: Engine, who: int, which: int, how: int) -> None:
    words, place = engine.new_words(), how % 5 - 1
    key = f"key{how % 4}" if how % 4 else None

    def edit(paper: Paper, _: str) -> Message:
        return paper.insert(Message(words, key=key), place)

    message = {"prompt": words, **({"idempotencyKey": key} if key else {})}
    method = "session.queue.insertAt"
    await _edit(
        engine, who, which, method, edit, lambda a: a["id"], position=place, message=message
    )


async def change(engine: Engine, who: int, which: int, how: int) -> None:
    """Another way to edit, each time another one."""
    words = engine.new_words()
    ways: list[tuple[str, Edit, Callable[[Any], Any], dict[str, Any]]] = [
        (
            "updateText",
            lambda paper, item: paper.edit(item, words),
            lambda a: a["updated"],
            {"item": how, "prompt": words},
        ),
        ("removeAt", lambda p, item: p.remove(item), lambda a: a["removed"], {"item": how}),
        ("duplicateAt", lambda p, item: p.duplicate(item), lambda a: a["id"], {"item": how}),
        ("sendNow", lambda p, item: p.send_now(item), lambda a: a["steered"], {"item": how}),
        ("removeMostRecent", lambda p, _: p.remove_last(), lambda a: a["removed"], {}),
        ("clear", lambda p, _: p.clear(), lambda a: a, {}),
    ]
    name, edit, answered, params = pick(ways, how)
    await _edit(engine, who, which, f"session.queue.{name}", edit, answered, **params)


async def pause(engine: Engine, who: int, which: int, how: int) -> None:
    paused = how % 2 == 0
    method = "session.queue.setDrainPaused"
    await _edit(engine, who, which, method, lambda paper, _: paper.pause(paused), paused=paused)


# The model


async def delta(engine: Engine, who: int, which: int, how: int) -> None:
    paper = engine.running(which)
    if paper is None or paper.turn is None or engine.dies_in is not None:
        return
    text = f"{engine.new_words()} " if how % 4 else ""
    reasoning = f"hm{how} " if how % 3 == 0 else ""
    call = engine.calls[paper.number]
    call.say(text, reasoning)
    paper.delta(text, reasoning)
    # What is not streamed shows nowhere: wait until the turn has taken it.
    await call.taken()


async def finish(engine: Engine, who: int, which: int, how: int) -> None:
    paper = engine.running(which)
    if paper is None:
        return
    call, kind = engine.calls[paper.number], pick(("stop", "stop", "stop", "length", "tools"), how)
    tools = (ToolCall("c1", "look", "{}"),) if kind == "tools" else ()
    reason = "length" if kind == "length" else "stop"
    await engine.act(
        lambda: call.finish(finish_reason=reason, tool_calls=tools), lambda: paper.finish(kind)
    )


async def fail(engine: Engine, who: int, which: int, how: int) -> None:
    paper = engine.running(which)
    if paper is None:
        return
    call, kind = engine.calls[paper.number], pick(FAILURES, how)
    await engine.act(lambda: call.fail(kind), lambda: paper.fail(kind))


# Ends


async def abort(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    await engine.do(
        client,
        "session.abort",
        {"sessionId": session},
        lambda: engine.of(client, session).abort(),
    )


async def suspend(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)

    def effect() -> None:
        paper = engine.of(client, session)
        if how % 2:
            paper.abort(go_on=False)
        else:
            paper.shut_down()

    method = "session.suspend" if how % 2 else "session.shutdown"
    await engine.do(client, method, {"sessionId": session}, effect)


async def abort_as_it_ends(engine: Engine, who: int, which: int, how: int) -> None:
    """The answer's end and the abort meet: one of them is first, and the turn ends once."""
    paper = engine.running(which)
    if paper is None or engine.dies_in is not None:
        return
    client, call = engine.client(who), engine.calls[paper.number]
    if not client.attached(paper.id):
        return
    if how % 2:
        call.finish()
    asked = await client.frames.ask("session.abort", {"sessionId": paper.id})
    if not how % 2:
        call.finish()
    assert (await client.frames.answer(asked))["result"] == {"success": True}
    log = await engine.daemon.log(paper.id, len(paper.log) + 2)
    came = {item["event"]["type"] for item in log if item["seq"] > paper.head}
    if "abort" in came and "assistant.message" not in came:
        paper.abort()
    else:
        paper.finish("stop")
        if "abort" in came:  # it met the turn that began behind this one
            paper.abort()
