"""What the kernel tells of processes and folders (Linux: /proc)."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Processes:
    """A process with all that descend from it, as they are when asked."""

    def __init__(self, root: int) -> None:
        self._root = root

    def _ids(self) -> list[int]:
        found = [self._root]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def resident_mb(self) -> float:
        """Resident memory, in MB of 10^6 bytes."""
        total = 0
        for pid in self._ids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Rss:"):
                        total += int(line.split()[1])
        return total * 1024 / 1e6

    def cpu_s(self) -> float:
        """Seconds of processor time so far."""
        ticks = 0
        for pid in self._ids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS

    def kill(self) -> None:
        for pid in reversed(self._ids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def folder_mb(folder: Path) -> float:
    """What the files in `folder` occupy, in MB of 10^6 bytes."""
    return sum(p.stat().st_blocks for p in folder.rglob("*") if p.is_file()) * 512 / 1e6


def allow_open_files() -> None:
    """As many as this user may have open at once: a thousand streams need more than the default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
