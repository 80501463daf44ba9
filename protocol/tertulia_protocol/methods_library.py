"""Methods about many sessions, and about a session as a whole: forked, rewound, described, found.

The names are the SDKs' where they have one; the others are ours, and say so.
"""

from __future__ import annotations

from tertulia_protocol.shapes import Method

TABLE: tuple[Method, ...] = ()
