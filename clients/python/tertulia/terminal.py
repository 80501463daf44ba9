"""How the command meets people: colours, progress, and text that cannot play with the terminal.

Colours and control sequences go to a terminal only, never to a pipe or a file. A model's text is
foreign: its control characters are taken out before a terminal sees it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from tertulia.errors import MessageRemoved, RpcError, SessionDeleted, TertuliaError, TurnAborted

PROGRESS_S = 0.25  # between two steps of the progress line

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` without control characters, for a terminal."""
    return text.translate(_CONTROLS)


def takes_controls(stream: TextIO) -> bool:
    """Whether `stream` is a terminal on which a line can be taken back."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def colours_wanted(stream: TextIO, no_color: bool) -> bool:
    """Whether `stream` is a terminal that takes colours and nobody refused them."""
    return takes_controls(stream) and not (no_color or os.environ.get("NO_COLOR"))


class Style:
    """Paints, or does not."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __call__(self, text: str, *names: str) -> str:
        if not self.enabled or not text:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


class Voice:
    """Writes a model's text as it comes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._plain = not out.isatty()
        self._ends_line = True

    def say(self, text: str) -> None:
        shown = text if self._plain else printable(text)
        if shown:
            self._out.write(shown)
            self._out.flush()
            self._ends_line = shown.endswith("\n")

    def end_line(self) -> None:
        """Begin what follows on a new line."""
        if not self._ends_line:
            self.say("\n")


class Progress:
    """A line on stderr that counts seconds, where stderr is a terminal that can take it back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if takes_controls(sys.stderr):
            self._thread = threading.Thread(target=self._count, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line away. Idempotent."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        """Write a line; the counting goes on below it."""
        back = "" if self._thread is None else "\r\x1b[K"
        sys.stderr.write(f"{back}{text}\n")
        sys.stderr.flush()

    def _count(self) -> None:
        began = time.monotonic()
        while not self._over.wait(PROGRESS_S):
            sys.stderr.write(f"\r\x1b[K{self._what} {time.monotonic() - began:.0f} s")
            sys.stderr.flush()


class Stopped(TurnAborted):
    """What was waited for was given up by Ctrl-C in this terminal."""


class Stopper:
    """What the first Ctrl-C gives up, once it is known."""

    def __init__(self) -> None:
        self.asked = False
        self._stop: Callable[[], object] | None = None

    def knows(self, stop: Callable[[], object]) -> None:
        """`stop` gives it up; where that was asked for already, now."""
        self._stop = stop
        if self.asked:
            self._run(stop)

    def ask(self) -> None:
        self.asked = True
        if self._stop is not None:
            self._run(self._stop)

    def _run(self, stop: Callable[[], object]) -> None:
        """From a thread, since the main one may hold the connection's lock."""

        def run() -> None:
            with contextlib.suppress(TertuliaError, RpcError):  # the wait itself reports the end
                stop()

        threading.Thread(target=run, name="stop", daemon=True).start()


@contextlib.contextmanager
def stopping() -> Iterator[Stopper]:
    """While it is open, the first Ctrl-C gives up what the `Stopper` knows, and a second one is
    raised. What ends a turn comes out as `Stopped` where it was this Ctrl-C.

    The handler raises nothing the first time: an exception in the middle of a wait could lose the
    event that ends it.
    """
    stopper = Stopper()

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopper.ask()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stopper
    except SessionDeleted:
        raise
    except TurnAborted as error:
        raise Stopped(error.text) if stopper.asked else error from None
    except MessageRemoved as error:
        raise Stopped("") if stopper.asked else error from None
    finally:
        signal.signal(signal.SIGINT, before)
