"""The command line: ours, and the flags that the SDKs start their runtime with.

`OPTIONS` is the one table. What a program spells out (`--stdio --log-level error`) is read by
walking it; argparse is made from it, and imported, only for what has to be said to a person: help,
the version, a mistake. It takes 6 ms, a tenth of what a start can be shortened by, and says the
same of what both can read, which a test keeps. So does `pathlib`: the paths here are strings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from tertulia_protocol import VERSION
from tertuliad import limits
from tertuliad.home import home_folder

if TYPE_CHECKING:
    import argparse

LOG_LEVELS = ("none", "error", "warning", "info", "debug", "all")

_EPILOG = """\
Without --stdio, --port or --socket it listens on a free TCP port of this machine and says which.
The folder with its sessions is --home, else $TERTULIA_HOME, else $COPILOT_HOME, else the
platform's data folder (on Linux ~/.local/share/tertulia). Models are named in <home>/config.toml
and by environment variables such as OPENAI_API_KEY; spec/config.md of the sources has them all.
Nothing but protocol frames (and the line that names the port) is ever written to standard output.
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How this daemon was asked to run. `owned`: one client started it, and it ends with it. `home`
    is absolute; times are in seconds, `turn_idle_timeout` None: as `limits` says,
    `session_idle_timeout` None: as the configuration file does."""

    home: str
    config: str | None
    stdio: bool
    port: int | None
    host: str
    socket: str | None
    token: str | None
    allow_anonymous: bool
    owned: bool
    parent_pid: int | None
    log_level: str
    max_body: int
    turn_retries: int
    turn_timeout: float
    turn_idle_timeout: float | None
    drain_grace: float
    leave_waiting: bool
    session_idle_timeout: float | None


# What a value may be: each gives it, or raises ValueError in words


def _port(text: str) -> int:
    port = _number(text)
    if port is None or port > 65535:
        raise ValueError("a port is a number between 0 and 65535")
    return port


def _count(text: str) -> int:
    count = _number(text)
    if count is None or count > 100:
        raise ValueError("it has to be a number between 0 and 100")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= limits.OPTION_S:
        raise ValueError("it has to be between 0 and a week, in seconds")
    return seconds


def _bytes(text: str) -> int:
    size = _number(text)
    if size is None or not 1024 <= size <= 1024 * limits.MIB:
        raise ValueError("a number of bytes between 1 KiB and 1 GiB is expected")
    return size


def _pid(text: str) -> int:
    pid = _number(text)
    if pid is None:
        raise ValueError("it has to be the number of a process")
    return pid


def _level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ValueError(f"{text!r} is none of {', '.join(LOG_LEVELS)}")
    return text


def _number(text: str) -> int | None:
    """Digits as a number; 20 of them are more than anything here takes."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


# The table


class _Option(NamedTuple):
    """A row. Without a `metavar` it takes no value. In the help, %(default)s stands for the
    default."""

    flag: str
    help: str | None = None
    metavar: str | None = None
    read: Callable[[str], Any] = str
    default: Any = None

    @property
    def name(self) -> str:
        return self.flag[2:].replace("-", "_")

    @property
    def unsaid(self) -> Any:
        """Its value where it is not given."""
        return False if self.metavar is None else self.default


_SDKS = "taken from SDKs, and without effect here"

