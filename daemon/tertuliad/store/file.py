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
        self._opened: dict[str, tuple[int, int]] = {}
        """Which files SQLite has open, by their names. As long as it has, no others are the same:
        their numbers are not given again."""

    def open(self) -> sqlite3.Connection:
        """A connection of its own, to the file that the others have, if there are any: in the place
        of one that was moved nothing is begun anew. Raises `StoreFailed`."""
        self.check()
        if self.path.is_symlink():
            raise StoreFailed(
                f"{self.path} is a symbolic link: SQLite would keep its log beside the file that it"
                " leads to. Move the whole data folder there, and name that or link to it."
            )
        try:
            self._hold.take()
            db = open_database(self.path)
        except OSError as error:
            raise failure(error, self.path) from error
        try:
            self.check()
        except StoreFailed:
            db.close()
            raise
        names = (self._name, f"{self._name}-wal", f"{self._name}-shm")
        found = {name: known for name in names if (known := identity(name)) is not None}
        self._opened = found | self._opened
        return db

    def check(self) -> None:
        """What is written to a file that was removed is lost with the process: raises
        `StoreFailed`."""
        for name, known in self._opened.items():
            if identity(name) != known:
                raise self._gone(name)

    def _gone(self, name: str) -> StoreFailed:
        return StoreFailed(
            f"{name} was moved, removed or replaced while the daemon runs, and nothing more is"
            " stored. Put the file back if it was moved; else end the daemon and let `tertulia"
            " doctor` look."
        )

    def release(self) -> None:
        """Every connection is closed."""
        self._hold.release()
