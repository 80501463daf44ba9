"""The endpoints and keys that clients gave for single sessions. In memory only, never stored."""

from __future__ import annotations

from tertulia_protocol.provider_config import SessionProviders


class Credentials:
    """By session; outlives the sessions' actors. Equal ones are one object: hundreds of sessions
    mostly have the same endpoint."""

    def __init__(self) -> None:
        self._kept: dict[str, SessionProviders] = {}
        self._latest: SessionProviders | None = None

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._kept

    def get(self, session_id: str) -> SessionProviders | None:
        return self._kept.get(session_id)

    def keep(self, session_id: str, given: SessionProviders) -> None:
        """Take the place of what was given before. An endpoint takes the place of all of it; of
        lists of endpoints and models, each one of its own."""
        before = self._kept.get(session_id)
        if before is not None and given.provider is None and before.provider is None:
            given = SessionProviders(
                providers=given.providers or before.providers, models=given.models or before.models
            )
        if given != self._latest:
            self._latest = given
        self._kept[session_id] = self._latest or given

    def copy(self, source: str, child: str) -> None:
        """What `source` has holds for `child` too."""
        if (given := self._kept.get(source)) is not None:
            self._kept[child] = given

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        self._kept.pop(session_id, None)
        if not self._kept:
            self._latest = None
