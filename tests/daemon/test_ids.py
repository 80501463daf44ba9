"""Every event and message has a UUID of its own, as the SDKs insist."""

from __future__ import annotations

import uuid

from tertuliad.ids import new_id


def test_ids_are_random_uuids_and_never_the_same() -> None:
    made = [new_id() for _ in range(2000)]
    assert len(set(made)) == len(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
