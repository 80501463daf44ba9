"""`tertulia rename`, `metadata`, `fork` and `rewind`: a session's name, what is kept with it, and
its past."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from tertulia import calls
from tertulia.commands.common import (
    answer_of,
    attached,
    client_for,
    local_time,
    one_line,
    print_json,
    print_table,
    remark,
)
from tertulia.session import Session


def rename(options: argparse.Namespace) -> int:
    """`tertulia rename SESSION NAME`."""
    name = " ".join(options.name)
    with attached(options) as (_, session):
        session.rename(name)
        given = session.name()
    if options.json:
        return print_json({"sessionId": options.session, "name": given})
    print(f"renamed {options.session}: {one_line(given or '')}")
    return 0


def metadata(options: argparse.Namespace) -> int:
    """`tertulia metadata SESSION [NAME=VALUE...]`: keep these, and show what is kept then."""
    with client_for(options) as client:
        if options.members:
            kept = client.update_metadata(options.session, dict(options.members))
        else:
            kept = client.metadata(options.session)
    if options.json:
        return print_json({"sessionId": options.session, **msgspec.to_builtins(kept)})
    if not kept.metadata:
        remark("No metadata is kept.")
        return 0
    print_table([(one_line(name), _shown(kept.metadata[name])) for name in sorted(kept.metadata)])
    return 0


def _shown(value: Any) -> str:
    """Text as it is, whatever else as JSON."""
    return one_line(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def fork(options: argparse.Namespace) -> int:
    """`tertulia fork SESSION`: the new session's id on stdout."""
    return answer_of(options, calls.fork(options.session, options.at, options.name, options.id))


def rewind(options: argparse.Namespace) -> int:
    """`tertulia rewind SESSION [EVENT]`."""
    with attached(options) as (_, session):
        if options.event is None:
            return _print_points(session, options)
        removed = session.truncate(options.event)
    if options.json:
        return print_json({"sessionId": options.session, "eventsRemoved": removed})
    print(f"{removed} events were left out of {options.session}")
    return 0


def _print_points(session: Session, options: argparse.Namespace) -> int:
    """Where it can go back to."""
    points = session.rewind_points()
    if options.json:
        return print_json({"sessionId": session.id, "points": points})
    if not points:
        remark("Nothing was said yet.")
        return 0
    print_table(
        [
            (each.event_id, local_time(each.timestamp), one_line(each.user_message))
            for each in points
        ]
    )
    remark(f"Go back to before a message: tertulia rewind {session.id} EVENT")
    return 0
