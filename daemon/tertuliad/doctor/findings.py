"""What a look at a data folder can find, and what a repair does about it.

A *fault* is something that should not be; a *note* is worth knowing and no fault: a daemon deals
with it, or nobody has to. `spec/home.md` has the same table.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["fault", "note"]


def counted(number: int, noun: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Kind(msgspec.Struct, frozen=True):
    """`repair` None: a repair does nothing about it."""

    level: Level
    meaning: str
    repair: str | None = None


_ASIDE = "the database is copied aside first"

KINDS: dict[str, Kind] = {
    "changes_lost": Kind(
        "fault",
        "The write-ahead log is damaged, or the machine stopped while it was written. What stands"
        " behind that place is not read, and the next daemon takes it away.",
        f"What stands before it is kept; {_ASIDE}.",
    ),
    "database_damaged": Kind(
        "fault",
        "The file is cut, overwritten or no database, SQLite's own check finds faults, a table is"
        " missing, or it has what no daemon writes.",
        f"What can be read is carried into a new database; {_ASIDE}.",
    ),
    "database_empty": Kind("note", "A new home, or one whose database was emptied."),
    "database_missing": Kind(
        "fault",
        "There is a write-ahead log, and no database that it belongs to.",
        f"What the log has is carried into a new database; {_ASIDE}.",
    ),
    "dead_file": Kind(
        "note", "A process that is gone, or a repair that was cut, has left it.", "It is removed."
    ),
    "home_visible": Kind(
        "note",
        "Others may see which files are in it, and read none that a daemon has made.",
        "Their rights are taken away.",
    ),
    "id_unusable": Kind(
        "fault",
        "It is no id of a session, and no request can name it.",
        f"It gets the id that its log names, if nobody else has it, or a new one; {_ASIDE}.",
    ),
    "in_the_way": Kind(
        "fault", "A daemon needs this place for something else. Move away what lies there."
    ),
    "index_behind": Kind(
        "note",
        "Some words cannot be searched for yet; the next search finds them.",
        "They are indexed.",
    ),
    "index_damaged": Kind("fault", "A search fails or misses something.", "It is made anew."),
    "journal_left": Kind(
        "fault",
        "The database cannot be looked into beside it: a change that was cut has left it, or"
        " somebody has put it there.",
        "SQLite takes back what it is the journal of, if anything, and removes it; then the rest is"
        f" looked for; {_ASIDE}.",
    ),
    "log_damaged": Kind(
        "fault",
        "An event is missing, cannot be read, or does not follow on the one before it.",
        f"The log is cut behind its last sound event, and the session says so; {_ASIDE}.",
    ),
    "log_lost": Kind(
        "fault",
        "Not even the first event can be read.",
        "It gets the log that names it, if there is one that no session has; else it is removed;"
        f" {_ASIDE}.",
    ),
    "mode_too_open": Kind("fault", "Others may read or change it.", "Their rights are taken away."),
    "row_differs": Kind(
        "fault", "The list says something else than the log.", "It is written as the log has it."
    ),
    "segment_orphaned": Kind("fault", "No session's log leads through it.", "It is removed."),
    "segment_unknown": Kind(
        "fault",
        "There are events of it, and it is nowhere named.",
        "It is named again, or removed where no session's log leads through it.",
    ),
    "snapshot_differs": Kind(
        "fault", "It says something else than the log.", "It is removed; the log is enough."
    ),
    "space_short": Kind("fault", "The disk is nearly full. Free some space."),
    "space_unused": Kind(
        "note",
        "Deleted sessions have left it. New ones take it; the file keeps its size.",
        "What was said is indexed anew, and the file is written anew without the rest.",
    ),
    "turn_left_open": Kind(
        "note", "Its process is gone; the next daemon that opens the session ends it."
    ),
}


class Finding(msgspec.Struct, frozen=True, order=True):
    """Sorted by kind, then by where it is. `where` is a file's path under the home, or ''."""

    kind: str
    session: str
    where: str
    detail: str

    @property
    def is_fault(self) -> bool:
        return KINDS[self.kind].level == "fault"


def finding(kind: str, detail: str, *, session: str = "", where: str = "") -> Finding:
    return Finding(kind, session, where, detail)


def as_json(found: Finding) -> dict[str, str | None]:
    kind = KINDS[found.kind]
    return {
        "kind": found.kind,
        "level": kind.level,
        "session": found.session or None,
        "where": found.where or None,
        "detail": found.detail,
        "meaning": kind.meaning,
        "repair": kind.repair,
    }


def as_line(found: Finding) -> str:
    """For people, on one line."""
    kind = KINDS[found.kind]
    whose = f" {found.session}" if found.session else f" {found.where}" if found.where else ""
    repair = f" Repair: {kind.repair}" if kind.repair else ""
    return f"{kind.level}  {found.kind}{whose}: {found.detail}. {kind.meaning}{repair}"
