"""What clients gave that may be secret: endpoints and keys for single sessions, headers for single
messages. In memory only, never stored."""

from __future__ import annotations

from tertulia_protocol.provider_config import ProviderModelConfig, SessionProviders
from tertuliad.limits import SESSION_TARGETS
from tertuliad.providers.base import Target


class Kept:
    """The endpoints that were given for some sessions, and what was made of them: a target
    remembers what its server refuses. Goes with the last of the sessions."""

    __slots__ = ("__weakref__", "_targets", "given")

    def __init__(self, given: SessionProviders) -> None:
        self.given = given
        self._targets: dict[str | None, Target] = {}

    def providers(self, models: list[ProviderModelConfig] | None) -> SessionProviders:
        """What was given, with the models that the session's settings declare for it: those are
        stored."""
        return SessionProviders(self.given.provider, self.given.providers, models)

    def target(self, model: str | None) -> Target | None:
        """Who answers for `model`, if that was found out before."""
        return self._targets.get(model)

    def found(self, model: str | None, target: Target) -> None:
        """Remember who answers, where that depends on nothing else than what was given."""
        if self.given.provider is not None:
            if len(self._targets) >= SESSION_TARGETS:
                self._targets.clear()
            self._targets[model] = target


class Credentials:
    """By session; outlives the sessions' actors. What was given for a session is not for another
    one that was made under its id later. Equal ones are kept once: hundreds of sessions mostly have
    the same endpoint."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, Kept]] = {}
        self._latest: Kept | None = None

    def __contains__(self, session_id: str) -> bool:
        """Whether anything is kept for a session of that id, whenever it was made."""
        return session_id in self._kept

    def created_ms(self, session_id: str) -> int:
        """When the session of that id was made that something is kept for; 0: nothing is."""
        return self._kept.get(session_id, (0, None))[0]

    def of(self, session_id: str, created_ms: int) -> Kept | None:
        """What was given for the session that was made then."""
        born, kept = self._kept.get(session_id, (0, None))
        return kept if born == created_ms else None

    def keep(self, session_id: str, created_ms: int, given: SessionProviders) -> None:
        """Take the place of what was given before."""
        if self._latest is None or self._latest.given != given:
            self._latest = Kept(given)
        self._kept[session_id] = created_ms, self._latest

    def copy(self, kept: Kept | None, child: str, created_ms: int) -> None:
        """What the source of a fork has holds for the fork, `child`, too."""
        if kept is not None:
            self._kept[child] = created_ms, kept

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        _, kept = self._kept.pop(session_id, (0, None))
        if kept is self._latest:
            self._latest = None


class RequestHeaders:
    """By session and message, for the message's model call: until its turn has begun, or it is
    taken out of the queue."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, dict[str, str]]] = {}

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._kept

    def of(self, session_id: str, message_id: str | None) -> dict[str, str]:
        kept = self._kept.get(session_id)
        return {} if kept is None else kept.get(message_id or "", {})

    def keep(self, session_id: str, message_id: str, headers: dict[str, str]) -> None:
        """Keep them, if there are any."""
        if headers:
            self._kept.setdefault(session_id, {})[message_id] = headers

    def forget(self, session_id: str, message_id: str | None) -> None:
        kept = self._kept.get(session_id)
        if kept is not None:
            kept.pop(message_id or "", None)
            if not kept:
                del self._kept[session_id]

    def forget_session(self, session_id: str) -> None:
        """The session is gone."""
        self._kept.pop(session_id, None)
