"""Steps that are about sessions: made, named, forked, found, kept and cleared away."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.machine.engine import ANY, NAMES, NOBODY, Engine, pick
from tests.machine.ground import words_replaced
from tests.machine.paper import Event, Paper, Refused

MODELS = ("m0", "m1")
K1 = {"k": 1}


async def create(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = pick(engine.clients, who), pick(NAMES, which)
    streaming, resumes = how % 2 == 0, how % 3 == 0
    params: dict[str, Any] = {"sessionId": session}
    if not (resumes and session in engine.book.papers):
        params |= {"model": pick(MODELS, how), "streaming": streaming}
    if resumes:
        params["ifExists"] = "resume"
    await engine.touch(session)  # a refusal does so where it is in memory, and only there

    def effect() -> bool:
        known = engine.book.papers.get(session)
        if known is None:
            paper = Paper.create(engine.book, session, pick(MODELS, how), streaming)
            client.view(session).attach(paper, 0)
            return False
        if not resumes:
            raise Refused("session_exists")
        client.view(session).attach(known, len(known.told))
        known.resume(streaming=None, silent=False)
        known.go_on()
        return True

    done = await engine.do(client, "session.create", params, effect)
    if done is not None:
        assert done[0].get("resumed", False) == done[1]


async def resume(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = pick(engine.clients, who), engine.session(which)
    streaming = pick((None, True, False), how)
    await engine.resume(client, session, streaming=streaming, silent=how % 4 > 1)


async def detach(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    method = pick(("session.detach", "session.destroy"), how)

    def effect() -> bool:
        attached = client.attached(session)
        client.view(session).detach()
        return attached or method == "session.detach"

    done = await engine.do(client, method, {"sessionId": session}, effect)
    if done is not None:
        assert done[0]["success"] == done[1]


async def close(engine: Engine, who: int, which: int, how: int) -> None:
    """Detach; who was the last ends the turn."""
    client, session = await engine.at(who, which)

    def effect() -> None:
        client.view(session).detach()
        paper = engine.book.get(session)
        if any(other.attached(session) for other in engine.clients):
            paper.touch()
        else:
            paper.abort(go_on=False)

    await engine.do(client, "sessions.close", {"sessionId": session}, effect)


async def describe(engine: Engine, who: int, which: int, how: int) -> None:
    """Whoever keeps the list archives a session and writes its metadata, attached or not."""
    client, session = pick(engine.clients, who), engine.session(which)
    metadata = {"k": pick((1, 2, None), how)} if how % 4 else {}
    archived = pick((None, True, False), how // 2)

    def effect() -> tuple[dict[str, int], bool]:
        paper = engine.book.get(session)
        paper.describe(metadata, archived)
        return paper.metadata, paper.archived

    params = {"sessionId": session, "metadata": metadata, "archived": archived}
    done = await engine.do(client, "session.metadata.update", params, effect)
    if done is not None:
        assert (done[0]["metadata"], done[0]["archived"]) == done[1]


async def name(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    words = f"called  {engine.new_words()}"
    if how % 2:
        await engine.do(
            client,
            "session.name.set",
            {"sessionId": session, "name": words},
            lambda: engine.of(client, session).rename(words),
        )
        return
    auto = await engine.do(
        client,
        "session.name.setAuto",
        {"sessionId": session, "summary": words},
        lambda: engine.of(client, session).auto_name(words),
    )
    if auto is not None:
        assert auto[0]["applied"] == auto[1]


async def switch_model(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    model = pick(MODELS, how)
    await engine.do(
        client,
        "session.model.switchTo",
        {"sessionId": session, "modelId": model},
        lambda: engine.of(client, session).switch_model(model),
    )


async def note(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    params = {"sessionId": session, "message": engine.new_words(), "ephemeral": how % 2 == 0}
    await engine.do(
        client,
        "session.log",
        params,
        lambda: engine.of(client, session).note(
            str(params["message"]), ephemeral=bool(params["ephemeral"])
        ),
    )


def _event(engine: Engine, session: str, how: int) -> tuple[Event | None, str]:
    """One of the session's events and its id; None: nobody has such a one."""
    paper = engine.book.papers.get(session)
    if paper is None or how % 9 == 8:
        return None, NOBODY
    event = pick(paper.shown, how)
    return event, engine.event_id(paper, event)


