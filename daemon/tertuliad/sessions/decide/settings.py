"""A session's beginning, its settings and names, and clients' own lines in its log.

Nothing here starts or ends a turn: the one that runs keeps the settings that it began with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tertulia_protocol import events
from tertulia_protocol.config import CapabilitiesOverride, SessionConfig, merged, stored
from tertuliad.sessions import facts
from tertuliad.sessions.decide import Decision, Draft, drafts_of
from tertuliad.sessions.state import SessionState, title_of

LOG_VERSION = 1
PRODUCER = "tertulia"


def create(
    state: SessionState, config: SessionConfig, version: str, start_time: str, result: Any
) -> Decision:
    """The first two records of every session."""
    kept = stored(config)
    start = events.SessionStart(
        session_id=state.id,
        version=LOG_VERSION,
        producer=PRODUCER,
        copilot_version=version,
        start_time=start_time,
        selected_model=kept.model,
        reasoning_effort=kept.reasoning_effort,
        context=_context(kept),
    )
    return Decision(drafts=drafts_of(start, facts.Configured(kept)), result=result)


def configure(state: SessionState, given: SessionConfig, result: Any) -> Decision:
    """Settings that were given replace the old ones."""
    config = stored(merged(state.config, given))
    return Decision(drafts=(*_changed(state, config), *_renamed(state, given)), result=result)


def _renamed(state: SessionState, given: SessionConfig) -> tuple[Draft, ...]:
    """A name among the settings replaces one that the session was given since."""
    if given.name is None or state.name is None:
        return ()
    return drafts_of(facts.Named(None), events.SessionTitleChanged(title=given.name))


def _changed(state: SessionState, config: SessionConfig) -> tuple[Draft, ...]:
    return () if config == state.config else drafts_of(facts.Configured(config))


def resume(
    state: SessionState,
    given: SessionConfig,
    *,
    resume_time: str,
    was_active: bool,
    continue_work: bool,
    result: Any,
) -> Decision:
    """As `configure`, and the log says that a client came."""
    config = stored(merged(state.config, given))
    came = events.SessionResume(
        resume_time=resume_time,
        event_count=state.shown_events,
        continue_pending_work=continue_work,
        session_was_active=was_active,
        selected_model=config.model,
        reasoning_effort=config.reasoning_effort,
        context=_context(config),
    )
    drafts = (*_changed(state, config), *_renamed(state, given), Draft(came))
    return Decision(drafts=drafts, result=result)


def _context(config: SessionConfig) -> events.WorkingDirectory | None:
    cwd = config.working_directory
    return events.WorkingDirectory(cwd=cwd) if cwd else None


def move_to(state: SessionState, folder: str, result: Any) -> Decision:
    """Turns that start later work in `folder`."""
    if state.config.working_directory == folder:
        return Decision(result=result)
    config = msgspec.structs.replace(state.config, working_directory=folder)
    drafts = drafts_of(facts.Configured(config), events.WorkingDirectory(cwd=folder))
    return Decision(drafts=drafts, result=result)


def note_context(state: SessionState, context: events.WorkingDirectory, result: Any) -> Decision:
    """What a client knows of the session's folder; of another one it is passed over."""
    if context.cwd != state.config.working_directory:
        return Decision(result=result)
    return Decision(drafts=drafts_of(context), result=result)


def switch_model(
    state: SessionState,
    model: str,
    reasoning_effort: str | None,
    result: Any,
    *,
    capabilities: CapabilitiesOverride | None = None,
) -> Decision:
    """Turns that start later go to `model`, of which a client may know more than others do; the one
    that runs stays where it is."""
    change = events.SessionModelChange(
        new_model=model,
        previous_model=state.config.model,
        reasoning_effort=reasoning_effort,
        previous_reasoning_effort=state.config.reasoning_effort,
        source="sdk",
    )
    drafts = drafts_of(change)
    if capabilities is not None:
        config = msgspec.structs.replace(
            state.config,
            model=model,
            reasoning_effort=reasoning_effort or state.config.reasoning_effort,
            model_capabilities=capabilities,
        )
        drafts += drafts_of(facts.Configured(config))
    return Decision(drafts=drafts, result=result)


def rename(name: str | None, result: Any) -> Decision:
    drafts: list[events.EventData] = [facts.Named(name)]
    if name:
        drafts.append(events.SessionTitleChanged(title=name))
    return Decision(drafts=drafts_of(*drafts), result=result)


def auto_name(state: SessionState, summary: str, result: Callable[[bool], Any]) -> Decision:
    """Give the session a title that a client made, unless somebody chose one."""
    if state.named:
        return Decision(result=result(False))
    title = title_of(summary)
    drafts = drafts_of(facts.Named(title, auto=True), events.SessionTitleChanged(title=title))
    return Decision(drafts=drafts, result=result(True))


def describe(
    state: SessionState, metadata: dict[str, Any] | None, archived: bool | None, result: Any
) -> Decision:
    """Change the caller's own metadata (None members are taken out), or put the session away."""
    merged_metadata = {**(state.metadata or {}), **(metadata or {})}
    kept = {name: value for name, value in merged_metadata.items() if value is not None}
    described = facts.Described(
        metadata=kept or None, archived=state.archived if archived is None else archived
    )
    unchanged = described == facts.Described(metadata=state.metadata, archived=state.archived)
    return Decision(drafts=() if unchanged else drafts_of(described), result=result)


def note(data: events.EventData, event_id: str, live_only: bool, result: Any) -> Decision:
    """A client's own line in the log."""
    return Decision(drafts=(Draft(data, live_only=live_only, id=event_id),), result=result)
