"""Steps that are about sessions: made, named, forked, found, kept and cleared away."""

from __future__ import annotations

from typing import Any

from tests.machine import looking
from tests.machine.book import Event, Refused
from tests.machine.engine import NAMES, NOBODY, Engine, pick
from tests.machine.ground import words_replaced
from tests.machine.paper import Paper

MODELS = ("m0", "m1")


async def create(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = engine.client(who), pick(NAMES, which)
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
    client, session = engine.client(who), engine.session(which)
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
    client, session = engine.client(who), engine.session(which)
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
    """One of the session's events, counted from the last, and its id; None: nobody has such a
    one."""
    paper = engine.book.papers.get(session)
    if paper is None or how % 9 == 8:
        return None, NOBODY
    event = pick(paper.shown[::-1], how)
    return event, engine.event_id(paper, event)


async def fork(engine: Engine, who: int, which: int, how: int) -> None:
    client, session = engine.client(who), engine.session(which)
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
    client, session = engine.client(who), engine.session(which)

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
    client, session = engine.client(who), pick(NAMES, how)
    document, paper = pick(engine.documents, which)
    renamed = {message.prompt: engine.new_words() for message in paper.waiting}
    params = {"document": words_replaced(document, renamed), "sessionId": session}

    def effect() -> None:
        paper.imported(session, renamed)

    await engine.do(client, "session.import", params, effect)


# A daemon's life


async def evict(engine: Engine, who: int, which: int, how: int) -> None:
    engine.daemon.room.sessions.let_go(how % 3)


async def leave_and_come_back(engine: Engine, who: int, which: int, how: int) -> None:
    """A connection is lost, and its client comes with another one and reads from its cursor."""
    if engine.dies_in is not None:
        return
    await engine.reconnect(who % len(engine.clients))
    await engine.settle()
    await looking.read(engine, who, which, 1)


async def crash(engine: Engine, who: int, which: int, how: int) -> None:
    await engine.crash()


async def crash_in_next(engine: Engine, who: int, which: int, how: int) -> None:
    """The next step that does something is cut somewhere."""
    engine.dies_in = how * 3
