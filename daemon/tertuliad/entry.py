"""The command `tertuliad`. Nothing that may print is imported before standard output is claimed."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Parse, claim standard output, run until the end; exits with 0 after a clean stop."""
    _take_interrupts()
    from tertuliad.garbage import look_seldom, made_to_stay

    with made_to_stay():
        from tertuliad.home import keep_to_the_user
        from tertuliad.options import parse

        options = parse(sys.argv[1:])
        keep_to_the_user()

        from tertuliad.stdio import claim_stdout

        stdout = claim_stdout()
        from tertuliad import process_log

        process_log.set_up(options.log_level)
        from tertuliad.limits import SWITCH_INTERVAL_S
        from tertuliad.open_files import raise_limit
        from tertuliad.run import run

        raise_limit()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
    look_seldom()
    status = run(options, stdout)
    # Threads of libraries must not hold up the end of a process that has nothing left to do.
    if sys.stderr:  # None where it was closed before the start
        sys.stderr.flush()
    os._exit(status)


def _take_interrupts() -> None:
    """Until the event loop takes signals, nothing was begun: Ctrl-C ends the process at once. As an
    exception it would come with a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


if __name__ == "__main__":
    main()
