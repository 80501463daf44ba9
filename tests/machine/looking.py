"""Steps that change nothing: what is listed, found, read and asked is what stands on paper."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.machine.book import Event
from tests.machine.engine import ANY, Engine, pick

K1 = {"k": 1}


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
                assert first.modified >= second.modified


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
        return engine.of(client, session).shown

    done = await engine.do(client, "session.eventLog.read", params, effect)
    if done is None:
        return
    answer, shown = done
    paper = engine.book.papers[session]
    place, mark = answer["cursor"].split(".")
    # Of a log before this one of the same id, deleted or lost with a crash, the mark is another.
    leads_on = kept is not None and kept[0].endswith(mark) and kept[1] <= paper.head
    assert answer["cursorStatus"] == ("ok" if leads_on or kept is None else "expired")
    after = kept[1] if leads_on and kept is not None else 0
    expected = shown[-most:] if backward else [e for e in shown if e.seq > after][:most]
    assert [e["id"] for e in answer["events"]] == [engine.event_id(paper, e) for e in expected]
    if not backward:
        client.cursors[session] = answer["cursor"], int(place[1:])


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
        turns = paper.kept.turns - paper.inherited_turns
        return {"totalUserRequests": turns, "calls": paper.calls}

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
