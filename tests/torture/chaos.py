"""A daemon that is killed again and again while several clients use it, and the check of its log.

It is killed from outside after a random time, or kills itself at a named step (`dying_daemon`):
one that comes by chance, or with `kill_at` for certain.
Everything random comes from the seed; the moments at which the kernel delivers a kill do not.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from tests.support.daemon_process import DaemonProcess, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.support.wire import Wire
from tests.torture import dying_daemon
from tests.torture.client import SESSIONS, Client
from tests.torture.ledger import Ledger
from tests.torture.walk import Walk

CLIENTS = 4
MARK = "[[say:still here]]"
DYING = (sys.executable, dying_daemon.__file__)
OTHERS = 5
"""So many sessions that a round was not about are looked at besides."""
PATIENCE_S = 3.0
"""For so long a step may take to come; then the kill comes from outside."""


class Chaos:
    """One run on one data folder."""

    def __init__(self, home: Path, model: ModelThread, seed: int) -> None:
        self._home = home
        self._model = model
        self._seed = seed
        self._random = random.Random(seed)
        self.ledger = Ledger()
        self.kills = self._marks = 0
        self.died_at: Counter[str] = Counter()

    def run(self, kills: int, seconds: float = 0.0) -> None:
        """Kill and check, so often at least, until the time is over; every other kill is at a step,
        in a random order, if that comes."""
        end = time.monotonic() + seconds
        left: list[str] = []
        for number in itertools.count():
            if number >= kills and time.monotonic() >= end:
                break
            if not left:
                left = self._random.sample(dying_daemon.STEPS, len(dying_daemon.STEPS))
            self.kill_once(left.pop() if number % 2 else None)
        self.check(self.ledger.alive)

    def kill_at(self, step: str) -> None:
        """Use a daemon so that it dies at `step`, see that it does, and check what is left."""
        with self._daemon(f"{step}:1") as daemon:
            walk = Walk(daemon.connect(), self._model, step)
            walk.work()
            assert walk.fault is None, f"no death at {step}: {walk.fault}; {daemon.stderr[-2000:]}"
            self._died(daemon, step)
        self.kills += 1
        walk.enter_into(self.ledger)
        self.check(walk.used & self.ledger.alive)

    def kill_once(self, step: str | None) -> None:
        """Use a daemon until it dies at `step`, or at some time, and check what is left."""
        used = self._use_and_kill(step)
        others = sorted(self.ledger.alive - used)
        sample = self._random.sample(others, min(OTHERS, len(others)))
        self.check((used & self.ledger.alive) | set(sample))

    def _daemon(
        self, dies_at: str | None = None
    ) -> contextlib.AbstractContextManager[DaemonProcess]:
        options = ("--allow-anonymous", "--turn-retries", "0")
        env = {dying_daemon.VARIABLE: dies_at or ""}
        return tcp_daemon(self._home, *options, env=env, token=None, program=DYING)

    def _use_and_kill(self, step: str | None) -> set[str]:
        """The sessions that it was about."""
        shared = sorted(self.ledger.alive)[-SESSIONS // 2 :]
        dies_at = None if step is None else f"{step}:{self._random.choice((1, 2, 4))}"
        with self._daemon(dies_at) as daemon:
            clients = [
                Client(daemon.connect(), self._model, shared, f"{self._seed}.{self.kills}.{number}")
                for number in range(CLIENTS)
            ]
            threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
            for thread in threads:
                thread.start()
            if step is None:
                threads[0].join(self._random.uniform(0.02, 1.0))  # the moment of the kill
                assert daemon.process.poll() is None, daemon.stderr[-2000:]
            else:
                threads[0].join(PATIENCE_S)
                if not threads[0].is_alive():
                    self._died(daemon, step)
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
        return {session for client in clients for session in client.used}

    def _died(self, daemon: DaemonProcess, step: str) -> None:
        """By its own hand, that is: at the step."""
        assert daemon.wait() == -signal.SIGKILL, daemon.stderr[-2000:]
        self.died_at[step] += 1

    def check(self, sessions: Collection[str]) -> None:
        """The list, and that each of `sessions` has all that it has to, and goes on."""
        with self._daemon() as daemon:
            wire = daemon.connect()
            self.ledger.check_list(wire.call("session.list")["sessions"])
            for session in sorted(sessions):
                self._check_session(wire, session)
            assert daemon.terminate() == 0
            assert "Traceback" not in daemon.stderr, daemon.stderr[-4000:]

    def _check_session(self, wire: Wire, session: str) -> None:
        """The session goes on: what waited is done, one more message is answered, and then the log
        holds all that it has to."""
        self._marks += 1
        prompt = f"mark {self._marks} {MARK}"
        self.ledger.sent[session].add(prompt)
        wire.call("session.resume", sessionId=session, provider=self._model.provider())
        wire.call("session.send", sessionId=session, prompt=prompt, wait=True)
        self.ledger.accepted[session].append([prompt])
        log = wire.history(session)
        self.ledger.check_log(session, log)
        assert log[-2]["type"] == "assistant.message", log[-2:]
        assert log[-2]["data"]["content"] == "still here"
