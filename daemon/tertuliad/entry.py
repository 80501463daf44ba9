"""The command `tertuliad`. Nothing that may print is imported before standard output is claimed,
and nothing that a client can do without before it is greeted."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Parse, claim standard output, run until the end; exits with 0 after a clean stop."""
    _take_signals()
    from tertuliad.garbage import look_seldom, made_to_stay

    with made_to_stay():
        from tertuliad.home import keep_to_the_user
        from tertuliad.options import parse

        options = parse(sys.argv[1:])
        keep_to_the_user()

        from tertuliad.descriptors import claim_stdout

        stdout = claim_stdout()
        from tertuliad.start import start

        started = start(options, stdout)
        from tertuliad import process_log

        process_log.set_up(options.log_level)
        from tertuliad.limits import SWITCH_INTERVAL_S
        from tertuliad.run import run

        sys.setswitchinterval(SWITCH_INTERVAL_S)
    look_seldom()
    status = run(started)
    # Threads of libraries must not hold up the end of a process that has nothing left to do.
    if sys.stderr:  # None where it was closed before the start
        sys.stderr.flush()
    os._exit(status)


def _take_signals() -> None:
    """Until the event loop takes them, nothing was begun: who asks for the end has a clean one at
    once. An interrupt would come as an exception with a traceback, and the others as a death by
    signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, lambda *_: os._exit(0))


if __name__ == "__main__":
    main()
