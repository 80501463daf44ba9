"""The command `tertulia`: its options, and what becomes of errors.

Exit codes: 0 done, 1 failed (the reason is on stderr, without a traceback), 2 wrong usage, 130
interrupted. The modules of the subcommands are imported when they run, and no event loop ever is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from tertulia.errors import RpcError, TertuliaError
from tertulia.wording import said

INTERRUPTED = 130
EPILOG = """\
A daemon that runs for the same home is used; otherwise one is started for as long as the command
runs. `tertulia serve` starts one that stays. DIR, the folder with the sessions and config.toml, is
--home, else $TERTULIA_HOME, else $COPILOT_HOME, else the platform's (~/.local/share/tertulia)."""
SERVE_EPILOG = """\
It listens on a unix socket in the data folder, where the other commands look for it; --port N,
--socket PATH or --stdio say where else. `tertuliad --help` lists them and its other options."""
DEMO_EPILOG = """\
It takes config.toml from the data folder, keeps its sessions in a temporary one, and leaves
nothing behind."""
SEND_HINT = (
    " (put a TEXT of several words into quotes, one that begins with a dash behind --, as in"
    " `tertulia send SESSION -- -v`; - reads it from stdin)"
)
REFUSED = {
    "chat": ("json",),
    "demo": ("connect", "token", "json"),
    "serve": ("connect", "json"),
}
"""Of the options of all commands, those that would say nothing to this one."""

Run = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    options = parse(sys.argv[1:] if argv is None else argv)
    _take_any_text()
    try:
        run: Run = options.run
        code = run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except (TertuliaError, RpcError) as error:
        _complain(said(error))
        return 1
    except BrokenPipeError:
        _give_stdout_up()  # whoever read it has left
        return 1
    except OSError as error:
        _give_stdout_up()
        _complain(error.strerror or str(error), error.filename)
        return 1


def _take_any_text() -> None:
    """What stdout cannot encode is shown as `?`; stdin's bytes come in whatever they are."""
    if sys.stdout is None:  # it was closed before this began
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the program
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _give_stdout_up() -> None:
    """Python flushes it at exit, and would complain once more."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(text: str, place: object = None) -> None:
    print(f"tertulia: {text}" + (f": {place}" if place else ""), file=sys.stderr)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, each with its default. Ends the program with 2 on wrong usage."""
    parser = _parser()
    options, rest = parser.parse_known_args(list(argv))
    options.rest = rest
    if rest and options.command != "serve":
        hint = SEND_HINT if options.command == "send" else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    for name in REFUSED.get(options.command, ()):
        if hasattr(options, name):
            parser.error(f"`tertulia {options.command}` takes no --{name}")
    for name in ("home", "connect", "token"):
        setattr(options, name, getattr(options, name, None))
    for name in ("json", "no_color"):
        setattr(options, name, getattr(options, name, False))
    return options


def _parser() -> _Parser:
    common = _common()
    parser = _Parser(
        prog="tertulia",
        description="Talk with language models through the daemon tertuliad.",
        epilog=EPILOG,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Run, summary: str) -> _Parser:
        made = commands.add_parser(
            name, help=summary, description=summary, parents=[common], allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    chat = add("chat", _late("tertulia.chat", "chat"), "converse in the terminal")
    chat.add_argument("session", nargs="?", metavar="SESSION", help="resumed or created")
    send = add(
        "send",
        _late("tertulia.commands", "send"),
        "send one message and print the answer as it comes",
    )
    send.add_argument("session", metavar="SESSION", help="resumed or created")
    send.add_argument("text", metavar="TEXT", help="the message; - reads it from stdin")
    for each in (chat, send):
        each.add_argument("--model", help="as `tertulia models` names it")
        each.add_argument("--system", metavar="TEXT", help="added to the system message")
    add("list", _late("tertulia.commands", "list_sessions"), "list the sessions")
    show = add("show", _late("tertulia.commands", "show"), "print a session's history")
    show.add_argument("session", metavar="SESSION")
    delete = add(
        "delete", _late("tertulia.commands", "delete"), "delete sessions with their history"
    )
    delete.add_argument("sessions", nargs="+", metavar="SESSION")
    add(
        "models",
        _late("tertulia.commands", "models"),
        "list the models and whether they can be used now",
    )
    serve = add(
        "serve",
        _late("tertulia.commands", "serve"),
        "run a shared daemon; further options go to tertuliad",
    )
    serve.epilog = SERVE_EPILOG
    demo = add("demo", _late("tertulia.demo", "demo"), "watch three conversations run at once")
    demo.add_argument("--model", help="instead of the embedded model")
    demo.epilog = DEMO_EPILOG
    return parser


def _common() -> _Parser:
    """The options that may stand before and after the subcommand; absent ones leave no default,
    which would undo what stood before it."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--home", metavar="DIR", help="the data folder")
    common.add_argument("--connect", metavar="ADDR", help="unix:/path or host:port of a daemon")
    common.add_argument("--token", help="its connection token; better in TERTULIA_TOKEN")
    common.add_argument("--json", action="store_true", help="output for programs")
    common.add_argument("--no-color", action="store_true", help="as NO_COLOR does")
    return common


class _Parser(argparse.ArgumentParser):
    """Says what was perhaps meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"argument COMMAND: invalid choice: '(.*?)' (.*)", message)
        if unknown:
            message = f"there is no command {unknown[1]!r}{_nearest(*unknown.groups())}"
        elif self.prog == "tertulia send":
            message += SEND_HINT
        super().error(message)


def _nearest(word: str, choices: str) -> str:
    """The command that is most like `word`; all of them, as argparse lists them, where none is."""
    from difflib import get_close_matches

    found = get_close_matches(word, re.findall(r"\w+", choices), n=1)
    return f": did you mean `tertulia {found[0]}`?" if found else f" {choices}"


class _Version(argparse.Action):
    """Looks the version up when it is asked for: that import is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        print(f"tertulia {version('tertulia')}")
        parser.exit()


def _late(module: str, function: str) -> Run:
    """A subcommand whose module is imported when it runs."""

    def run(options: argparse.Namespace) -> int:
        found: Run = getattr(import_module(module), function)
        return found(options)

    return run
