"""Messages that are on their way into their sessions: those of one session are accepted in the
order in which they came, though what is attached to one is still being read."""

from __future__ import annotations

import anyio

from tertulia_protocol.errors import RpcError, cancelled
from tertuliad.replies import Reply, settled


class Arrival:
    """One message. `way` is what of its way can be given up."""

    def __init__(self, ahead: Reply | None) -> None:
        self._ahead = ahead
        self.gone_in = Reply()
        """Settled once it, and all that came before it, is accepted or never will be."""
        self.way = anyio.CancelScope()
        self.given_up: RpcError | None = None
        """Why."""

    def give_up(self, why: RpcError) -> None:
        self.given_up = self.given_up or why
        self.way.cancel()

    def cancel(self) -> None:
        """Whoever sent it wants it no more."""
        self.give_up(cancelled())

    async def its_turn(self) -> None:
        """Wait for those that came before. Raises why it was given up, where `way` has told nobody:
        what was waited for was there already."""
        if self._ahead is not None:
            await settled(self._ahead)
        if self.given_up is not None:
            raise self.given_up

    def leave(self) -> None:
        """It is accepted, or never will be."""
        if self._ahead is None:
            self.gone_in.give(None)
        else:
            self._ahead.add_done_callback(self.gone_in.follow)


class Arrivals:
    """Outlives every connection."""

    def __init__(self) -> None:
        self._by_session: dict[str, list[Arrival]] = {}

    def any(self, session_id: str) -> bool:
        """Whether messages are on their way there."""
        return session_id in self._by_session

    def enter(self, session_id: str) -> Arrival:
        """A message is on its way, until it leaves."""
        coming = self._by_session.setdefault(session_id, [])
        arrival = Arrival(coming[-1].gone_in if coming else None)
        coming.append(arrival)
        arrival.gone_in.add_done_callback(lambda _: self._forget(session_id, coming, arrival))
        return arrival

    def give_up(self, session_id: str, why: RpcError) -> None:
        """What is on its way there is not wanted any more; who sends now waits for none of it."""
        for arrival in self._by_session.pop(session_id, ()):
            arrival.give_up(why)

    def _forget(self, session_id: str, coming: list[Arrival], arrival: Arrival) -> None:
        coming.remove(arrival)
        if not coming and self._by_session.get(session_id) is coming:
            del self._by_session[session_id]
