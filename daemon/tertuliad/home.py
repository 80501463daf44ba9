"""The home: where it is, and that what is made in it is its user's alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from tertulia_protocol import layout


def keep_to_the_user() -> None:
    """Whatever this process makes from now on has all rights of its user, and none of others: the
    umask that it was started with may take the first away and leave the second."""
    os.umask(0o077)


def home_folder(given: str | None, refuse: Callable[[str], NoReturn]) -> str:
    """The data folder, absolute. `refuse` learns, in words, why there is none."""
    folder = layout.data_folder(given, os.environ, sys.platform, os.path.expanduser("~"))
    folder = os.path.expanduser(folder)
    if os.path.isabs(folder):
        return folder
    if folder.startswith("~"):
        refuse(layout.of_nobody(folder))
    try:
        return os.path.join(os.getcwd(), folder)
    except FileNotFoundError:
        refuse(
            f"the home {folder!r} is not a whole path, and the folder that it is looked for in was"
            " removed: give --home with a whole one"
        )
