"""Waiting until the disk has what was written."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(fd: int) -> None:
    """Wait until the disk has what was written to the file. Raises `OSError`."""
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's list of files. Raises `OSError`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
