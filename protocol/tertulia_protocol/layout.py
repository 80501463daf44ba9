"""Where things lie in the data folder: what the daemon writes and its clients look for.

Pure: the environment, the platform and the user's home are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pathlib import PurePath

P = TypeVar("P", bound="PurePath")

HOME_VARIABLES = ("TERTULIA_HOME", "COPILOT_HOME")
"""Variables that name the data folder, the first one set wins. The second is the SDKs'."""

CONFIG_FILE = "config.toml"
"""In the data folder: what people configure the daemon with."""
DATABASE_FILE = "sessions.db"
"""In the data folder: all sessions."""
SIGNS = (DATABASE_FILE, f"{DATABASE_FILE}-wal", CONFIG_FILE)
"""What a data folder is known by: one of these is in it once it was used."""


def data_folder(given: str | None, environ: Mapping[str, str], platform: str, user: str) -> str:
    """The data folder: as given, as a variable names it, or the platform's. `user` is the user's
    home folder, `platform` is as in `sys.platform`. May be relative or begin with `~`."""
    named = given or next((environ[name] for name in HOME_VARIABLES if environ.get(name)), None)
    if named:
        return named
    if platform == "darwin":
        return f"{user}/Library/Application Support/tertulia"
    if platform == "win32":
        return f"{environ.get('LOCALAPPDATA') or user}\\tertulia"
    share = environ.get("XDG_DATA_HOME") or f"{user.rstrip('/')}/.local/share"  # a user's may be /
    return f"{share}/tertulia"


def of_nobody(folder: str) -> str:
    """What is told of a data folder that still begins with `~` when that was looked up."""
    return (
        f"The folder {folder} cannot be found, as nobody knows where that user's home is: set HOME,"
        " or name a whole path by --home or TERTULIA_HOME."
    )


def run_folder(home: P) -> P:
    """What lives only as long as a daemon does."""
    return home / "run"


def shared_socket(home: P) -> P:
    """Where the shared daemon of a data folder listens."""
    return run_folder(home) / "tertuliad.sock"


def token_file(home: P, port: int) -> P:
    """Holds the connection token of the daemon on that TCP port."""
    return run_folder(home) / f"tcp-{port}.token"


SOCKET_PATH_BYTES = 107
"""The longest path that Linux takes as a socket's address (unix(7))."""


def through_folder(fd: int, name: str) -> str:
    """Another path of the file `name`, short wherever its folder, open as `fd`, may lie (Linux)."""
    return f"/proc/self/fd/{fd}/{name}"
