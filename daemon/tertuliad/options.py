"""The command line: ours, and the flags that the SDKs start their runtime with."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import msgspec

from tertulia_protocol import VERSION, layout
from tertuliad import limits
from tertuliad.sessions.retry import TurnLimits

LOG_LEVELS = ("none", "error", "warning", "info", "debug", "all")

_EPILOG = """\
Without --stdio, --port or --socket it listens on a free TCP port of this machine and says which.
The folder with its sessions is --home, else $TERTULIA_HOME, else $COPILOT_HOME, else the
platform's data folder (on Linux ~/.local/share/tertulia). Models are named in <home>/config.toml
and by environment variables such as OPENAI_API_KEY; spec/config.md of the sources has them all.
Nothing but protocol frames (and the line that names the port) is ever written to standard output.
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How this daemon was asked to run. `owned`: one client started it, and it ends with it."""

    home: Path
    config: Path | None
    stdio: bool
    port: int | None
    host: str
    socket: Path | None
    token: str | None
    allow_anonymous: bool
    owned: bool
    parent_pid: int | None
    log_level: str
    max_body: int
    turn_limits: TurnLimits = TurnLimits()
    drain_grace_s: float = limits.DRAIN_GRACE_S
    session_idle_s: float | None = None
    """None: as the configuration file says."""


def parse(argv: list[str]) -> Options:
    """The options among `argv` and the environment. Exits, as argparse does, where they are off."""
    given = _parser().parse_args(argv)
    served = given.headless or given.server
    listens = given.stdio or given.port is not None or given.socket is not None
    return Options(
        home=_home(given.home),
        config=given.config,
        stdio=given.stdio,
        port=given.port if listens else 0,
        host=given.host,
        socket=given.socket,
        token=os.environ.pop("COPILOT_CONNECTION_TOKEN", None) or None,
        allow_anonymous=given.allow_anonymous,
        owned=given.stdio or served,
        parent_pid=given.parent_pid,
        log_level=given.log_level,
        max_body=given.max_body,
        turn_limits=TurnLimits(
            retries=given.turn_retries,
            timeout_s=given.turn_timeout,
            idle_timeout_s=given.turn_idle_timeout,
        ),
        drain_grace_s=given.drain_grace,
        session_idle_s=given.session_idle_timeout,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tertuliad",
        description="Hosts many conversations with language models, driven over JSON-RPC.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"tertuliad {VERSION}",
        help="print the version and exit",
    )
    ways = parser.add_argument_group("where it is reached")
    ways.add_argument("--stdio", action="store_true", help="one client on standard input/output")
    ways.add_argument("--port", type=_port, metavar="N", help="TCP; 0 takes a free port")
    ways.add_argument("--host", default="localhost", help="the address for --port [%(default)s]")
    ways.add_argument("--socket", type=Path, metavar="PATH", help="a unix socket, for you alone")
    ways.add_argument(
        "--allow-anonymous",
        action="store_true",
        help="no token on TCP: anyone who reaches the port gets in",
    )
    what = parser.add_argument_group("what it works with")
    what.add_argument("--home", type=Path, metavar="DIR", help="the folder with the sessions")
    what.add_argument("--config", type=Path, metavar="FILE", help="instead of <home>/config.toml")
    what.add_argument(
        "--max-body",
        type=_bytes,
        default=limits.MAX_BODY_BYTES,
        metavar="BYTES",
        help="the largest message that is taken [%(default)s]",
    )
    what.add_argument("--log-level", choices=LOG_LEVELS, default="warning", help="[%(default)s]")
    turns = parser.add_argument_group("how it has models answer")
    turns.add_argument(
        "--turn-retries",
        type=_count,
        default=limits.TURN_RETRIES,
        metavar="N",
        help="further tries of a call that failed before its first byte [%(default)s]",
    )
    turns.add_argument(
        "--turn-timeout",
        type=_seconds,
        default=limits.TURN_TIMEOUT_S,
        metavar="S",
        help="the most seconds that a turn may take [%(default)g]",
    )
    turns.add_argument(
        "--turn-idle-timeout",
        type=_seconds,
        metavar="S",
        help="the most seconds without a byte from the model"
        f" [{limits.TURN_IDLE_TIMEOUT_S:g}, not streamed {limits.NOT_STREAMED_TIMEOUT_S:g}]",
    )
    life = parser.add_argument_group("how long it lives")
    life.add_argument(
        "--drain-grace",
        type=_seconds,
        default=limits.DRAIN_GRACE_S,
        metavar="S",
        help="after SIGTERM, turns get so many seconds to end; a second signal gives none"
        " [%(default)g]",
    )
    life.add_argument(
        "--session-idle-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="an idle session leaves memory after so many seconds, and comes back when it is used;"
        f" 0: no time [{limits.SESSION_IDLE_S:g}]",
    )
    life.add_argument("--parent-pid", type=int, metavar="PID", help="end when this process does")
    life.add_argument("--headless", action="store_true", help="a program owns it: end with it")
    life.add_argument("--server", action="store_true", help="the same as --headless")
    sdk = parser.add_argument_group("taken from SDKs, and without effect here")
    for flag in ("--no-auto-update", "--no-auto-login", "--remote", "--yolo", "--ui-server"):
        sdk.add_argument(flag, action="store_true")
    sdk.add_argument("--auth-token-env", metavar="NAME")
    sdk.add_argument("--cli-login-sync-integration-id", metavar="ID")
    return parser


def _port(text: str) -> int:
    port = _number(text)
    if port is None or port > 65535:
        raise argparse.ArgumentTypeError("a port is a number between 0 and 65535")
    return port


def _count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= 100:
        raise argparse.ArgumentTypeError("it has to be between 0 and 100")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 7 * 86_400:
        raise argparse.ArgumentTypeError("it has to be between 0 and a week, in seconds")
    return seconds


def _bytes(text: str) -> int:
    size = _number(text)
    if size is None or not 1024 <= size <= 1024 * limits.MIB:
        raise argparse.ArgumentTypeError("a number of bytes between 1 KiB and 1 GiB is expected")
    return size


def _number(text: str) -> int | None:
    """Digits as a number; 20 of them are more than anything here takes."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _home(given: Path | None) -> Path:
    named = None if given is None else str(given)
    folder = layout.data_folder(named, os.environ, sys.platform, Path.home())
    return folder.expanduser().absolute()
