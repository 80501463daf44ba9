"""`tertulia demo`: three conversations at once in one daemon, then the life of a session.

It ends with success only where everything it tells of has happened: each step checks what it did
and raises `DemoFailed` otherwise. One model answers all of it, the embedded one unless another is
named; its quality is demo grade, and the demo says so. Its sessions live in a folder that goes with
it: of the home it takes the configuration and nothing else.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import threading
import time
from typing import Any

import msgspec

from tertulia import launch
from tertulia.board import Saying, board_for, show_until_done
from tertulia.client import Client
from tertulia.columns import Column
from tertulia.commands.common import warn_of_no_config
from tertulia.errors import RpcError, SessionNotFound, TertuliaError
from tertulia.records import Model
from tertulia.session import Session
from tertulia.terminal import Progress, Style, colours_wanted
from tertulia_protocol import layout

EMBEDDED_PROVIDER = "local"
MAX_OUTPUT_TOKENS = 120
TURN_TIMEOUT_S = 50.0
SYSTEM = "You are a helpful assistant. Answer in a few short sentences."
CHAT_ID = "user-123-chat"


class DemoFailed(TertuliaError):
    """A step of the demo did not happen as told."""


class Topic(msgspec.Struct, frozen=True):
    """A conversation of the demo."""

    name: str
    context: str
    question: str


TOPICS = (
    Topic("python", "I am working on a Python project.", "How do I create a virtual environment?"),
    Topic("typescript", "I am working on a TypeScript project.", "How do I set up tsconfig?"),
    Topic("go", "I am working on a Go project.", "How do I initialize a module?"),
)


class Talk(threading.Thread):
    """One conversation, in a thread of its own: the context, and with the others the question."""

    def __init__(
        self,
        number: int,
        session: Session,
        said: queue.SimpleQueue[Saying],
        together: threading.Barrier,
    ) -> None:
        topic = TOPICS[number]
        super().__init__(name=f"demo {topic.name}", daemon=True)
        self.topic = topic
        self.session = session
        self.answer = ""
        self.deltas = 0
        self.began = self.ended = 0.0
        self.error: Exception | None = None
        self._number = number
        self._said = said
        self._together = together

    def run(self) -> None:
        try:
            self._converse()
        except (TertuliaError, RpcError) as error:
            self.error = error
            self._together.abort()
        except threading.BrokenBarrierError:
            pass  # another one's failure is the one that is told
        finally:
            self._said.put((self._number, "", True))

    def _converse(self) -> None:
        self._said.put((self._number, f"({self.topic.context})\n", False))
        context = f"{self.topic.context} Please just say OK."
        self.session.send_and_wait(context, TURN_TIMEOUT_S)
        self._together.wait(TURN_TIMEOUT_S)
        self.began = time.monotonic()
        for event in self.session.stream(self.topic.question, timeout=TURN_TIMEOUT_S):
            if event.type == "assistant.message_delta":
                self.deltas += 1
                self._said.put((self._number, str(event.data["deltaContent"]), False))
            elif event.type == "assistant.message":
                self.answer = str(event.data["content"])
        self.ended = time.monotonic()


def demo(options: argparse.Namespace) -> int:
    """Play it; 0 where all of it happened. Raises `TertuliaError` otherwise."""
    style = Style(colours_wanted(sys.stdout, options.no_color))
    began = time.monotonic()
    warn_of_no_config(options.home)
    with tempfile.TemporaryDirectory(prefix="tertulia-demo-") as folder:
        with Client.spawn(folder, _configured(options.home)) as client:
            _play(client, options.model, style)
        print("The client has stopped, and its daemon with it.")
    print(style(f"Everything above happened, in {time.monotonic() - began:.1f} s.", "bold"))
    return 0


def _configured(home: str | None) -> list[str]:
    """The option that has the daemon read the home's configuration, where there is one."""
    config = launch.home_folder(home) / layout.CONFIG_FILE
    return ["--config", str(config)] if config.exists() else []


