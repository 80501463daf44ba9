"""`tertulia delete`, `prune` and `archive`: what is not wanted any more, or for a while."""

from __future__ import annotations

import argparse
from collections import Counter

from tertulia import calls
from tertulia.client import Client
from tertulia.commands.common import (
    as_it_came,
    client_for,
    done_for_each,
    local_time,
    one_line,
    print_json,
    print_table,
    remark,
)
from tertulia.errors import TertuliaError
from tertulia.records import Pruned


def delete(options: argparse.Namespace) -> int:
    """`tertulia delete SESSION...`."""
    return done_for_each(options, "deleted", Client.delete_session)


def archive(options: argparse.Namespace) -> int:
    """`tertulia archive SESSION...`."""
    away = not options.undo

    def put(client: Client, session_id: str) -> None:
        client.archive_session(session_id, away)

    return done_for_each(options, "archived" if away else "unarchived", put)


def prune(options: argparse.Namespace) -> int:
    """`tertulia prune --older-than AGE`."""
    call = calls.prune(options.older_than, not options.yes, options.named, options.keep)
    with client_for(options) as client:
        _check_there(client, options.keep)
        result = as_it_came(client, call)
        if options.json:
            return print_json(result)
        found = call.read(result)
        if found.dry_run:
            _print_going(client, found)
    for session_id in found.deleted:
        print(f"deleted {session_id}")
    remark(_summary(found))
    return 0


def _check_there(client: Client, kept: list[str]) -> None:
    """Raise `TertuliaError` for a mistyped id: the session that was meant would go."""
    for session_id in kept:
        if client.session_info(session_id) is None:
            raise TertuliaError(
                f"--keep {session_id}: there is no such session, and nothing was deleted; see"
                " `tertulia list`."
            )


def _print_going(client: Client, found: Pruned) -> None:
    rows = {info.session_id: info for info in client.sessions(archived="any")}
    going = [rows[each] for each in found.going if each in rows]
    if going:
        print_table(
            [
                (info.session_id, local_time(info.modified_time), one_line(info.summary or ""))
                for info in going
            ]
        )


STAYS = {
    "running": "with a turn that runs",
    "attached": "that a client is attached to",
    "elsewhere": "with a turn that another daemon runs",
    "pending": "with messages that wait",
    "excluded": "named by --keep",
    "named": "with a name (--named: those too)",
}
"""Why an old session is not pruned, by the daemon's word for it."""


def _summary(found: Pruned) -> str:
    stay = _staying(found)
    if not found.dry_run:
        return f"Deleted {_count(found.deleted)}, {found.freed_bytes:,} bytes{stay}."
    if not found.going:
        return f"Nothing would go{stay}."
    return f"{_count(found.going)} would go{stay}. Nothing was deleted yet: --yes does it."


def _staying(found: Pruned) -> str:
    """How many stay and why, behind what goes."""
    why = {"not so old": found.recent}
    for reason, count in Counter(found.reasons.values()).items():
        why[STAYS.get(reason, reason)] = count
    parts = [f"{count} {text}" for text, count in why.items() if count]
    return f"; {found.recent + len(found.skipped)} stay: {', '.join(parts)}" if parts else ""


def _count(ids: tuple[str, ...]) -> str:
    return f"{len(ids)} session" + ("" if len(ids) == 1 else "s")
