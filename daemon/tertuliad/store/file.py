"""The database's file: shared with other daemons, and still the one that was opened."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tertulia_protocol.errors import StoreFailed
from tertuliad.store.failures import failure
from tertuliad.store.hold import Hold, identity
from tertuliad.store.schema import FILE_NAME, open_database

if TYPE_CHECKING:
    import sqlite3


class DatabaseFile:
    """One for each store; its threads open it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._name = str(self.path)
        self._hold = Hold(folder)
        self._opened: tuple[int, int] | None = None
        self._beside: dict[str, int] = {}
        """A descriptor each, by the file's name."""
        self._keeping = threading.Lock()

    def open(self) -> sqlite3.Connection:
        """A connection of its own. Raises `StoreFailed`."""
        try:
            self._hold.take()
            db = open_database(self.path)
            try:
                self._opened = self._opened or identity(self._name)
                self._keep_places()
            except OSError:
                db.close()
                raise
        except OSError as error:
            raise failure(error, self.path) from error
        return db

    def _keep_places(self) -> None:
        """Know the other files that SQLite has open from those that may take their names. Locks on
        them are not touched: such a descriptor is only a place (open(2), O_PATH)."""
        if not hasattr(os, "O_PATH"):
            return
        with self._keeping:
            for name in (f"{self._name}-wal", f"{self._name}-shm"):
                if name not in self._beside:
                    with contextlib.suppress(FileNotFoundError):
                        self._beside[name] = os.open(name, os.O_PATH | os.O_CLOEXEC)

    def check(self) -> None:
        """What is written to a file that was removed is lost with the process: raises
        `StoreFailed`."""
        if identity(self._name) != self._opened:
            raise self._gone(self._name)
        for name, place in tuple(self._beside.items()):
            if identity(name) != identity(place):
                raise self._gone(name)

    def _gone(self, name: str) -> StoreFailed:
        return StoreFailed(
            f"{name} was moved, removed or replaced while the daemon runs, and nothing more is"
            " stored. Put the file back if it was moved; else end the daemon and let `tertulia"
            " doctor` look."
        )

    def release(self) -> None:
        """Every connection is closed."""
        beside, self._beside = self._beside, {}
        for place in beside.values():
            os.close(place)
        self._hold.release()
