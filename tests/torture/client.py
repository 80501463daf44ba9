"""One client's random work: it talks, forks, rewinds, renames, deletes, and notes what it was told.
What it asks by an `ask_to_...` is noted for the ledger.

Everybody may use every shared session. Only who made a session rewinds, renames or deletes it, and
only while nobody else has heard of it, so that what has to be left of it is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.support.model_thread import ModelThread
from tests.support.wire import Event, Wire
from tests.torture.ledger import Ledger

SESSIONS = 12
"""So many at a time, so that each of them is used often."""
SCRIPTS = (
    "[[say:yes]]",
    "[[fake-n6-d10]]",
    "[[fake-n30-d15]]",
    "[[fake-slowstart80-n2]]",
    "[[fake-e400]]",
    "[[fake-n5-cut2]]",
    "[[fake-toollook]]",
)


class Client:
    """One connection's work, until its daemon is gone."""

    def __init__(self, wire: Wire, model: ModelThread, shared: list[str], seed: str) -> None:
        self.wire = wire
        self._model = model
        self._random = random.Random(seed)
        self._seed = seed
        self._shared = shared
        self._attached: set[str] = set()
        self._private: list[str] = []
        self._made = 0
        self._sends: list[tuple[str, str, int]] = []
        self._creates: list[tuple[str, int]] = []
        self._forks: list[tuple[str, str, list[str], int]] = []
        self._rewinds: list[tuple[str, str, int]] = []
        self._names: list[tuple[str, str, int]] = []
        self._deletes: list[tuple[str, int]] = []
        self.fault: BaseException | None = None

    @property
    def used(self) -> set[str]:
        """The sessions that it has asked something of."""
        asked = {session for session, _ in self._creates} | {each[1] for each in self._forks}
        return self._attached | asked | set(self._shared)

    def work(self) -> None:
        try:
            while not self.wire.ended:
                self.step()
        except OSError as error:
            # The kill came first, and shows at the writing end before it does at the reading one.
            try:
                self.wire.until_end()
            except AssertionError:
                self.fault = error
        except AssertionError as error:
            if not self.wire.ended:
                self.fault = error

    def step(self) -> None:
        """Something, whatever comes."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (12, self._send),
            (3, self._abort),
            (2, self._create),
            (2, self._fork),
            (2, self._rewind),
            (2, self._rename),
            (1, self._delete),
            (1, self._look),
        ]
        weights, acts = zip(*steps, strict=True)
        self._random.choices(acts, weights)[0]()

    def _pick(self) -> str | None:
        """A session that it is attached to."""
        known = [*self._shared, *self._private]
        if not known:
            return None
        session = self._random.choice(known)
        return session if self._attach(session) else None

    def _attach(self, session: str) -> bool:
        if session not in self._attached:
            params = {"sessionId": session, "provider": self._model.provider()}
            if "result" in self._answer("session.resume", params):
                self._attached.add(session)
        return session in self._attached

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return self.wire.answer(self.wire.ask(method, params))

    def _send(self) -> None:
        session = self._pick()
        if session is None:
            return
        asked = [
            self.ask_to_say(session, self._random.choice(SCRIPTS))
            for _ in range(self._random.choice((1, 1, 1, 3)))
        ]
        if self._random.random() < 0.8:
            self.wire.answer(asked[-1])

    def ask_to_say(self, session: str, script: str, **more: Any) -> int:
        """Send a message that is unlike all others; `more` are further params."""
        prompt = f"{self._seed}.{len(self._sends)} {script}"
        params = {"sessionId": session, "prompt": prompt, **more}
        asked = self.wire.ask("session.send", params)
        self._sends.append((session, prompt, asked))
        return asked

    def _abort(self) -> None:
        session = self._pick()
        if session is not None:
            self._answer("session.abort", {"sessionId": session})

    def _new_id(self) -> str | None:
        if len(self._shared) + len(self._private) >= SESSIONS:
            return None
        self._made += 1
        return f"{self._seed}.s{self._made}"

    def _share(self, session: str) -> None:
        (self._shared if self._random.random() < 0.5 else self._private).append(session)

    def _create(self) -> None:
        session = self._new_id()
        if session is None:
            return
        asked = self.ask_to_create(session, streaming=self._random.random() < 0.5)
        if "result" in self.wire.answer(asked):
            self._attached.add(session)
            self._share(session)

    def ask_to_create(self, session: str, *, streaming: bool) -> int:
        params = {
            "sessionId": session,
            "model": "fake",
            "streaming": streaming,
            "provider": self._model.provider(),
        }
        asked = self.wire.ask("session.create", params)
        self._creates.append((session, asked))
        return asked

    def _fork(self) -> None:
        source, child = self._pick(), self._new_id()
        if source is None or child is None:
            return
        if "result" in self.wire.answer(self.ask_to_fork(source, child)):
            self._share(child)

    def ask_to_fork(self, source: str, child: str) -> int:
        said = self._said(source)
        asked = self.wire.ask("sessions.fork", {"sessionId": source, "newSessionId": child})
        self._forks.append((source, child, said, asked))
        return asked

    def _said(self, session: str) -> list[str]:
        """What users have said in it that this client has seen, and that was not rewound."""
        gone = {prompt for rewound, prompt, _ in self._rewinds if rewound == session}
        events = self.wire.events(session, "user.message")
        said = [str(event["data"]["content"]) for event in events]
        cut = [place for place, prompt in enumerate(said) if prompt in gone]
        return [] if cut else said

    def _rewind(self) -> None:
        if not self._private:
            return
        session = self._random.choice(self._private)
        said = self.wire.events(session, "user.message")
        if not said or not self._attach(session):
            return
        self.wire.answer(self.ask_to_rewind(session, self._random.choice(said)))

    def ask_to_rewind(self, session: str, said: Event) -> int:
        """To before the message `said`."""
        params = {"sessionId": session, "eventId": said["id"], "mode": "conversation"}
        asked = self.wire.ask("session.history.rewind", params)
        self._rewinds.append((session, str(said["data"]["content"]), asked))
        return asked

    def _rename(self) -> None:
        if not self._private:
            return
        session = self._random.choice(self._private)
        if self._attach(session):
            name = f"name {self._random.randrange(10**6)}"
            params = {"sessionId": session, "name": name}
            self._names.append((session, name, self.wire.ask("session.name.set", params)))

    def _delete(self) -> None:
        if self._private:
            self.ask_to_delete(self._private.pop())

    def ask_to_delete(self, session: str) -> int:
        asked = self.wire.ask("session.delete", {"sessionId": session})
        self._deletes.append((session, asked))
        return asked

    def _look(self) -> None:
        self._answer("session.list", {})

    def enter_into(self, ledger: Ledger) -> None:
        """Write down what this client was told; its daemon is gone."""
        answers = {f["id"]: f["result"] for f in self.wire.frames if "result" in f and "id" in f}
        self._enter_sessions(ledger, answers)
        accepted: dict[str, list[str]] = {}
        rewound = {session: asked for session, _, asked in self._rewinds}
        for session, prompt, asked in self._sends:
            ledger.sent[session].add(prompt)
            if asked in answers and asked > rewound.get(session, 0):
                accepted.setdefault(session, []).append(prompt)
        for session, prompts in accepted.items():
            ledger.accepted[session].append(prompts)
        seen: dict[str, list[str]] = {}
        for note in self.wire.notes("session.event"):
            if not note["event"].get("ephemeral"):
                seen.setdefault(note["sessionId"], []).append(note["event"]["id"])
        for session, ids in seen.items():
            ledger.seen[session].append(ids)

    def _enter_sessions(self, ledger: Ledger, answers: dict[int, Any]) -> None:
        ledger.rewound |= {session for session, _, _ in self._rewinds}
        ledger.created |= {session for session, asked in self._creates if asked in answers}
        ledger.delete_asked |= {session for session, _ in self._deletes}
        ledger.deleted |= {session for session, asked in self._deletes if asked in answers}
        for source, child, said, asked in self._forks:
            ledger.forks[child] = source
            if asked in answers:
                ledger.created.add(child)
                if child not in ledger.rewound:
                    ledger.accepted[child].append(said)
        for session, prompt, asked in self._rewinds:
            if answers.get(asked, {}).get("outcome") == "success":
                ledger.left_out[session].add(prompt)
        for session, name, asked in self._names:
            names = ledger.names.setdefault(session, {None})
            if asked in answers:
                names.clear()
            names.add(name)
