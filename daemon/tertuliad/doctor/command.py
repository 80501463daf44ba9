"""The command: `python -m tertuliad.doctor --home DIR [--repair] [--json]`.

Exit status: 0 nothing is wrong (any more), 1 there are faults, or what was found cannot be written,
2 the home cannot be checked. It is the same where nobody reads what is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from pathlib import Path

from tertuliad.doctor.examination import CannotCheck, Examined, examine
from tertuliad.doctor.findings import as_json, as_line, counted
from tertuliad.doctor.repair import repair
from tertuliad.home import home_folder

SOUND, FAULTS, CANNOT = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(argv)
    home = Path(home_folder(given.home, parser.error))
    done: list[str] = []
    try:
        examined = repair(home, done.append) if given.repair else examine(home)
    except CannotCheck as error:
        _print_refusal(home, str(error), done, as_document=given.json)
        return CANNOT
    tell = _print_json if given.json else _print_lines
    told = tell(home, examined, done)
    return SOUND if told and not examined.faults else FAULTS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tertulia doctor",
        description="Checks the folder with the sessions, beside a daemon too, and repairs it.",
        epilog="Exit status: 0 nothing is wrong, 1 there are faults, or they cannot be written,"
        " 2 it cannot be checked, or no sessions are kept there: such a folder is left as it is.",
        allow_abbrev=False,
    )
    parser.add_argument("--home", metavar="DIR", help="the folder with the sessions")
    parser.add_argument(
        "--repair", action="store_true", help="repair what is found; no daemon may be running"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser


def _print_refusal(home: Path, words: str, done: list[str], *, as_document: bool) -> None:
    if as_document:
        _print_document({"home": str(home), "error": words, "done": done})
    else:
        _print(*_told(done))
        if sys.stderr is not None:
            sys.stderr.write(words + "\n")


def _print_json(home: Path, examined: Examined, done: list[str]) -> bool:
    found = [as_json(one) for one in examined.findings]
    return _print_document(
        {"home": str(home), "sessions": examined.sessions, "findings": found, "done": done}
    )


def _print_document(document: dict[str, object]) -> bool:
    # A path may have bytes that are no text; the standard library's encoder lets them through.
    return _print(json.dumps(document, ensure_ascii=False, separators=(",", ":")))


def _print_lines(home: Path, examined: Examined, done: list[str]) -> bool:
    faults = counted(len(examined.faults), "fault") if examined.faults else "no fault"
    return _print(
        *_told(done),
        *map(as_line, examined.findings),
        f"{home}: {faults}, {counted(examined.sessions, 'session')} looked into.",
    )


def _told(done: list[str]) -> list[str]:
    return [f"done   {line}" for line in done]


def _print(*lines: str) -> bool:
    """False: they were to be read, and cannot be written."""
    if not lines or sys.stdout is None:  # None: it was closed before this began
        return True
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # Python flushes it at exit, and would complain again
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return True
        if sys.stderr is not None:
            sys.stderr.write(f"stdout cannot be written: {error.strerror}\n")
        return False
    return True
