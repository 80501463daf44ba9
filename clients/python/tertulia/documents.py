"""Exported sessions in files. A file is whole or not there, and its owner's alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import msgspec

from tertulia.errors import TertuliaError
from tertulia.params import Path
from tertulia_protocol.decoding import json_decoder


def write(path: Path, document: dict[str, Any], *, overwrite: bool) -> None:
    """Raises FileExistsError where `path` is there and may not be overwritten, and OSError."""
    data = encoded(document)
    if overwrite and os.path.isfile(path):
        _replace(path, data)
    elif overwrite and os.path.exists(path):  # a device or a pipe
        with open(path, "wb") as file:
            file.write(data)
    else:
        _make(path, data)


def encoded(document: dict[str, Any]) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(document) + b"\n"


def _make(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _fill(descriptor, data)
    except BaseException:
        os.unlink(path)
        raise


def _replace(path: Path, data: bytes) -> None:
    whole = os.path.realpath(path)
    descriptor, beside = tempfile.mkstemp(prefix=".tertulia-", dir=os.path.dirname(whole))
    try:
        _fill(descriptor, data)
        os.replace(beside, whole)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def _fill(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, Any]:
    """The document in a file. Raises OSError, and `TertuliaError` where it holds none."""
    with open(path, "rb") as file:
        return decoded(file.read(), os.fspath(path))


def decoded(data: bytes, place: str) -> dict[str, Any]:
    """The document in `data`, which comes from `place`. The daemon checks what is in it."""
    try:
        return json_decoder(dict[str, Any]).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TertuliaError(f"There is no exported session in {place}: {error}") from None
