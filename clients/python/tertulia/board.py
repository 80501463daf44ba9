"""Where the demo's conversations are shown while they stream: in columns, or line by line.

Any thread may `say`; one thread draws. On a terminal the same lines are drawn over and over;
elsewhere each finished line is printed once, with its conversation's name before it.
"""

from __future__ import annotations

import queue
import shutil
import sys
from collections.abc import Sequence
from typing import Protocol

from tertulia.columns import Column, frame, wrap
from tertulia.terminal import printable, takes_controls

LINE_CELLS = 92
MAX_HEIGHT = 22
MIN_COLUMN_CELLS = 22

Saying = tuple[int, str, bool]
"""Which conversation, what it says, and whether that was all."""


class Board(Protocol):
    """A place to show conversations."""

    def show(self, sayings: Sequence[Saying]) -> None:
        """Show what was said since the last time."""


class Columns:
    """Side by side, redrawn in place."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._height = 0

    def show(self, sayings: Sequence[Saying]) -> None:
        for index, text, done in sayings:
            self._columns[index].text += printable(text)
            self._columns[index].done = done
        size = shutil.get_terminal_size()
        lines = frame(self._columns, size.columns - 1, min(MAX_HEIGHT, size.lines - 2))
        up = f"\x1b[{self._height}F" if self._height else ""
        sys.stdout.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()
        self._height = len(lines)


class Lines:
    """One after the other, a line when it is full."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._pending = ["" for _ in columns]
        for column in columns:
            print(f"[{column.title}] {column.subtitle}", flush=True)

    def show(self, sayings: Sequence[Saying]) -> None:
        for index, text, done in sayings:
            *full, rest = wrap(self._pending[index] + text, LINE_CELLS)
            self._pending[index] = rest
            if done:
                full.append(rest)
            for line in full:
                if line.strip():
                    print(f"[{self._columns[index].title}] {line.rstrip()}", flush=True)


def board_for(columns: Sequence[Column]) -> Board:
    """Columns on a terminal that is wide enough, lines anywhere else."""
    wide = shutil.get_terminal_size().columns >= MIN_COLUMN_CELLS * len(columns)
    return Columns(columns) if takes_controls(sys.stdout) and wide else Lines(columns)


def show_until_done(board: Board, said: queue.SimpleQueue[Saying], speakers: int) -> None:
    """Draw what comes until each speaker has said all. What came together is drawn together."""
    while speakers:
        sayings = [said.get()]
        while not said.empty():
            sayings.append(said.get())
        board.show(sayings)
        speakers -= sum(1 for _, _, done in sayings if done)
