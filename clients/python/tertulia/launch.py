"""Where a daemon is, or how to start one: home folder, addresses, tokens, the command.

Reads the environment and the file system, starts nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tertulia.errors import DaemonFailed, TertuliaError
from tertulia_protocol import layout


class UnixAddress(msgspec.Struct, frozen=True):
    """A unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Address = UnixAddress | TcpAddress


def home_folder(home: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: as given, TERTULIA_HOME, the SDKs' COPILOT_HOME, or the platform's.

    Raises `TertuliaError` where it is under a user's home that nobody knows.
    """
    given = None if home is None else os.fspath(home)
    user = os.path.expanduser("~")
    folder = os.path.expanduser(layout.data_folder(given, os.environ, sys.platform, user))
    if folder.startswith("~"):
        raise TertuliaError(layout.of_nobody(folder))
    return Path(folder).absolute()


def is_kept(home: Path) -> bool:
    """Whether the folder is a home: something of the daemon's or for it is in there. Where nobody
    can tell, it is the daemon's to say why."""
    return any(_may_exist(home / name) for name in layout.SIGNS)


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def parse_address(text: str) -> Address:
    """`unix:/path`, `host:port`, `tcp://host:port` or a bare port. Raises `TertuliaError`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if path:
            return UnixAddress(os.path.expanduser(path))
    else:
        host, _, port = text.removeprefix("tcp://").rpartition(":")
        is_number = port.isascii() and port.isdigit() and len(port) <= 5
        if "/" not in host and is_number and 0 < int(port) < 65536:
            return TcpAddress(host.strip("[]") or "localhost", int(port))
    raise TertuliaError(f"{text!r} is no address: write unix:/path, host:port or tcp://host:port.")


def token_for(address: Address, token: str | None, home: Path) -> str | None:
    """The connection token: as given, TERTULIA_TOKEN, or the file that the daemon wrote."""
    if token is None:
        token = os.environ.get("TERTULIA_TOKEN")
    if token is None and isinstance(address, TcpAddress):
        token = _read_token(layout.token_file(home, address.port))
    return token or None


def _read_token(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise TertuliaError(
            f"The token file {path} cannot be read: {error.__class__.__name__}."
        ) from None


def daemon_command(command: str | Sequence[str] | None = None) -> list[str]:
    """What starts the daemon: as given, TERTULIAD, beside this Python, on the PATH, or as a module.

    Raises `DaemonFailed` where the one that was named is not there.
    """
    if command is not None and not isinstance(command, str):
        return list(command)
    named = command or os.environ.get("TERTULIAD")
    if named:
        found = shutil.which(os.path.expanduser(named))
        if found is None:
            raise DaemonFailed(
                f"There is no program {named!r}: give the path of tertuliad, or unset TERTULIAD."
            )
        return [found]
    beside = shutil.which("tertuliad", path=os.path.dirname(sys.executable))
    found = beside or shutil.which("tertuliad")
    return [found] if found else [sys.executable, "-P", "-m", "tertuliad"]


def daemon_python() -> str:
    """The Python that runs the daemon of `daemon_command`: this one, the one beside the program, or
    the one that the program names in its first line. Raises `DaemonFailed` where none is found."""
    program, *arguments = daemon_command()
    if arguments:
        return program
    if os.path.dirname(program) == os.path.dirname(sys.executable):
        return sys.executable
    beside = os.path.join(os.path.dirname(os.path.realpath(program)), "python")
    found = shutil.which(beside) or _interpreter(program)
    if found is None:
        raise DaemonFailed(
            f"It cannot be told which Python runs {program}: let TERTULIAD name the tertuliad that"
            " was installed, or unset it."
        )
    return found


def _interpreter(program: str) -> str | None:
    """What the first line of a script names, where that is a Python."""
    try:
        with open(program, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return None
    name = os.fsdecode(line.removeprefix(b"#!").strip()) if line.startswith(b"#!") else ""
    return shutil.which(name) if "python" in os.path.basename(name) else None
