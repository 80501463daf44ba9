"""Steps that are about pace: who does not read for a while, and many commands at once."""

from __future__ import annotations

import json
from typing import Any

from tertulia_protocol.framing import encode_frame
from tests.machine.book import Message
from tests.machine.engine import Engine, pick
from tests.machine.ground import check_full
from tests.machine.paper import Paper
from tests.machine.view import Client


async def stop_reading(engine: Engine, who: int, which: int, how: int) -> None:
    """A client falls behind, and stays so while the others go on."""
    if engine.dies_in is not None or sum(client.reads for client in engine.clients) < 2:
        return
    client, _ = await engine.at(who, which)
    await engine.stop_reading(client)


async def read_on(engine: Engine, who: int, which: int, how: int) -> None:
    """It catches up."""
    behind = [client for client in engine.clients if not client.reads]
    if behind:
        await engine.read_on(pick(behind, who))


class Asked:
    """One of many commands. `words` stand in the log where it was stored."""

    def __init__(self, client: Client, kind: str, words: str) -> None:
        self.client = client
        self.kind = kind
        self.message = Message(words)

    def request(self, session: str) -> tuple[str, dict[str, Any]]:
        words = self.message.prompt
        method, params = {
            "say": ("session.send", {"prompt": words}),
            "note": ("session.log", {"message": words}),
            "look": ("session.name.get", {}),
        }[self.kind]
        return method, {"sessionId": session, **params}


async def hundreds_at_once(engine: Engine, who: int, which: int, how: int) -> None:
    """Each client puts its commands into one write, so that hundreds wait in the session's inbox:
    each is answered, and done in the order in which its client gave it."""
    crowd = await engine.crowd(who, which)
    session = engine.session(which)
    if session not in engine.book.papers or engine.dies_in is not None:
        return
    paper = engine.book.papers[session]
    paper.touch()
    asked = [
        Asked(pick(crowd, n), pick(("look", "say", "look", "note", "look"), n), engine.new_words())
        for n in range(240 + how)
    ]
    numbers = await _put_all(asked, session)
    refused: list[Asked] = []
    for each in asked:
        answer = await each.client.frames.answer(numbers[each])
        if "error" in answer:
            assert (each.kind, answer["error"]["data"]["kind"]) == ("say", "overloaded")
            refused.append(each)
        elif each.kind == "look":
            assert answer["result"]["name"] == (paper.name or paper.kept.auto)
        else:
            each.message.id = answer["result"].get("messageId")
    done = [each for each in asked if each not in refused and each.kind != "look"]
    await _on_paper(engine, paper, done, crowd)
    check_full(paper, len(refused))


async def _put_all(asked: list[Asked], session: str) -> dict[Asked, int]:
    """Every client's commands in one piece of its stream; the ids of the requests."""
    numbers: dict[Asked, int] = {}
    pieces: dict[Client, bytes] = {}
    for each in asked:
        numbers[each] = number = each.client.frames.next_id()
        method, params = each.request(session)
        frame = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        pieces[each.client] = pieces.get(each.client, b"") + encode_frame(
            json.dumps(frame).encode()
        )
    for client, piece in pieces.items():
        await client.frames.send_raw(piece)
    return numbers


async def _on_paper(engine: Engine, paper: Paper, done: list[Asked], crowd: list[Client]) -> None:
    """What was done, in the order in which it stands in the log."""
    log = await engine.daemon.log(paper.id, len(paper.log) + len(done))
    order = {
        item["event"]["data"].get("content", item["event"]["data"].get("message")): item["seq"]
        for item in log
        if item["seq"] > paper.head
    }
    in_turn = sorted(done, key=lambda each: order[each.message.prompt])
    for client in crowd:
        mine = [each for each in done if each.client is client]
        assert mine == [each for each in in_turn if each.client is client], "out of order"
    for each in in_turn:
        if each.kind == "say":
            paper.send(each.message)
        else:
            paper.note(each.message.prompt, ephemeral=False)
