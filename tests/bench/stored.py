"""Sections about what lies on disk: lists, long histories, the size, and what a kill leaves."""

from __future__ import annotations

import asyncio

from tests.bench.driven import Driven, Failed
from tests.bench.machine import folder_mb
from tests.bench.measuring import Bench, Numbers, Section, median, timed

PAGE = 100


async def listing(bench: Bench) -> Numbers:
    """Many stored sessions of one turn each: to list them, also as the first thing; to delete."""
    count = bench.sizes.stored
    async with bench.started() as driven:
        sessions: list[str] = []
        while len(sessions) < count:
            some = await driven.create_many(10, at_once=10)
            await driven.turns(some, "fake-n1-d0")
            await asyncio.gather(*(driven.request("session.detach", sessionId=s) for s in some))
            sessions += some
        warm = await timed(driven.request("session.list"))
    disk = folder_mb(bench.home)
    async with bench.started() as driven:
        first = await timed(driven.request("session.list"))
        deletes = [
            await timed(driven.request("session.delete", sessionId=s)) for s in sessions[:10]
        ]
    return {
        "list.warm": warm,
        "list.first": first,
        "list.delete": median(deletes),
        "list.disk": disk,
    }


async def _one_session(bench: Bench, turns: int, script: str) -> str:
    async with bench.started() as driven:
        session = await driven.create()
        for _ in range(turns):
            await driven.turn(session, script)
    return session


async def _resumed(bench: Bench, name: str) -> Numbers:
    """As the first request, which finds the daemon as a start leaves it, and after a turn."""
    session = bench.filled
    async with bench.started() as driven:
        first = await timed(driven.resume(session))
    async with bench.started() as driven:
        await driven.turn(await driven.create(), "fake-n1-d0")
        return {
            f"{name}.resume": first,
            f"{name}.warm": await timed(driven.resume(session)),
            f"{name}.read": await timed(driven.request("session.getMessages", sessionId=session)),
            f"{name}.turn": (await driven.turn(session, "fake-n1-d0")).ms,
        }


async def fill_resume(bench: Bench) -> str:
    return await _one_session(bench, bench.sizes.resumed_turns, "fake-n20-d0-s20")


async def resume(bench: Bench) -> Numbers:
    """A session after a restart: to resume it, read it, go on with it."""
    return await _resumed(bench, "resume")


async def fill_history(bench: Bench) -> str:
    return await _one_session(bench, bench.sizes.long_turns, "fake-n1-d0")


async def history(bench: Bench) -> Numbers:
    """The same of a very long one, of short messages."""
    return await _resumed(bench, "history")


async def fill_page(bench: Bench) -> str:
    async with bench.started() as driven:
        await driven.create_many(bench.sizes.rows, at_once=100)
    return ""


async def page(bench: Bench) -> Numbers:
    """The newest page of a long list, and the one after it, in a daemon that just started."""
    async with bench.started() as driven:
        first = await timed(driven.request("session.list", limit=PAGE))
        again = [
            await timed(driven.request("session.list", limit=PAGE))
            for _ in range(bench.sizes.pages)
        ]
        shown = await driven.request("session.list", limit=PAGE)
        if len(shown["sessions"]) != PAGE:
            raise Failed(f"a page of {PAGE} had {len(shown['sessions'])} rows")
        following = await timed(
            driven.request("session.list", limit=PAGE, cursor=shown["cursor"]),
        )
    return {"page.warm": median(again), "page.first": first, "page.next": following}


async def crash(bench: Bench) -> Numbers:
    """Killed with -9 in a session's first turn, from its acceptance on, one event later each time.

    Counts how often the next start lists the session, and resumes it with its message.
    """
    listed = resumed = 0
    for deltas in range(bench.sizes.kills):
        async with bench.started() as driven:
            session = await driven.create()
            turn = await driven.begin(session, "fake-n200-d10")
            await driven.seen(turn, deltas)
            await driven.kill()
        async with bench.started() as driven:
            rows = (await driven.request("session.list"))["sessions"]
            listed += any(row["sessionId"] == session for row in rows)
            resumed += await _there_again(driven, session)
    return {"crash.listed": listed, "crash.resumed": resumed}


async def _there_again(driven: Driven, session: str) -> bool:
    try:
        await driven.resume(session)
        events = (await driven.request("session.getMessages", sessionId=session))["events"]
        await driven.turn(session, "fake-n1-d0")
    except Failed:
        return False
    return any(event["type"] == "user.message" for event in events)


STORED = {
    "list": Section(listing),
    "resume": Section(resume, fill_resume),
    "crash": Section(crash),
}
LONG = {
    "page": Section(page, fill_page, long=True),
    "history": Section(history, fill_history, long=True),
}