def _play(client: Client, named: str | None, style: Style) -> None:
    print(style("One daemon, three conversations at once.", "bold"))
    model = _model(client, named)
    given: dict[str, Any] = {
        "model": model,
        "system_message": {"mode": "replace", "content": SYSTEM},
        "model_capabilities": {"limits": {"max_output_tokens": MAX_OUTPUT_TOKENS}},
    }
    sessions = [client.create_session(f"demo-{topic.name}", **given) for topic in TOPICS]
    _talk_at_once(sessions)
    sessions.append(_chat(client, given))
    _list(client, {session.id for session in sessions})
    _delete(client, sessions.pop(0), {session.id for session in sessions})
    for session in sessions:
        session.close()
    print(f"{len(sessions)} sessions closed; their history goes with the demo's temporary home.")


def _model(client: Client, named: str | None) -> str:
    """The id of the model that answers. Raises where it cannot run, with what to do."""
    if named is not None:
        print(f"All sessions use the model {named}.")
        return named
    model = _embedded(client.models())
    if not model.available:
        raise DemoFailed(f"The embedded model cannot run here. {model.reason or ''}")
    print(f"All sessions use one model, {model.name}: it is small,")
    print(
        f"may well be wrong, and is cut after {MAX_OUTPUT_TOKENS} tokens; --model names another.\n"
    )
    return model.id


def _embedded(models: list[Model]) -> Model:
    for model in models:
        if model.provider == EMBEDDED_PROVIDER:
            return model
    raise DemoFailed("The daemon knows of no embedded model: name another with --model.")


def _talk_at_once(sessions: list[Session]) -> None:
    said: queue.SimpleQueue[Saying] = queue.SimpleQueue()
    together = threading.Barrier(len(sessions))
    talks = [Talk(n, session, said, together) for n, session in enumerate(sessions)]
    began = time.monotonic()
    for talk in talks:
        talk.start()
    columns = [Column(talk.topic.name, talk.topic.question) for talk in talks]
    show_until_done(board_for(columns), said, len(talks))
    for talk in talks:
        talk.join()
    took = time.monotonic() - began
    for talk in sorted(talks, key=lambda talk: talk.error is None):
        _check_talk(talk)
    overlap = min(talk.ended for talk in talks) - max(talk.began for talk in talks)
    if overlap <= 0:
        raise DemoFailed("The three turns did not run at the same time.")
    at_once = f"for {overlap:.1f} s all three were on their way at once."
    print(f"\nThree answers in {took:.1f} s; {at_once}")


def _check_talk(talk: Talk) -> None:
    """The answer is there, it streamed, and the session holds its own history and no other."""
    if talk.error is not None:
        raise DemoFailed(f"The {talk.topic.name} conversation failed: {talk.error}")
    if not talk.answer.strip() or not talk.deltas:
        raise DemoFailed(f"The {talk.topic.name} conversation got no streamed answer.")
    history = talk.session.messages()
    prompts = [str(each.data["content"]) for each in history if each.type == "user.message"]
    answers = [each for each in history if each.type == "assistant.message"]
    if len(prompts) != 2 or len(answers) != 2 or prompts[1] != talk.topic.question:
        raise DemoFailed(f"The history of {talk.session.id} is not its own: {prompts}")


def _chat(client: Client, given: dict[str, Any]) -> Session:
    session = client.create_session(CHAT_ID, **given)
    question = "Say hello in one short sentence."
    with Progress(f"{CHAT_ID} is asked"):
        answer = session.send_and_wait(question, TURN_TIMEOUT_S)
    if not answer.text.strip():
        raise DemoFailed(f"The session {CHAT_ID} got no answer.")
    print(f"The session {CHAT_ID} was created and asked: {question}")
    print("  " + " ".join(answer.text.split()))
    return session


def _list(client: Client, expected: set[str]) -> None:
    listed = {info.session_id for info in client.sessions()}
    if not expected <= listed:
        raise DemoFailed(f"The list lacks {', '.join(sorted(expected - listed))}.")
    print("The list: " + ", ".join(sorted(listed)))


def _delete(client: Client, session: Session, remaining: set[str]) -> None:
    client.delete_session(session.id)
    print(f"{session.id} was deleted.")
    listed = {info.session_id for info in client.sessions()}
    if session.id in listed:
        raise DemoFailed(f"{session.id} is still listed after its deletion.")
    _list(client, remaining)
    try:
        client.resume_session(session.id)
    except SessionNotFound:
        return
    raise DemoFailed(f"{session.id} could be resumed after its deletion.")
