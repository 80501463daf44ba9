"""`tertulia serve` and `doctor`: become another program, which takes the terminal's signals and
gives its own exit code."""

from __future__ import annotations

import argparse
import os

from tertulia import launch
from tertulia_protocol import layout

LISTENING = {"--stdio", "--port", "--socket"}
"""The options of tertuliad that say where it is reached."""


def serve(options: argparse.Namespace) -> int:
    """`tertulia serve`: become the daemon, with what else was written on the line."""
    command = launch.daemon_command()
    if options.home:
        command += ["--home", options.home]
    if options.token:
        os.environ["COPILOT_CONNECTION_TOKEN"] = options.token  # no argument: `ps` shows those
    if not any(given.split("=")[0] in LISTENING for given in options.rest):
        path = layout.shared_socket(launch.home_folder(options.home))
        command += ["--socket", str(path)]
    os.execv(command[0], [*command, *options.rest])  # noqa: S606 - no shell is wanted


def doctor(options: argparse.Namespace) -> int:
    """`tertulia doctor`: become the check, in the daemon's Python, of the daemon's home."""
    python = launch.daemon_python()
    command = [python, "-P", "-m", "tertuliad.doctor"]
    command += ["--home", str(launch.home_folder(options.home))]
    command += ["--repair"] if options.repair else []
    command += ["--json"] if options.json else []
    os.execv(python, command)  # noqa: S606 - no shell is wanted
