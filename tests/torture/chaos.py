"""A daemon that is killed again and again while several clients use it, and the check of its log.

Everything random comes from the seed; the moments at which the kernel delivers a kill do not.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon_process import DaemonProcess, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire, WireError
from tests.torture.ledger import Ledger

CLIENTS = 4
SESSIONS = 12
"""So many at a time, so that each of them is used often."""
SCRIPTS = (
    "[[say:yes]]",
    "[[fake-n6-d10]]",
    "[[fake-n30-d15]]",
    "[[fake-slowstart80-n2]]",
    "[[fake-e400]]",
    "[[fake-n5-cut2]]",
)
MARK = "[[say:still here]]"


class Client:
    """One connection's random work until the daemon is gone. Everybody may use every session, but
    only who made one deletes it, when nobody else has heard of it."""

    def __init__(self, wire: Wire, model: ModelThread, shared: list[str], seed: str) -> None:
        self.wire = wire
        self._model = model
        self._random = random.Random(seed)
        self._seed = seed
        self._shared = shared
        self._attached: set[str] = set()
        self._private: list[str] = []
        self._sends: list[tuple[str, str, int]] = []
        self._creates: list[tuple[str, int]] = []
        self._deletes: list[tuple[str, int]] = []
        self.fault: BaseException | None = None

    def work(self) -> None:
        try:
            while not self.wire.ended:
                self._step()
        except OSError as error:
            # The kill came first, and shows at the writing end before it does at the reading one.
            try:
                self.wire.until_end()
            except AssertionError:
                self.fault = error
        except AssertionError as error:
            if not self.wire.ended:
                self.fault = error

    def _step(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (10, self._send),
            (3, self._abort),
            (2, self._create),
            (1, self._delete),
            (1, self._look),
        ]
        weights, acts = zip(*steps, strict=True)
        self._random.choices(acts, weights)[0]()

    def _pick(self) -> str | None:
        known = [*self._shared, *self._private]
        if not known:
            return None
        session = self._random.choice(known)
        if session not in self._attached:
            self._attached.add(session)
            with contextlib.suppress(WireError):
                self.wire.call("session.resume", sessionId=session, provider=self._model.provider())
        return session

    def _send(self) -> None:
        session = self._pick()
        if session is None:
            return
        asked = []
        for _ in range(self._random.choice((1, 1, 1, 3))):
            number = len(self._sends)
            prompt = f"{self._seed}.{number} {self._random.choice(SCRIPTS)}"
            params = {"sessionId": session, "prompt": prompt}
            self._sends.append((session, prompt, self.wire.ask("session.send", params)))
            asked.append(self._sends[-1][2])
        if self._random.random() < 0.8:
            self.wire.answer(asked[-1])

    def _abort(self) -> None:
        session = self._pick()
        if session is not None:
            self.wire.answer(self.wire.ask("session.abort", {"sessionId": session}))

    def _create(self) -> None:
        if len(self._shared) + len(self._private) >= SESSIONS:
            return
        session = f"{self._seed}.s{len(self._creates)}"
        params = {
            "sessionId": session,
            "model": "fake",
            "streaming": self._random.random() < 0.5,
            "provider": self._model.provider(),
        }
        asked = self.wire.ask("session.create", params)
        self._creates.append((session, asked))
        if "result" in self.wire.answer(asked):
            self._attached.add(session)
            (self._shared if self._random.random() < 0.7 else self._private).append(session)

    def _delete(self) -> None:
        if self._private:
            session = self._private.pop()
            self._deletes.append((session, self.wire.ask("session.delete", {"sessionId": session})))

    def _look(self) -> None:
        self.wire.answer(self.wire.ask("session.list", {}))

    def enter_into(self, ledger: Ledger) -> None:
        """Write down what this client was told; its daemon is gone."""
        done = {
            frame["id"] for frame in self.wire.frames if "method" not in frame and "result" in frame
        }
        ledger.created |= {session for session, asked in self._creates if asked in done}
        ledger.delete_asked |= {session for session, _ in self._deletes}
        ledger.deleted |= {session for session, asked in self._deletes if asked in done}
        accepted: dict[str, list[str]] = {}
        for session, prompt, asked in self._sends:
            ledger.sent[session].add(prompt)
            if asked in done:
                accepted.setdefault(session, []).append(prompt)
        for session, prompts in accepted.items():
            ledger.accepted[session].append(prompts)
        seen: dict[str, list[str]] = {}
        for note in self.wire.notes("session.event"):
            if not note["event"].get("ephemeral"):
                seen.setdefault(note["sessionId"], []).append(note["event"]["id"])
        for session, ids in seen.items():
            ledger.seen[session].append(ids)


class Chaos:
    """One run on one data folder."""

    def __init__(self, home: Path, model: ModelThread, seed: int) -> None:
        self._home = home
        self._model = model
        self._seed = seed
        self._random = random.Random(seed)
        self.ledger = Ledger()
        self.kills = 0

    def run(self, seconds: float) -> None:
        """Kill and check until the time is over, three times at least."""
        end = time.monotonic() + seconds
        while self.kills < 3 or time.monotonic() < end:
            self._use_and_kill()
            self._check()

    def _daemon(self) -> contextlib.AbstractContextManager[DaemonProcess]:
        return tcp_daemon(self._home, "--allow-anonymous", "--turn-retries", "0", token=None)

    def _use_and_kill(self) -> None:
        shared = sorted(self.ledger.alive)[-SESSIONS // 2 :]
        with self._daemon() as daemon:
            clients = [
                Client(daemon.connect(), self._model, shared, f"{self._seed}.{self.kills}.{number}")
                for number in range(CLIENTS)
            ]
            threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
            for thread in threads:
                thread.start()
            threads[0].join(self._random.uniform(0.02, 1.0))  # the moment of the kill
            assert daemon.process.poll() is None, daemon.stderr[-2000:]
            daemon.kill()
            for client in clients:
                client.wire.until_end()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
        self.kills += 1
        for client in clients:
            if client.fault is not None:
                raise client.fault
            client.enter_into(self.ledger)

    def _check(self) -> None:
        with self._daemon() as daemon:
            wire = daemon.connect()
            listed = [row["sessionId"] for row in wire.call("session.list")["sessions"]]
            self.ledger.check_list(listed)
            for session in sorted(self.ledger.alive):
                self._check_session(wire, session)
            assert daemon.terminate() == 0
            assert "Traceback" not in daemon.stderr, daemon.stderr[-4000:]

    def _check_session(self, wire: Wire, session: str) -> None:
        """The session goes on: what waited is done, one more message is answered, and then the log
        holds all that it has to."""
        prompt = f"mark {self.kills} {MARK}"
        self.ledger.sent[session].add(prompt)
        wire.call("session.resume", sessionId=session, provider=self._model.provider())
        wire.call("session.send", sessionId=session, prompt=prompt, wait=True)
        self.ledger.accepted[session].append([prompt])
        log = wire.history(session)
        self.ledger.check_log(session, log)
        assert log[-2]["type"] == "assistant.message", log[-2:]
        assert log[-2]["data"]["content"] == "still here"
