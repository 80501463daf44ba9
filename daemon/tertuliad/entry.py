"""The command `tertuliad`. Nothing that may print is imported before standard output is claimed."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Parse, claim standard output, run until the end; exits with 0 after a clean stop."""
    from tertuliad.options import parse

    options = parse(sys.argv[1:])

    from tertuliad.stdio import claim_stdout

    stdout = claim_stdout()
    from tertuliad import logs

    logs.set_up(options.log_level)
    from tertuliad.daemon import run

    status = run(options, stdout)
    # Threads of libraries must not hold up the end of a process that has nothing left to do.
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
