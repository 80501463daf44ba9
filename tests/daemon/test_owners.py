"""One process at a time runs a session's turn: a dead one is known at once, a stopped one after
its lease, and one that wakes too late is refused and says so to those who watch."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tertulia_protocol.errors import StoreFailed, TurnBusy
from tertuliad import limits
from tertuliad.store.owners import SUFFIX, Owners, nobody_holds
from tests.support.daemon_process import DaemonProcess, stdio_daemon
from tests.support.in_process_model import PATIENCE_S
from tests.support.model_thread import ModelThread
from tests.support.pair import pair
from tests.support.wire import said, types
from tests.torture.races import races


@pytest.fixture
def _no_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that the test makes old stays old."""
    monkeypatch.setattr(limits, "LEASE_BEAT_S", 1e6)


def forget(home: Path) -> None:
    """As if the processes that own the marks had not been heard of for longer than a lease."""
    long_ago = os.stat(home).st_mtime - 10 * limits.LEASE_S
    for mark in (home / "run").glob(f"*{SUFFIX}"):
        os.utime(mark, (long_ago, long_ago))


def stop(daemon: DaemonProcess) -> None:
    """SIGSTOP, and wait until it has stopped."""
    os.kill(daemon.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, daemon.pid, os.WSTOPPED)


# The mark alone


def test_a_process_that_is_not_heard_of_is_taken_for_stopped_after_its_lease(home: Path) -> None:
    now = [0.0]
    theirs = Owners(home / "run")
    theirs.claim()
    touched = (home / "run" / f"{theirs.me}{SUFFIX}").stat().st_mtime
    mine = Owners(home / "run", clock=lambda: now[0])
    now[0] = touched + limits.LEASE_S - 0.1
    assert mine.alive(theirs.me)
    now[0] = touched + limits.LEASE_S + 0.1
    assert not mine.alive(theirs.me)
    theirs.close()


def test_a_claim_for_a_further_turn_makes_an_old_mark_new(home: Path) -> None:
    mine, theirs = Owners(home / "run"), Owners(home / "run")
    theirs.claim()
    forget(home)
    assert not mine.alive(theirs.me)
    theirs.claim()
    assert mine.alive(theirs.me)
    theirs.close()


def test_two_may_look_at_once_at_a_process_that_is_gone(home: Path) -> None:
    mark = home / "dead.owner"
    home.mkdir()
    mark.touch()
    with mark.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as the other does at this moment
        assert nobody_holds(mark)
        fcntl.flock(looking, fcntl.LOCK_EX)  # as its process does while it lives
        assert not nobody_holds(mark)


def test_a_process_never_takes_itself_for_stopped(home: Path) -> None:
    mine = Owners(home / "run")
    mine.claim()
    forget(home)
    assert mine.alive(mine.me)
    mine.close()


def test_a_folder_that_cannot_be_used_is_told_with_words_that_help(home: Path) -> None:
    home.write_text("a file is in the way")
    with pytest.raises(StoreFailed, match="data folder"):
        Owners(home / "run").claim()


@pytest.mark.anyio
async def test_a_process_that_runs_turns_says_so_until_none_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASE_BEAT_S", 0.001)
    mine, running = Owners(home / "run"), {"a session"}
    mine.claim()
    mark = home / "run" / f"{mine.me}{SUFFIX}"
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            mine.beat_while(running, tasks.start_soon)
            mine.beat_while(running, tasks.start_soon)
            for _ in range(3):
                os.utime(mark, (0, 0))
                while mark.stat().st_mtime == 0:
                    await anyio.lowlevel.checkpoint()
            running.clear()
    mine.close()


@pytest.mark.anyio
async def test_a_mark_that_could_not_be_touched_is_touched_again_and_that_is_told_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "LEASE_BEAT_S", 0.001)
    mine, running = Owners(home / "run"), {"a session"}
    mine.claim()
    mark = home / "run" / f"{mine.me}{SUFFIX}"
    os.utime(mark, (0, 0))
    touch, failures = os.utime, [OSError(errno.EIO, "the disk says no") for _ in range(3)]

    def fails_at_first(*args: Any) -> None:
        if failures:
            raise failures.pop()
        touch(*args)

    monkeypatch.setattr(os, "utime", fails_at_first)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            mine.beat_while(running, tasks.start_soon)
            while mark.stat().st_mtime == 0:
                await anyio.lowlevel.checkpoint()
            running.clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the disk says no" in caplog.text
    mine.close()


