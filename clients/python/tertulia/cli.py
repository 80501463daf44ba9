"""The command `tertulia`: runs a command line, and says what went wrong.

Exit codes: 0 done, 1 failed (the reason is on stderr, without a traceback, and with `--json` as an
error object of the wire), 2 wrong usage, 130 interrupted. The modules of the subcommands are
imported when they run, and no event loop ever is; what this one needs is imported in `main`, where
an interrupt is met.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys

from tertulia.interrupts import INTERRUPTED, ended_at_once

TYPE_CHECKING = False  # `typing` is slow to import, and Ctrl-C is not met before `main`

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tertulia.options import Run

SHOWN = "tertulia.shown"
UNDECODED = 0xDC00
"""The byte 0x80 stands in a text as U+DC80, and so on, where it could not be decoded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    try:
        return _main(argv)
    finally:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                stream.flush()
            except OSError:
                _give_up(number)


def _main(argv: Sequence[str] | None) -> int:
    with ended_at_once():
        from tertulia.errors import RpcError, TertuliaError
        from tertulia.options import parse
        from tertulia.wording import for_programs, said

        _take_any_text()
    as_json = False
    try:
        with ended_at_once():
            try:
                options = parse(sys.argv[1:] if argv is None else argv)
            finally:
                sys.stdout.flush()  # a help ends the program
        as_json = options.json
        run: Run = options.run
        code = run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except (TertuliaError, RpcError) as error:
        _complain(for_programs(error) if as_json else f"tertulia: {said(error)}")
        return 1
    except BrokenPipeError:
        _give_up(1)  # whoever read it has left
        return 1
    except OSError as error:
        _give_up(1)
        text = error.strerror or str(error)
        told = f"{text}: {error.filename}" if error.filename else text
        _complain(for_programs(OSError(told)) if as_json else f"tertulia: {told}")
        return 1


def _take_any_text() -> None:
    """What stdout and stderr cannot encode is shown as `?`, a name as the bytes that it is; stdin's
    come in whatever they are. Of the three, one that was closed before this began leads nowhere:
    else the next file that is opened would be taken for it."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - as long as the program
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:  # `print` would take stdout in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    codecs.register_error(SHOWN, _shown)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SHOWN)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _shown(fault: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: bytes of a name that the locale could not decode go out again,
    and anything else is `?`."""
    if not isinstance(fault, UnicodeEncodeError):
        raise fault
    odd = fault.object[fault.start : fault.end]
    codes = (ord(letter) - UNDECODED for letter in odd)
    return bytes(code if 0x80 <= code <= 0xFF else ord("?") for code in codes), fault.end


def _give_up(number: int) -> None:
    """Of stdout or stderr. Python flushes it at exit, and would complain once more, with an exit
    code of its own."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody can be told
        print(line, file=sys.stderr)
