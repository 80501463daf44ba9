"""Homes that real daemons have filled, and ways to damage a copy of one with real bytes."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tertuliad.store.schema import PAGE_BYTES
from tests.support.daemon_process import stdio_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire

DATABASE = "sessions.db"
PAGE = PAGE_BYTES
LONG_TURNS = 60
"""So many that a snapshot is stored."""

Records = dict[int, bytes]


def filled(home: Path, *, cleanly: bool = True) -> Path:
    """A home with sessions of short and long messages, one with a snapshot, a fork of one and one
    that was rewound; `cleanly` False: its daemon was killed, and left its write-ahead log."""
    home.mkdir(mode=0o700)
    with ModelThread() as model, stdio_daemon(home) as daemon:
        wire = daemon.wire
        for name in ("one", "two", "three"):
            wire.create(model.provider(), sessionId=name)
            for turn in range(4):
                wire.turn(name, f"[[say:{turn} of {name}]] " + "padding " * (1500 * (turn % 2)))
        _fork_and_rewind(wire)
        _checkpoint(home)
        wire.create(model.provider(), sessionId="long")
        for turn in range(LONG_TURNS):
            wire.turn("long", f"[[say:{turn}]]")
        if cleanly:
            assert daemon.process.stdin is not None
            daemon.process.stdin.close()
            assert daemon.wait() == 0
        else:
            daemon.kill()
    return home


def _fork_and_rewind(wire: Wire) -> None:
    def third(name: str) -> str:
        asked = [event for event in wire.history(name) if event["type"] == "user.message"]
        return str(asked[2]["id"])

    wire.call("sessions.fork", sessionId="one", toEventId=third("one"))
    wire.call("session.history.truncate", sessionId="two", eventId=third("two"))


def _checkpoint(home: Path) -> None:
    """Bring the write-ahead log into the database: what damages the log later takes the sessions
    back to this moment at most, and not to before the rewind."""
    with closing(sqlite3.connect(home / DATABASE)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def copy(home: Path, to: Path) -> Path:
    shutil.copytree(home, to)
    return to


def logs(home: Path) -> dict[str, Records]:
    """The stored bodies of each session's log, by their seq."""
    with closing(sqlite3.connect(home / DATABASE)) as db:
        listed = db.execute("SELECT id, segment FROM sessions").fetchall()
        return {name: _log(db, segment, (1 << 31) - 1) for name, segment in listed}


def _log(db: sqlite3.Connection, segment: int | None, upto: int) -> Records:
    if segment is None:
        return {}
    parent, parent_seq = db.execute(
        "SELECT parent, parent_seq FROM segments WHERE id = ?", (segment,)
    ).fetchone()
    own = db.execute(
        "SELECT id & 0x7fffffff, body FROM events WHERE id >> 31 = ? AND id & 0x7fffffff <= ?",
        (segment, upto),
    )
    return {**_log(db, parent, min(upto, parent_seq or 0)), **dict(own.fetchall())}


def change(home: Path, *statements: str) -> None:
    """Change the database behind everybody's back."""
    with closing(sqlite3.connect(home / DATABASE, isolation_level=None)) as db:
        for statement in statements:
            assert db.execute(statement).rowcount, f"nothing was changed by {statement}"


def cut(file: Path, size: int) -> None:
    """Truncate."""
    with file.open("r+b") as opened:
        opened.truncate(size)


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def garbage(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)