def test_a_mark_that_is_swept_away_cannot_be_locked_meanwhile(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "run").mkdir(parents=True)
    mark = home / "run" / f"made and not locked yet{SUFFIX}"
    mark.touch()
    removed: list[Path] = []
    unlink = Path.unlink

    def watched(path: Path, **how: Any) -> None:
        with path.open() as maker, pytest.raises(BlockingIOError):
            fcntl.flock(maker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed.append(path)
        unlink(path, **how)

    sweeper = Owners(home / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", watched)
        sweeper.claim()
    assert removed == [mark]
    assert not mark.exists()
    sweeper.close()


def test_a_mark_that_was_made_anew_while_the_old_one_was_looked_at_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "run").mkdir(parents=True)
    mine, sweeper = Owners(home / "run"), Owners(home / "run")
    mark = home / "run" / f"{mine.me}{SUFFIX}"
    mark.touch()
    lock = fcntl.flock

    def overtaken(fd: int, how: int) -> None:
        if how & fcntl.LOCK_SH and mine._fd is None:
            mark.unlink()  # by another one that sweeps
            mine._make()
        lock(fd, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", overtaken)
        patch.setattr(mine, "_sweep", lambda: None)
        sweeper.claim()
    assert sweeper.alive(mine.me)
    assert mark.exists()
    mine.close()
    sweeper.close()


# Two daemons in one process, whose steps the test decides


@pytest.mark.anyio
@pytest.mark.usefixtures("_no_beat")
async def test_an_owner_that_wakes_too_late_is_refused_and_tells_those_who_watch(
    home: Path,
) -> None:
    home.mkdir()
    async with pair(home) as (early, sleeper), pair(home) as (late, _):
        sleeper.model.hold = True
        await early.create("s", streaming=True)
        await early.say("s", "asked in the first")
        call = await sleeper.model.next_call()
        with pytest.raises(TurnBusy):
            await late.request("session.resume", {"sessionId": "s"})
        forget(home)
        await late.request("session.resume", {"sessionId": "s"})
        await late.turn("s", "asked in the second")

        call.finish("an answer that comes too late")
        await early.next_event("session.idle", "s")
        error = next(e for e in early.events("s") if e["type"] == "session.error")
        assert error["data"]["errorType"] == "turn_lost"
        stored = await late.history("s")
        assert "too late" not in str(stored)
        assert stored == await early.history("s")
        seen = [event["id"] for event in early.events("s") if not event.get("ephemeral")]
        assert seen == [event["id"] for event in stored][-len(seen) :], "a gap or a repeat"

        sleeper.model.hold = False
        await early.turn("s", "and the first goes on")


@pytest.mark.anyio
@pytest.mark.usefixtures("_no_beat")
async def test_who_watches_the_late_owner_is_told_though_the_other_still_runs_a_turn(
    home: Path,
) -> None:
    home.mkdir()
    async with pair(home) as (early, sleeper), pair(home) as (late, taker):
        sleeper.model.hold = taker.model.hold = True
        await early.create("s")
        await early.say("s", "asked in the first")
        call = await sleeper.model.next_call()
        forget(home)
        await late.request("session.resume", {"sessionId": "s"})
        await late.say("s", "asked in the second")
        running = await taker.model.next_call()

        call.finish("an answer that comes too late")
        error = await early.next_event("session.error", "s")
        assert error["data"]["errorType"] == "turn_lost"
        with pytest.raises(TurnBusy) as refused:
            await early.say("s", "not yet")
        assert refused.value.data is not None
        assert refused.value.data["retryMs"] > 0

        assert not [e for e in early.events("s") if e["type"] == "session.idle"]
        running.finish("the second's answer")
        await late.next_event("session.idle", "s")
        await early.next_event("session.idle", "s")
        sleeper.model.hold = False
        await early.turn("s", "now it is free")
        seen = [event["id"] for event in early.events("s") if not event.get("ephemeral")]
        stored = await late.history("s")
        assert seen == [event["id"] for event in stored][-len(seen) :], "a gap or a repeat"


@pytest.mark.anyio
async def test_a_daemon_that_has_not_seen_the_others_writing_refuses_nothing_because_of_it(
    home: Path,
) -> None:
    home.mkdir()
    async with pair(home) as (one, first), pair(home) as (two, _):
        await one.create("s")
        await two.request("session.resume", {"sessionId": "s"})
        await two.turn("s", "hello")
        first.model.hold = True
        seq = (await two.request("session.eventLog.tail", {"sessionId": "s"}))["seq"]
        sent = {"sessionId": "s", "prompt": "and", "expectedSeq": seq}
        assert await one.request("session.send", sent)
        (await first.model.next_call()).finish("on")
        await one.next_event("session.idle", "s")

        await two.turn("s", "again")
        stored = await two.history("s")
        last = [event["id"] for event in stored if event["type"] == "user.message"][-1]
        cut = {"sessionId": "s", "eventId": last}
        assert (await one.request("session.history.truncate", cut))["eventsRemoved"] > 0


# Real processes


def test_a_stopped_process_loses_its_turn_and_learns_it_when_it_wakes(
    home: Path, model: ModelThread
) -> None:
    with stdio_daemon(home) as sleeper, stdio_daemon(home) as taker:
        session = sleeper.wire.create(model.provider(), streaming=True)
        sleeper.wire.call("session.send", sessionId=session, prompt="[[fake-n9-stall3]]")
        sleeper.wire.event(session, "assistant.message_delta")
        busy = taker.wire.refused("session.resume", sessionId=session, provider=model.provider())
        assert busy.data["kind"] == "turn_busy"

        stop(sleeper)
        forget(home)
        taker.wire.call("session.resume", sessionId=session, provider=model.provider())
        assert said(taker.wire.turn(session, "[[say:taken over]]")) == ["taken over"]

        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.wire.call("session.abort", sessionId=session)
        sleeper.wire.event(session, "session.idle")
        error = sleeper.wire.event(session, "session.error")
        assert error["data"]["errorType"] == "turn_lost"
        log = taker.wire.history(session)
        assert sleeper.wire.history(session) == log
        assert "abort" not in types(log)
        assert types(log).count("assistant.turn_end") == 2
        assert said(sleeper.wire.turn(session, "[[say:and on]]")) == ["and on"]


def test_two_processes_that_take_a_session_at_once_write_one_log(
    home: Path, model: ModelThread
) -> None:
    assert races(home, model, 50) >= 50
