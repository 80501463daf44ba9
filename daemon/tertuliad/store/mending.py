"""SQL of mending a database that SQLite can read whole, for who has the folder alone (`hold`).

Every call raises what the look raises (`examination`); each change but `pack` is made inside
`one_moment`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tertuliad.store import logs, rows, search
from tertuliad.store.base import MAX_SEQ, Record, Row
from tertuliad.store.examination import ORPHANS, Database, Listed, Snapshot, explained
from tertuliad.store.schema import GIVEN_UP, SEQ_BITS, event_id, open_database

# The orphans that end a log: what goes on from them, if anything, was forked off.
_ENDS = f"""{ORPHANS} AND id NOT IN (
    SELECT c.parent FROM segments c WHERE c.parent IS NOT NULL AND ?2 IS NOT (
        SELECT type FROM events WHERE events.id > c.id << ?1 ORDER BY events.id LIMIT 1
    )
)"""  # noqa: S608 - a constant


class MendableDatabase(Database):
    """One that may be written to."""

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Raises `StoreFailed` for what the daemon would not open either."""
        return cls(open_database(path))

    def ends_without_session(self, forked: str) -> list[int]:
        """The orphans that end a log. `forked` is the type of the first event of a fork's own."""
        with explained():
            found = self._db.execute(_ENDS, (SEQ_BITS, forked)).fetchall()
        return [segment for (segment,) in found]

    def refold(self, row: Row) -> None:
        """Write a row as the log has it."""
        with explained():
            found = self._db.execute(
                "UPDATE sessions SET parent = ? WHERE id = ? RETURNING head", (row.parent, row.id)
            ).fetchall()
            rows.update(self._db, row, found[0][0])

    def drop_snapshot(self, snapshot: Snapshot) -> None:
        with explained():
            self._db.execute("DELETE FROM snapshots WHERE segment = ?", (snapshot.segment,))

    def cut(self, listed: Listed, sound: int, row: Row, records: tuple[Record, ...]) -> None:
        """End the log behind `sound`, and go on with `records`. Where the damage lies inside a
        segment, what is behind it there goes: every log that leads through it is damaged too. The
        segments that the log leaves are orphans, if nobody else needs them."""
        with explained():
            place = next(p for p in self.places(listed.segment) if p.upto >= sound)
            if place.upto > sound:
                self._db.execute(
                    "DELETE FROM events WHERE id BETWEEN ? AND ?",
                    (event_id(place.segment, sound + 1), event_id(place.segment, place.upto)),
                )
                self._db.execute(
                    "DELETE FROM snapshots WHERE segment = ? AND seq > ? AND seq <= ?",
                    (place.segment, sound, place.upto),
                )
            segment = listed.segment
            if place.segment != segment:
                segment = logs.new_segment(self._db, records[0].seq - 1, place.segment, sound)
                self._db.execute(
                    "UPDATE sessions SET segment = ? WHERE id = ?", (segment, listed.row.id)
                )
            rows.update(self._db, row, listed.row.head)
            logs.insert(self._db, segment, records)

    def forget(self, listed: Listed) -> None:
        """Remove a session of which nothing can be read."""
        with explained():
            self._db.execute("DELETE FROM sessions WHERE id = ?", (listed.row.id,))

    def drop(self, segments: list[int]) -> None:
        """Remove segments and their events, and the words of those that nobody finds any more:
        the index has to be made anew."""
        with explained():
            for segment in segments:
                logs.discard(self._db, segment)

    def know(self, segment: int) -> None:
        """Give a segment its row: one that begins a log."""
        with explained():
            self._db.execute(
                "INSERT INTO segments (id, head, indexed) SELECT ?1, coalesce(max(id) & ?2, 0), 0"
                " FROM events WHERE id BETWEEN ?3 AND ?4",
                (segment, MAX_SEQ, event_id(segment, 0), event_id(segment, MAX_SEQ)),
            )

    def adopt(self, row: Row, segment: int) -> None:
        """A session for a log that has lost its row."""
        with explained():
            rows.insert(self._db, row, segment)

    def index_anew(self) -> None:
        with explained():
            self._db.execute("INSERT INTO said (said) VALUES ('delete-all')")
            self._db.execute(
                "UPDATE segments SET indexed = 0, head = iif(head = ?3, head, coalesce(("
                "SELECT max(e.id) & ?1"
                " FROM events e WHERE e.id BETWEEN segments.id << ?2 AND segments.id << ?2 | ?1),"
                " head))",
                (MAX_SEQ, SEQ_BITS, GIVEN_UP),
            )

    def index_some(self) -> bool:
        """Index some of what waits; whether more is left."""
        with explained():
            return search.index(self._db)

    def remove_some(self) -> bool:
        """Remove some of what deleted sessions have left; whether more is left."""
        with explained():
            return bool(logs.remove(self._db, logs.given_up(self._db)))

    def pack(self) -> None:
        """Write the file anew without what nothing uses. On the way it is on the disk thrice."""
        with explained():
            self._db.execute("VACUUM")