OPTIONS: dict[str, tuple[_Option, ...]] = {
    "where it is reached": (
        _Option("--stdio", "one client on standard input/output"),
        _Option("--port", "TCP; 0 takes a free port", "N", _port),
        _Option("--host", "the address for --port [%(default)s]", "HOST", default="localhost"),
        _Option("--socket", "a unix socket, for you alone", "PATH"),
        _Option("--allow-anonymous", "no token on TCP: anyone who reaches the port gets in"),
    ),
    "what it works with": (
        _Option("--home", "the folder with the sessions", "DIR"),
        _Option("--config", "instead of <home>/config.toml", "FILE"),
        _Option(
            "--max-body",
            "the largest message that is taken [%(default)s]",
            "BYTES",
            _bytes,
            limits.MAX_BODY_BYTES,
        ),
        _Option(
            "--log-level", f"{', '.join(LOG_LEVELS)} [%(default)s]", "LEVEL", _level, "warning"
        ),
    ),
    "how it has models answer": (
        _Option(
            "--turn-retries",
            "further tries of a call that failed before its first byte [%(default)s]",
            "N",
            _count,
            limits.TURN_RETRIES,
        ),
        _Option(
            "--turn-timeout",
            "the most seconds that a turn may take [%(default)g]",
            "S",
            _seconds,
            limits.TURN_TIMEOUT_S,
        ),
        _Option(
            "--turn-idle-timeout",
            "the most seconds without a byte from the model"
            f" [{limits.TURN_IDLE_TIMEOUT_S:g}, not streamed {limits.NOT_STREAMED_TIMEOUT_S:g}]",
            "S",
            _seconds,
        ),
    ),
    "how long it lives": (
        _Option(
            "--drain-grace",
            "after SIGTERM, turns get so many seconds to end; a second signal gives none"
            " [%(default)g]",
            "S",
            _seconds,
            limits.DRAIN_GRACE_S,
        ),
        _Option("--leave-waiting", "begin no turn that an earlier process left waiting"),
        _Option(
            "--session-idle-timeout",
            "an idle session leaves memory after so many seconds, and comes back when it is used;"
            f" 0: no time [{limits.SESSION_IDLE_S:g}]",
            "SECONDS",
            _seconds,
        ),
        _Option("--parent-pid", "end when this process does", "PID", _pid),
        _Option("--headless", "a program owns it: end with it"),
        _Option("--server", "the same as --headless"),
    ),
    _SDKS: (
        _Option("--no-auto-update"),
        _Option("--no-auto-login"),
        _Option("--remote"),
        _Option("--yolo"),
        _Option("--ui-server"),
        _Option("--auth-token-env", metavar="NAME"),
        _Option("--cli-login-sync-integration-id", metavar="ID"),
    ),
}
"""Every option, by the group that the help shows it in."""

_BY_FLAG = {option.flag: option for group in OPTIONS.values() for option in group}


def parse(argv: list[str]) -> Options:
    """The options among `argv` and the environment. Exits, as argparse does, where they are off."""
    given = _spelt_out(argv)
    if given is None:
        given = vars(_parser().parse_args(argv))
    listens = given["stdio"] or given["port"] is not None or given["socket"] is not None
    made = {
        "home": home_folder(given["home"], _refused),
        "port": given["port"] if listens else 0,
        "token": os.environ.pop("COPILOT_CONNECTION_TOKEN", None) or None,
        "owned": given["stdio"] or given["headless"] or given["server"],
    }
    return Options(**{name: (given | made)[name] for name in Options.__struct_fields__})


def _spelt_out(argv: list[str]) -> dict[str, Any] | None:
    """The values by name; None where argparse has something to say."""
    values = {option.name: option.unsaid for option in _BY_FLAG.values()}
    words = iter(argv)
    for word in words:
        flag, has_value, value = word.partition("=")
        option = _BY_FLAG.get(flag)
        if option is None or (has_value and option.metavar is None):
            return None
        if option.metavar is None:
            values[option.name] = True
            continue
        if not has_value:
            value = next(words, "-")
            if value.startswith("-"):
                return None
        try:
            values[option.name] = option.read(value)
        except ValueError:
            return None
    return values


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="tertuliad",
        description="Hosts many conversations with language models, driven over JSON-RPC.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    version = f"tertuliad {VERSION}"
    parser.add_argument(
        "--version", action="version", version=version, help="print the version and exit"
    )
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for option in options:
            if option.metavar is None:
                group.add_argument(option.flag, action="store_true", help=option.help)
            else:
                group.add_argument(
                    option.flag,
                    metavar=option.metavar,
                    type=_worded(option.read),
                    default=option.default,
                    help=option.help,
                )
    return parser


def _worded(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read`, whose words argparse repeats only in an exception of its own."""
    import argparse

    def checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _refused(words: str) -> NoReturn:
    _parser().error(words)
