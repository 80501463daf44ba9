"""A daemon's start, before there is an event loop: all that can end it is found out here, but for
what a listener meets; then a client that waits already is greeted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from tertulia_protocol import layout
from tertuliad import limits, open_files
from tertuliad.descriptors import tell
from tertuliad.greeting import Greeting, greet
from tertuliad.options import Options

if TYPE_CHECKING:
    from tertuliad.config import Settings


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon begins with. `parent` is who started it. `settings` are those of the
    configuration file; None: there is none. The environment has no faults, and is read with the
    engine."""

    options: Options
    stdout: int
    parent: int
    settings: Settings | None = None
    greeting: Greeting = Greeting()


def start(options: Options, stdout: int) -> Start:
    """Find out whether there can be a daemon. Exits, with a line that says why, where not."""
    parent = os.getppid()  # once a client is greeted, it may be gone before anybody watches it
    open_files.raise_limit()
    if not open_files.can_open(limits.FILES_AT_LEAST):
        tell(open_files.told())
        raise SystemExit(1)
    settings = _settings(options)
    listens = options.port is not None or options.socket is not None
    greeting = Greeting()
    if options.stdio and not listens:
        greeting = greet(0, stdout, options.max_body)
    return Start(
        options=options, stdout=stdout, parent=parent, settings=settings, greeting=greeting
    )


def _settings(options: Options) -> Settings | None:
    if options.config is None and not is_there(options.home, layout.CONFIG_FILE):
        return None
    from pathlib import Path

    from tertuliad.config import ConfigError, load

    named = None if options.config is None else Path(options.config)
    try:
        return load(Path(options.home), path=named)
    except ConfigError as error:
        tell(error)
        raise SystemExit(1) from None


def is_there(home: str, name: str) -> bool:
    """Whether the home has such a file; where nobody can tell, it is the reader's to say why."""
    try:
        os.stat(os.path.join(home, name))
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True
