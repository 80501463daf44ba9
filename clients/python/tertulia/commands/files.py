"""`tertulia export` and `import`: a session as one document, in a file or a pipe."""

from __future__ import annotations

import argparse
import os
import sys

from tertulia import calls, documents
from tertulia.commands.common import answer_of, client_for, print_json
from tertulia.errors import InvalidParams, SessionExists, TertuliaError
from tertulia.typed import mended

PIPE = "-"
DOCUMENT = "$.document."
"""The place in the request that a fault of the file is at."""


def export(options: argparse.Namespace) -> int:
    """`tertulia export SESSION [FILE]`."""
    if os.path.isdir(options.file):
        raise TertuliaError(f"{options.file} is a folder: name a file in it.")
    with client_for(options) as client:
        document = client.export_session(options.session)
    if options.file == PIPE:
        return print_json(document)
    try:
        documents.write(options.file, document, overwrite=options.force)
    except FileExistsError:
        taken = f"There is a file {options.file} already: --force writes over it."
        raise TertuliaError(taken) from None
    if options.json:
        return print_json({"sessionId": options.session, "file": mended(options.file)})
    print(f"exported {options.session} to {options.file}")
    return 0


def import_(options: argparse.Namespace) -> int:
    """`tertulia import FILE`: the session's id on stdout."""
    if options.file == PIPE:
        document = documents.decoded(sys.stdin.buffer.read(), "stdin")
    else:
        document = documents.read(options.file)
    try:
        return answer_of(options, calls.import_(document, options.id, options.rename))
    except SessionExists as error:
        taken = (error.data or {}).get("sessionId", "of this id")
        hint = f"A session {taken} exists already: --rename makes another id, --id ID gives one."
        raise SessionExists(hint, error.data) from None
    except InvalidParams as error:
        if not str(error).startswith(DOCUMENT):
            raise
        place = "stdin" if options.file == PIPE else options.file
        fault = str(error).removeprefix(DOCUMENT)
        told = f"There is no exported session in {place}: {fault}"
        raise InvalidParams(told, error.data) from None
