"""The messages of a session that wait for their turn, for the blocking client."""

from __future__ import annotations

from typing import Unpack

from tertulia import queue_calls
from tertulia.library import Doer
from tertulia.records import SendOptions, Waiting


class MessageQueue:
    """A session's queue, as `Session.queue`. A message is named by the id that `send` gave; where
    it does not wait any more, the answer is False. One that is taken out gets no turn: who waits
    for its answer gets `MessageRemoved` once the session is idle."""

    def __init__(self, doer: Doer, session_id: str) -> None:
        self._doer = doer
        self._id = session_id

    def list(self) -> Waiting:
        """What waits, in the order of the turns."""
        return self._doer.do(queue_calls.waiting(self._id))

    def insert(self, position: int, prompt: str, **options: Unpack[SendOptions]) -> str:
        """Put a new message at a place, the first being 0; its id."""
        return self._doer.do(queue_calls.insert(self._id, position, prompt, options))

    def move(self, message_id: str, position: int) -> bool:
        """Put a message at another place; whether that changed anything."""
        return self._doer.do(queue_calls.move(self._id, message_id, position))

    def edit(self, message_id: str, prompt: str, display_prompt: str | None = None) -> bool:
        """Give a message other words."""
        return self._doer.do(queue_calls.edit(self._id, message_id, prompt, display_prompt))

    def duplicate(self, message_id: str) -> str:
        """Put a copy behind a message; the copy's id. Raises `InvalidParams` where it does not
        wait."""
        return self._doer.do(queue_calls.duplicate(self._id, message_id))

    def remove(self, message_id: str) -> bool:
        """Take a message out."""
        return self._doer.do(queue_calls.remove(self._id, message_id))

    def remove_last(self) -> bool:
        """Take the last message back."""
        return self._doer.do(queue_calls.remove_last(self._id))

    def send_now(self, message_id: str) -> bool:
        """Put a message before all others; False where no turn runs."""
        return self._doer.do(queue_calls.send_now(self._id, message_id))

    def clear(self) -> None:
        """Take all of them out. A turn that runs goes on."""
        self._doer.do(queue_calls.clear(self._id))

    def pause(self) -> None:
        """Take up no message, new ones included, until `resume`; also after a restart."""
        self._doer.do(queue_calls.pause(self._id, True))

    def resume(self) -> None:
        """Take up the next message."""
        self._doer.do(queue_calls.pause(self._id, False))

    def process(self) -> None:
        """Take up the first message that was left waiting, as after `suspend`. Where a turn runs
        there is nothing to do, and a paused queue stays so."""
        self._doer.do(queue_calls.process(self._id))