async def fork(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = pick(engine.clients, who), engine.session(which)
    child, whole = pick(NAMES, how + who), how % 4 == 0
    before, event_id = _event(engine, session, how)
    title = f"fork {engine.new_words()}" if how % 3 == 0 else None
    params: dict[str, Any] = {"sessionId": session, "newSessionId": child, "name": title}
    if not whole:
        params["toEventId"] = event_id

    def effect() -> None:
        paper = engine.book.get(session)
        if not whole and before is None:
            raise Refused("invalid_params")
        paper.fork(child, None if whole else before, title)

    await engine.do(client, "sessions.fork", params, effect)


async def rewind(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = await engine.at(who, which)
    event, event_id = _event(engine, session, how)
    softly = how % 2 == 0  # it answers an outcome where the other refuses
    params = {"sessionId": session, "eventId": event_id}

    def effect() -> int | None:
        paper = engine.of(client, session)
        if event is None:
            raise Refused("invalid_params")
        try:
            return paper.rewind(event)
        except Refused as refused:
            if softly and refused.kind == "turn_busy":
                return None
            raise

    if softly:
        params["mode"] = "conversation"
    method = "session.history.rewind" if softly else "session.history.truncate"
    done = await engine.do(client, method, params, effect)
    if done is not None and done[1] is None:
        assert done[0]["outcome"] == "session-busy"
    elif done is not None:
        assert done[0]["eventsRemoved"] == done[1]


async def delete(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = pick(engine.clients, who), engine.session(which)

    def effect() -> bool:
        paper = engine.book.papers.get(session)
        if paper is None:
            return False
        paper.delete()
        engine.forget(session)
        return True

    if how % 2:
        done = await engine.do(client, "session.delete", {"sessionId": session}, effect)
        if done is not None:
            assert done[0]["success"] == done[1]
        return
    params = {"sessionIds": [session, NOBODY]}
    done = await engine.do(client, "sessions.bulkDelete", params, effect)
    if done is not None:
        assert (list(done[0]["freedBytes"]) == [session]) == done[1]


async def export(engine: Engine, who: int, which: int, how: int) -> None:
    session = engine.session(which)
    paper = engine.book.papers.get(session)
    if paper is not None:
        answer = await engine.daemon.observer.request("session.export", {"sessionId": session})
        engine.documents.append((answer["document"], engine.book.copy()[session]))


async def import_(engine: Engine, who: int, which: int, how: int) -> None:
    if not engine.documents:
        return
    client, session = pick(engine.clients, who), pick(NAMES, how)
    document, paper = pick(engine.documents, which)
    renamed = {message.prompt: engine.new_words() for message in paper.waiting}
    params = {"document": words_replaced(document, renamed), "sessionId": session}

    def effect() -> None:
        paper.imported(session, renamed)

    await engine.do(client, "session.import", params, effect)


# Looking


async def list_pages(engine: Engine, who: int, which: int, how: int) -> None:
    """All pages together are the whole list, in its order."""
    order = pick(("modified", "created", "title"), how)
    filters: tuple[dict[str, Any], ...] = (
        {},
        {"archived": True},
        {"named": True},
        {"metadata": K1},
    )
    wanted = pick(filters, which)
    params: dict[str, Any] = {"filter": {**ANY["filter"], **wanted}, "order": order}
    rows: list[dict[str, Any]] = []
    while True:
        page = await engine.daemon.observer.request(
            "session.list", {**params, "limit": 1 + who % 3}
        )
        rows += page["sessions"]
        if page.get("cursor") is None:
            break
        params["cursor"] = page["cursor"]
    papers = engine.book.papers
    expected = {
        name
        for name, paper in papers.items()
        if ("archived" not in wanted or paper.archived)
        and ("named" not in wanted or paper.name is not None)
        and ("metadata" not in wanted or paper.metadata.get("k") == 1)
    }
    names = [row["sessionId"] for row in rows]
    assert len(names) == len(expected)
    assert set(names) == expected
    if order == "title":
        titles = [papers[name].title or "" for name in names]
        assert titles == sorted(titles)
    elif order == "modified":
        for newer, older in pairwise(rows):
            assert newer["modifiedTime"] >= older["modifiedTime"]
            if newer["modifiedTime"] > older["modifiedTime"]:
                first, second = papers[newer["sessionId"]], papers[older["sessionId"]]
                assert first.modified > second.modified


async def search(engine: Engine, who: int, which: int, how: int) -> None:
    """What was said is found wherever it is part of a log, and nowhere else."""
    words = f"w{1 + (which * 37 + how) % max(1, engine.said):04}"
    hits: list[tuple[str, int]] = []
    params: dict[str, Any] = {"text": words, "limit": 1 + who % 2}
    while True:
        page = await engine.daemon.observer.request("sessions.search", params)
        hits += [(hit["session"]["sessionId"], hit["seq"]) for hit in page["hits"]]
        if page.get("cursor") is None:
            break
        params["cursor"] = page["cursor"]
    expected = [
        (name, event.seq)
        for name, paper in engine.book.papers.items()
        for event in paper.log
        if event.type in ("user.message", "assistant.message") and words in str(event.said).split()
    ]
    assert sorted(hits) == sorted(expected)


async def read(engine: Engine, who: int, which: int, how: int) -> None:
    """A client reads on from where it was, or anew."""
    if engine.dies_in is not None:
        return
    client, session = await engine.at(who, which)
    kept = client.cursors.get(session) if how % 4 else None
    most = 1 + how % 5
    params: dict[str, Any] = {"sessionId": session, "max": most}
    if kept is not None:
        params["cursor"] = kept[0]
    backward = kept is None and how % 8 == 4
    if backward:
        params["direction"] = "backward"

    def effect() -> list[Event]:
        events = engine.of(client, session).shown
        if backward:
            return events[-most:]
        after = kept[1] if kept is not None else 0
        if after > engine.book.papers[session].head:
            after = 0
        return [event for event in events if event.seq > after][:most]

    done = await engine.do(client, "session.eventLog.read", params, effect)
    if done is None:
        return
    answer, expected = done
    paper = engine.book.papers[session]
    assert [e["id"] for e in answer["events"]] == [engine.event_id(paper, e) for e in expected]
    if not backward:
        client.cursors[session] = answer["cursor"], int(answer["cursor"][1:])


async def look(engine: Engine, who: int, which: int, how: int) -> None:
    """Small questions, the answers to which stand on paper."""
    client, session = await engine.at(who, which)

    def processing() -> dict[str, Any]:
        paper = engine.of(client, session)
        paper.touch()
        return {"processing": paper.turn is not None}

    def called() -> dict[str, Any]:
        paper = engine.of(client, session)
        paper.touch()
        return {"name": paper.name or paper.kept.auto}

    def usage() -> dict[str, Any]:
        paper = engine.book.get(session)  # whoever asks
        paper.touch()
        return {"totalUserRequests": paper.kept.turns, "calls": paper.calls}

    def tail() -> dict[str, Any]:
        return {"seq": engine.of(client, session).head}

    def messages() -> dict[str, Any]:
        paper = engine.of(client, session)
        return {"events": [engine.event_id(paper, event) for event in paper.shown]}

    method, effect = pick(
        (
            ("session.getMessages", messages),
            ("session.eventLog.tail", tail),
            ("session.usage.getMetrics", usage),
            ("session.name.get", called),
            ("session.metadata.isProcessing", processing),
        ),
        how,
    )
    done = await engine.do(client, method, {"sessionId": session}, effect)
    if done is None:
        return
    answer, expected = done
    if "calls" in expected:
        answer["calls"] = sum(each["requests"]["count"] for each in answer["modelMetrics"].values())
    if "events" in expected:
        answer["events"] = [event["id"] for event in answer["events"]]
    assert {name: answer[name] for name in expected} == expected


# A daemon's life


async def evict(engine: Engine, who: int, which: int, how: int) -> None:
    engine.daemon.room.sessions.let_go(how % 3)


async def leave_and_come_back(engine: Engine, who: int, which: int, how: int) -> None:
    """A connection is lost, and its client comes with another one and reads from its cursor."""
    if engine.dies_in is not None:
        return
    await engine.reconnect(who % len(engine.clients))
    await engine.settle()
    await read(engine, who, which, 1)


async def crash(engine: Engine, who: int, which: int, how: int) -> None:
    await engine.crash()


async def crash_in_next(engine: Engine, who: int, which: int, how: int) -> None:
    """The next step that does something is cut somewhere."""
    engine.dies_in = how * 3
