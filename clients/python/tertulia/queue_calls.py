"""What a client may ask of a session's queue: as `calls`."""

from __future__ import annotations

from typing import Any

from tertulia import params
from tertulia.calls import Call, member, nothing, of_session, only, wire_names
from tertulia.records import QueuedMessage, SendOptions, Waiting
from tertulia_protocol.decoding import convert


def waiting(session_id: str) -> Call[Waiting]:
    def read(result: Any) -> Waiting:
        items = convert(result["items"], list[QueuedMessage])
        return Waiting(
            items=tuple(items),
            steering=tuple(result["steeringMessages"]),
            paused=result.get("paused", False),
            needs_provider=result.get("needsProvider", False),
        )

    return Call("session.queue.pendingItems", of_session(session_id), read)


def insert(session_id: str, position: int, prompt: str, options: SendOptions) -> Call[str]:
    known = only(options, params.SEND_OPTIONS, "A message")
    message = {"prompt": prompt, **wire_names(known)}
    return Call(
        "session.queue.insertAt",
        of_session(session_id, position=position, message=message),
        member("id", str),
    )


def move(session_id: str, message_id: str, position: int) -> Call[bool]:
    return Call(
        "session.queue.moveItem",
        of_session(session_id, id=message_id, to_position=position),
        member("changed", bool),
    )


def edit(session_id: str, message_id: str, prompt: str, display_prompt: str | None) -> Call[bool]:
    return Call(
        "session.queue.updateText",
        of_session(session_id, id=message_id, prompt=prompt, display_prompt=display_prompt),
        member("updated", bool),
    )


def remove(session_id: str, message_id: str) -> Call[bool]:
    return Call(
        "session.queue.removeAt", of_session(session_id, id=message_id), member("removed", bool)
    )


def remove_last(session_id: str) -> Call[bool]:
    return Call("session.queue.removeMostRecent", of_session(session_id), member("removed", bool))


def duplicate(session_id: str, message_id: str) -> Call[str]:
    return Call(
        "session.queue.duplicateAt", of_session(session_id, id=message_id), member("id", str)
    )


def send_now(session_id: str, message_id: str) -> Call[bool]:
    return Call(
        "session.queue.sendNow", of_session(session_id, id=message_id), member("steered", bool)
    )


def clear(session_id: str) -> Call[None]:
    return Call("session.queue.clear", of_session(session_id), nothing)


def pause(session_id: str, paused: bool) -> Call[None]:
    return Call("session.queue.setDrainPaused", of_session(session_id, paused=paused), nothing)


def process(session_id: str) -> Call[None]:
    return Call("session.queue.process", of_session(session_id), nothing)
