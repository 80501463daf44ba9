"""What a session does about each command: pure decisions over a folded state.

Every function of this package takes the state and the command's facts and gives a `Decision`; it
does not change the state, reads no clock and raises only `RpcError`, for the command's sender. The
actor commits the stored drafts in one transaction, and only then answers, publishes everything in
order, and starts or stops the turn.

| state | command | becomes | decided in |
|---|---|---|---|
| no turn | send | turn | `sending` |
| turn | send | turn, the message pending | `sending` |
| any | insert | as with send, or another queue | `queue` |
| any | an edit of what waits | another queue | `queue` |
| no turn | go on | the next pending message's turn | `turns` |
| turn | delta, retry | the same | `answering` |
| turn | done, failed | the next pending message's turn, else no turn | `answering` |
| turn | abort, interrupt | the next pending message's turn, else no turn | `turns` |
| any | suspend, shutdown | no turn, the pending messages stay | `turns` |
| any | log, rename, switch model, configure, resume | the same, with other settings | `settings` |
| no turn | rewind | no turn, an earlier conversation | `rewinding` |
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from tertulia_protocol import events
from tertuliad.sessions.state import SessionState


class Draft(msgspec.Struct, frozen=True):
    """An event that is decided and not yet numbered. `live_only` keeps a storable one unstored."""

    data: events.EventData
    live_only: bool = False
    id: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """`drafts` in their order of publication; `result` answers the command. With `keep_to` the log
    is rewound to that seq in the same step; what is stored follows on the event `behind`, where
    that is not the log's last. `taken_out` are the ids of messages that waited and get no turn.
    With `after` nothing is decided yet: the session does nothing else until that is done, and then
    decides again."""

    drafts: tuple[Draft, ...] = ()
    result: Any = None
    starts_turn: bool = False
    stops_turn: bool = False
    keep_to: int | None = None
    behind: str | None = None
    taken_out: tuple[str, ...] = ()
    after: Future[Any] | None = None


Decide = Callable[[SessionState], Decision]
"""What a command makes of the state. Called again where the log had to be folded anew."""


def drafts_of(*data: events.EventData) -> tuple[Draft, ...]:
    return tuple(map(Draft, data))
