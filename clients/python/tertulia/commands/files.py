"""`tertulia export` and `import`: a session as one document, in a file or a pipe."""

from __future__ import annotations

import argparse
import sys

from tertulia import calls, documents
from tertulia.commands.common import answer_of, client_for, print_json
from tertulia.errors import TertuliaError

PIPE = "-"


def export(options: argparse.Namespace) -> int:
    """`tertulia export SESSION [FILE]`."""
    with client_for(options) as client:
        document = client.export_session(options.session)
    if options.file == PIPE:
        return print_json(document)
    try:
        documents.write(options.file, document, overwrite=options.force)
    except FileExistsError:
        taken = f"There is a file {options.file} already: --force writes over it."
        raise TertuliaError(taken) from None
    return 0


def import_(options: argparse.Namespace) -> int:
    """`tertulia import FILE`: the session's id on stdout."""
    if options.file == PIPE:
        document = documents.decoded(sys.stdin.buffer.read(), "stdin")
    else:
        document = documents.read(options.file)
    return answer_of(options, calls.import_(document, options.id, options.rename))
