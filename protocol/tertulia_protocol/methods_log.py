"""Methods about a session's log and its queue: read with a cursor, edited, put in another order.

The names are the SDKs' (sections 3.1 and 3.2 of the wire's reference).
"""

from __future__ import annotations

from tertulia_protocol.shapes import Method

TABLE: tuple[Method, ...] = ()
