"""The database's file: shared with other daemons, and still the one that was opened."""

from __future__ import annotations

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

    def open(self) -> sqlite3.Connection:
        """A connection of its own. Raises `StoreFailed`."""
        try:
            self._hold.take()
        except OSError as error:
            raise failure(error, self.path) from error
        db = open_database(self.path)
        self._opened = self._opened or identity(self._name)
        return db

    def check(self) -> None:
        """What is written to a file that was removed is lost with the process: raises
        `StoreFailed`."""
        if identity(self._name) != self._opened:
            raise StoreFailed(
                f"{self.path} was removed or replaced while the daemon runs, and nothing more is"
                " stored. Put the file back, or end the daemon and let `tertulia doctor` look."
            )

    def release(self) -> None:
        """Every connection is closed."""
        self._hold.release()
