"""Several daemons on one home, each with its clients, killed, stopped, and taken for stopped at any
time: there is one log of each session, and nothing that anybody was told is lost.

Everything random comes from the seed, but for the moments at which signals arrive.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

from tertuliad import limits
from tertuliad.store.owners import SUFFIX
from tests.support.daemon_process import DaemonProcess, tcp_daemon
from tests.support.model_thread import ModelThread
from tests.torture.chaos import DYING, Chaos
from tests.torture.client import SESSIONS, Client

DAEMONS = 3
CLIENTS = 2
"""Of each daemon."""


class House:
    """One daemon and the threads of its clients. Ends with `gone`."""

    def __init__(self, home: Path, model: ModelThread, shared: list[str], seed: str) -> None:
        self._stack = contextlib.ExitStack()
        options = ("--allow-anonymous", "--turn-retries", "0")
        started = tcp_daemon(home, *options, token=None, program=DYING)
        self.daemon: DaemonProcess = self._stack.enter_context(started)
        self.clients = [
            Client(self.daemon.connect(), model, shared, f"{seed}.{number}")
            for number in range(CLIENTS)
        ]
        self._threads = [threading.Thread(target=c.work, daemon=True) for c in self.clients]
        for thread in self._threads:
            thread.start()

    def gone(self) -> list[Client]:
        """Kill it; its clients have nothing more to say."""
        self.daemon.kill()
        for client, thread in zip(self.clients, self._threads, strict=True):
            client.wire.until_end()
            thread.join(30)
            assert not thread.is_alive()
            if client.fault is not None:
                raise client.fault
        assert "Traceback" not in self.daemon.stderr, self.daemon.stderr[-4000:]
        self._stack.close()
        return self.clients


class Neighbours:
    """One run on one data folder."""

    def __init__(self, home: Path, model: ModelThread, seed: int) -> None:
        self._home = home
        self._model = model
        self._random = random.Random(seed)
        self._made = 0
        self.chaos = Chaos(home, model, seed)
        self.kills = self.stops = 0
        self._used: set[str] = set()

    def run(self, seconds: float, least: int = 1) -> None:
        """Disturb the daemons until the time is over, with so many kills and so many stops at
        least, then check everything."""
        end = time.monotonic() + seconds
        houses = [self._open() for _ in range(DAEMONS)]
        try:
            while min(self.kills, self.stops) < least or time.monotonic() < end:
                place = self._random.randrange(DAEMONS)
                if self._random.random() < 0.6:
                    self._enter(houses[place].gone())
                    houses[place] = self._open()
                    self.kills += 1
                else:
                    self._stop_a_while(houses[place].daemon)
                    self.stops += 1
        finally:
            for house in houses:
                self._enter(house.gone())
        ledger = self.chaos.ledger
        self.chaos.check(ledger.alive)

    def _open(self) -> House:
        self._made += 1
        shared = sorted(self.chaos.ledger.alive)[-SESSIONS // 2 :]
        house = House(self._home, self._model, shared, f"d{self._made}")
        house.clients[0].wire.answer(house.clients[0].wire.ask("ping"))
        return house

    def _enter(self, clients: list[Client]) -> None:
        for client in clients:
            client.enter_into(self.chaos.ledger)

    def _stop_a_while(self, daemon: DaemonProcess) -> None:
        """SIGSTOP; nobody has heard of anybody for longer than a lease; SIGCONT."""
        os.kill(daemon.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.pid, os.WSTOPPED)
        long_ago = time.time() - 10 * limits.LEASE_S
        for mark in (self._home / "run").glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(mark, (long_ago, long_ago))
        threading.Event().wait(self._random.uniform(0.05, 0.5))
        os.kill(daemon.pid, signal.SIGCONT)
