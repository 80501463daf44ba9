"""What the blocking client does with many sessions, and with one that it is not attached to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, Unpack

from tertulia import calls, documents, limits
from tertulia.calls import Call
from tertulia.errors import SessionNotFound
from tertulia.params import Path
from tertulia.records import (
    Filter,
    Metadata,
    Order,
    Page,
    Pruned,
    SearchHit,
    SessionInfo,
    Usage,
)

T = TypeVar("T")


class Doer(Protocol):
    """Who makes calls."""

    def do(self, call: Call[T]) -> T:
        """What a call comes to."""


class Library(Doer):
    """The part of `Client` that needs no conversation. Unknown ids raise `SessionNotFound`."""

    def sessions(
        self, *, order: Order | None = None, **chosen: Unpack[Filter]
    ) -> list[SessionInfo]:
        """Every stored session that is `chosen`; archived ones only where it says so."""
        return list(self.do(calls.sessions(chosen, order, None, None)).items)

    def session_page(
        self,
        limit: int,
        cursor: str | None = None,
        *,
        order: Order | None = None,
        **chosen: Unpack[Filter],
    ) -> Page[SessionInfo]:
        """At most `limit` of them (1000 at once). `cursor`: that of the page before."""
        return self.do(calls.sessions(chosen, order, limit, cursor))

    def iter_sessions(
        self,
        *,
        page_size: int = limits.LISTED_AT_ONCE,
        order: Order | None = None,
        **chosen: Unpack[Filter],
    ) -> Iterator[SessionInfo]:
        """All of them, a page at a time. One that changes its place meanwhile may be missed, or
        come twice."""
        return _paged(lambda cursor: self.session_page(page_size, cursor, order=order, **chosen))

    def session_info(self, session_id: str) -> SessionInfo | None:
        """The row of one session; None where there is none."""
        return self.do(calls.session_info(session_id))

    def find_session(self, prefix: str) -> str | None:
        """The session whose id begins with `prefix`, where that is one alone."""
        return self.do(calls.find(prefix))

    def search(self, text: str, *, page_size: int = limits.FOUND_AT_ONCE) -> Iterator[SearchHit]:
        """The messages that have all words of `text`, the best first; the last word may be the
        beginning of one. Asked for a page at a time."""
        return _paged(lambda cursor: self.search_page(text, page_size, cursor))

    def search_page(
        self, text: str, limit: int | None = None, cursor: str | None = None
    ) -> Page[SearchHit]:
        """At most `limit` places (200 at once) of a search."""
        return self.do(calls.search(text, limit, cursor))

    def fork_session(
        self,
        session_id: str,
        at: str | None = None,
        *,
        name: str | None = None,
        new_session_id: str | None = None,
    ) -> str:
        """Make a session that begins as another one, up to before the event `at` or with all of
        it; its id. Nothing is copied. Raises `SessionExists` where `new_session_id` is taken."""
        return self.do(calls.fork(session_id, at, name, new_session_id))

    def metadata(self, session_id: str) -> Metadata:
        """What was kept with `update_metadata`."""
        return self.do(calls.metadata(session_id))

    def update_metadata(self, session_id: str, members: dict[str, Any]) -> Metadata:
        """Keep these members with a session; None takes one out, the others stay. Whatever JSON
        they are, 64 KiB in all. What there is then."""
        return self.do(calls.describe(session_id, members, None))

    def archive_session(self, session_id: str, archived: bool = True) -> Metadata:
        """Put it away from the list, or with False back."""
        return self.do(calls.describe(session_id, None, archived))

    def usage(self, session_id: str | None = None) -> Usage:
        """What the model calls of a session took; of all that are stored, without an id."""
        if session_id is not None:
            return self.do(calls.usage(session_id))
        total = Usage()
        for row in self.iter_sessions(archived="any"):
            with contextlib.suppress(SessionNotFound):  # it was deleted meanwhile
                total += self.do(calls.usage(row.session_id))
        return total

    def sizes(self) -> dict[str, int]:
        """The bytes of each session's events, by its id; what a fork shares is its source's."""
        return self.do(calls.sizes())

    def export_session(self, session_id: str) -> dict[str, Any]:
        """The session with all of its log, as one JSON document. No key is in it."""
        return self.do(calls.export(session_id))

    def import_session(
        self, document: dict[str, Any], session_id: str | None = None, *, rename: bool = False
    ) -> str:
        """Make a session from such a document; its id: the document's, or `session_id`. Raises
        `SessionExists` where that is taken, unless `rename` lets another one be made, and
        `InvalidParams` for what is no document."""
        return self.do(calls.import_(document, session_id, rename))

    def export_to(self, session_id: str, path: Path, *, overwrite: bool = False) -> None:
        """Export to a file, which only its owner may read. Raises FileExistsError unless it may
        `overwrite`, and OSError; half a file is never left."""
        documents.write(path, self.export_session(session_id), overwrite=overwrite)

    def import_from(
        self, path: Path, session_id: str | None = None, *, rename: bool = False
    ) -> str:
        """Import from a file. Raises OSError, and `TertuliaError` where it has no document."""
        return self.import_session(documents.read(path), session_id, rename=rename)

    def prune(
        self,
        older_than_days: float,
        *,
        dry_run: bool = True,
        include_named: bool = False,
        exclude: Iterable[str] = (),
    ) -> Pruned:
        """Delete the sessions that nobody has changed for so long, or, unless `dry_run` is False,
        say which they are. Named ones stay unless they are included; those that run, that clients
        of this daemon are attached to, or that have messages that wait always do."""
        return self.do(calls.prune(older_than_days, dry_run, include_named, exclude))

    def delete_sessions(self, session_ids: Iterable[str]) -> dict[str, int]:
        """Delete many at once; the bytes that each has freed. Ids that are not there are passed
        over."""
        return self.do(calls.bulk_delete(session_ids))


def _paged(page_at: Callable[[str | None], Page[T]]) -> Iterator[T]:
    page = page_at(None)
    yield from page.items
    while page.cursor is not None:
        page = page_at(page.cursor)
        yield from page.items
