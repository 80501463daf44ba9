"""Fresh UUIDs for events and messages, which a turn takes a dozen of.

Random ones (version 4, RFC 9562), from the kernel's own source, which is asked for many at a time:
asking costs more than all the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_AT_ONCE = 256


def _random_ids() -> Iterator[str]:
    while True:
        pool = os.urandom(16 * _AT_ONCE).hex()
        for start in range(0, len(pool), 32):
            digits = pool[start : start + 32]
            variant = "89ab"[int(digits[16], 16) & 3]
            yield (
                f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}"
                f"-{variant}{digits[17:20]}-{digits[20:]}"
            )


_ids = _random_ids()


def new_id() -> str:
    """A UUID that nobody else has."""
    return next(_ids)
