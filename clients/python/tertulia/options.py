"""The options of the command `tertulia`: which subcommands there are, and what each takes.

Wrong usage ends the program with 2 and says what is right. The module of a subcommand is imported
when it runs: building this table has to be quick.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import msgspec

from tertulia.interrupts import ended_at_once
from tertulia.typed import decoded
from tertulia_protocol.decoding import json_decoder

EPILOG = """\
The shared daemon of the home is used where one runs: `tertulia serve` starts it. Otherwise one is
started for as long as the command runs. DIR, the folder with the sessions and config.toml, is
--home, else $TERTULIA_HOME, else $COPILOT_HOME, else the platform's (~/.local/share/tertulia).
`chat`, `send`, `import` and `serve` make it where it is not there; no other command does.
The exit code is 0: done, 1: failed, with the reason on stderr, 2: wrong usage, 130: Ctrl-C. With
--json the reason is one line, {"error": {"message": ...}}, with the wire's code and data where the
daemon refused."""
SEND_EPILOG = """\
With a key that was sent before, the answer is that of the first time. Where the log ends tells
`tertulia call session.eventLog.tail`, and so does the refusal where that is not N; --model and
--system do not go with --expected-seq, since the log has them too. A message that is refused is not
sent, and the exit code is 1."""
SERVE_EPILOG = """\
It listens on a unix socket in the data folder, where the other commands look for it; --port N,
--socket PATH or --stdio say where else. `tertuliad --help` lists them and its other options."""
DEMO_EPILOG = """\
It takes config.toml from the data folder, keeps its sessions in a temporary one, and leaves
nothing behind."""
LIST_EPILOG = """\
KEY is archived (true, false or any; false where it is not given), named (true or false), prefix (of
the id), cwd, repository, branch, git-root, or metadata.NAME."""
SEARCH_EPILOG = """\
What forks share is one place, and is shown for each of them."""
METADATA_EPILOG = """\
VALUE is a number, true or false where it is one, else text; `tertulia list --filter
metadata.NAME=VALUE` lists the sessions that have it. Other JSON is kept with `tertulia call
session.metadata.update`."""
USAGE_EPILOG = """\
Calls that gave a whole answer are counted, also those that were rewound since, and each once: a
fork counts its own alone, and so does a session imported under another id. One imported under its
own counts those of its file; what was deleted is not counted any more."""
PRUNE_EPILOG = """\
AGE is a number of days, or one with a unit: 12h, 30d, 8w. Sessions that run, that a client of the
daemon is attached to, or in which messages wait always stay. Where other daemons use the data
folder, the turns that they run are seen, and not who is attached there."""
CALL_EPILOG = """\
spec/methods.md has the methods, and `tertulia call rpc.discover` their shapes. The result is
printed as it came, in one line of JSON, and so is an error, on stderr. What is for those alone who
are attached to a session is asked for once the command is, and it detaches as it ends. Where no
shared daemon runs, what was begun ends with the command."""
DOCTOR_EPILOG = """\
Exit code 0: nothing is wrong; 1: there are faults, or they cannot be written; 2: it cannot be
checked, or no sessions are kept there: such a folder is left as it is."""
SEND_HINT = (
    " (put a TEXT of several words into quotes, one that begins with a dash behind --, as in"
    " `tertulia send SESSION -- -v`; - reads it from stdin)"
)
REFUSED = {
    "chat": ("json",),
    "demo": ("connect", "token", "json"),
    "serve": ("connect", "json"),
    "doctor": ("connect", "token"),
}
"""Of the options of all commands, those that would say nothing to this one."""

BEGINNERS = {"chat", "send", "import", "models"}
"""The commands that ask a daemon and need no sessions to be there."""

DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
MOST_DAYS = 1_000_000
FLAGS = {"true": True, "false": False}

Run = Callable[[argparse.Namespace], int]
Add = Callable[[str, str, str], "_Parser"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, each with its default. Ends the program with 2 on wrong usage."""
    parser, commands = _parser()
    options, rest = parser.parse_known_args(list(argv))
    options.rest = rest
    if rest and options.command != "serve":
        commands[options.command].error(f"unrecognized arguments: {' '.join(rest)}")
    for name in REFUSED.get(options.command, ()):
        if hasattr(options, name):
            commands[options.command].error(f"`tertulia {options.command}` takes no --{name}")
    if getattr(options, "expected_seq", None) is not None and (options.model or options.system):
        commands["send"].error("argument --expected-seq: not allowed with --model or --system")
    for name in ("home", "connect", "token"):
        setattr(options, name, getattr(options, name, None))
    for name in ("json", "no_color"):
        setattr(options, name, getattr(options, name, False))
    options.json = options.json or options.command == "call"
    return options


def _parser() -> tuple[_Parser, Mapping[str, _Parser]]:
    """The whole, and that of each subcommand by its name."""
    common = _common()
    parser = _Parser(
        prog="tertulia",
        description="Talk with language models through the daemon tertuliad.",
        epilog=EPILOG,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Command
    )

    def add(name: str, where: str, summary: str) -> _Parser:
        made = commands.add_parser(
            name,
            help=summary,
            description=summary,
            parents=[_common(REFUSED[name]) if name in REFUSED else common],
            allow_abbrev=False,
        )
        made.set_defaults(run=_late(where), begins=name in BEGINNERS)
        return made

    for group in (_talking, _finding, _reading, _changing, _carrying, _clearing, _running):
        group(add)
    return parser, commands.choices


def _talking(add: Add) -> None:
    chat = add("chat", "chat:chat", "converse in the terminal")
    chat.add_argument("session", nargs="?", metavar="SESSION", help="resumed or created")
    send = add("send", "commands.talking:send", "send one message and print the answer as it comes")
    send.add_argument("session", metavar="SESSION", help="resumed or created")
    send.add_argument("text", metavar="TEXT", help="the message; - reads it from stdin")
    send.add_argument(
        "--key", type=_word, help="accept it once, however often it is sent with this key"
    )
    send.add_argument("--if-idle", action="store_true", help="only if no turn runs and none waits")
    send.add_argument(
        "--expected-seq", type=_number, metavar="N", help="only if the session's log ends at N"
    )
    send.add_argument("--immediate", action="store_true", help="before the others that wait")
    send.epilog = SEND_EPILOG
    for each in (chat, send):
        each.add_argument(
            "--model",
            type=_model,
            help="as `tertulia models` names it; a session that is there keeps it from then on",
        )
        each.add_argument(
            "--system", type=_text, metavar="TEXT", help="added to the system message"
        )
    queue = add(
        "queue", "commands.queueing:queue", "show or edit the messages that wait for a turn"
    )
    queue.add_argument("session", metavar="SESSION")
    edits = queue.add_mutually_exclusive_group()
    edits.add_argument("--remove", metavar="MESSAGE", help="take a message out")
    edits.add_argument(
        "--edit", nargs=2, type=_word, metavar=("MESSAGE", "TEXT"), help="give it other words"
    )
    edits.add_argument(
        "--move", nargs=2, metavar=("MESSAGE", "PLACE"), help="put it at another place, from 1 on"
    )
    edits.add_argument("--clear", action="store_true", help="take all of them out")
    edits.add_argument("--pause", action="store_true", help="begin no turn of a waiting message")
    edits.add_argument("--resume", action="store_true", help="go on with the next one")


def _finding(add: Add) -> None:
    listed = add("list", "commands.listing:list_sessions", "list the sessions")
    listed.add_argument(
        "--filter",
        action=_Chosen,
        type=_text,
        default={},
        metavar="KEY=VALUE",
        help="those alone of which this is true; may be repeated",
    )
    orders = ("modified", "created", "title")
    listed.add_argument("--order", choices=orders, help="the newest first, or by title")
    listed.add_argument("--limit", type=_count, metavar="N", help="at most N of them")
    listed.epilog = LIST_EPILOG
    search = add("search", "commands.listing:search", "find what was said, in all sessions")
    search.add_argument("text", nargs="+", type=_text, metavar="TEXT", help="words, all of them")
    search.add_argument(
        "--limit", type=_count, default=20, metavar="N", help="at most N places (20)"
    )
    search.epilog = SEARCH_EPILOG
    add("models", "commands.listing:models", "list the models and whether they can be used now")
    usage = add("usage", "commands.listing:usage", "the tokens that model calls took")
    usage.add_argument("session", nargs="?", metavar="SESSION", help="of this one; else of all")
    usage.epilog = USAGE_EPILOG


def _reading(add: Add) -> None:
    show = add("show", "commands.reading:show", "print a session's history")
    show.add_argument("session", metavar="SESSION")
    log = add("log", "commands.reading:log", "print a session's stored events, with their ids")
    log.add_argument("session", metavar="SESSION")
    log.add_argument("--follow", action="store_true", help="go on with those that come")
    log.add_argument("--last", type=_number, metavar="N", help="begin with the last N")
    log.add_argument(
        "--type", action="append", metavar="TYPE", help="only events of this type; may be repeated"
    )


def _changing(add: Add) -> None:
    rename = add("rename", "commands.changing:rename", "give a session a name")
    rename.add_argument("session", metavar="SESSION")
    rename.add_argument("name", nargs="+", type=_text, metavar="NAME")
    metadata = add(
        "metadata", "commands.changing:metadata", "show or change what you keep with a session"
    )
    metadata.add_argument("session", metavar="SESSION")
    metadata.add_argument(
        "members",
        nargs="*",
        type=_member,
        metavar="NAME=VALUE",
        help="kept from now on; NAME= is kept no more",
    )
    metadata.epilog = METADATA_EPILOG
    fork = add("fork", "commands.changing:fork", "make a session that begins as another one")
    fork.add_argument("session", metavar="SESSION")
    fork.add_argument("--at", metavar="EVENT", help="with what stands before this event; else all")
    fork.add_argument("--name", type=_text, help="its name")
    fork.add_argument("--id", metavar="ID", help="its id; else one is made")
    rewind = add("rewind", "commands.changing:rewind", "go back to before a message")
    rewind.add_argument("session", metavar="SESSION")
    rewind.add_argument(
        "event", nargs="?", metavar="EVENT", help="it and all behind it go; else list the places"
    )


def _carrying(add: Add) -> None:
    export = add("export", "commands.files:export", "write a session to a file, whole")
    export.add_argument("session", metavar="SESSION")
    export.add_argument("file", nargs="?", default="-", metavar="FILE", help="else stdout")
    export.add_argument("--force", action="store_true", help="also over a file that is there")
    imported = add("import", "commands.files:import_", "make a session from such a file")
    imported.add_argument("file", metavar="FILE", help="- reads it from stdin")
    imported.add_argument("--id", metavar="ID", help="its id; else that in the file")
    imported.add_argument(
        "--rename", action="store_true", help="make another id where that one is taken"
    )


def _clearing(add: Add) -> None:
    archive = add("archive", "commands.clearing:archive", "put sessions away from the list")
    archive.add_argument("sessions", nargs="+", metavar="SESSION")
    archive.add_argument("--undo", action="store_true", help="put them back")
    delete = add("delete", "commands.clearing:delete", "delete sessions with their history")
    delete.add_argument("sessions", nargs="+", metavar="SESSION")
    prune = add(
        "prune", "commands.clearing:prune", "show which old sessions would go, or delete them"
    )
    prune.add_argument(
        "--older-than",
        type=_days,
        required=True,
        metavar="AGE",
        help="those not changed for so long",
    )
    prune.add_argument("--named", action="store_true", help="also those that have a name")
    prune.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="SESSION",
        help="not this one; may be repeated",
    )
    prune.add_argument("--yes", action="store_true", help="delete them")
    prune.epilog = PRUNE_EPILOG


def _running(add: Add) -> None:
    serve = add(
        "serve", "commands.serving:serve", "run a shared daemon; further options go to tertuliad"
    )
    serve.epilog = SERVE_EPILOG
    doctor = add("doctor", "commands.serving:doctor", "check the data folder")
    doctor.add_argument("--repair", action="store_true", help="mend what can be; no daemon may run")
    doctor.epilog = DOCTOR_EPILOG
    call = add("call", "commands.calling:call", "ask for any method of the protocol")
    call.add_argument(
        "method", type=_text, metavar="METHOD", help="such as session.metadata.snapshot"
    )
    call.add_argument(
        "params",
        nargs="?",
        type=_params,
        default={},
        metavar="PARAMS",
        help="a JSON object; - reads it from stdin",
    )
    call.epilog = CALL_EPILOG
    demo = add("demo", "demo:demo", "watch three conversations run at once")
    demo.add_argument("--model", help="instead of the embedded model")
    demo.epilog = DEMO_EPILOG


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a folder, or leave --home out")
    return text


def _text(text: str) -> str:
    """What was typed in another encoding has no letters to be sent."""
    try:
        return decoded(text)
    except UnicodeError:
        raise argparse.ArgumentTypeError("it is not valid UTF-8") from None


def _word(text: str) -> str:
    word = _text(text)
    if not word.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return word


def _address(text: str) -> str:
    """It may be a path: its bytes stay what they are."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _model(text: str) -> str:
    model = _text(text)
    if not model.strip():
        raise argparse.ArgumentTypeError(
            "it is empty: `tertulia models` lists what can be named, and without --model the"
            " session's own answers"
        )
    return model


def _count(text: str) -> int:
    if _number(text) == 0:
        raise argparse.ArgumentTypeError("it has to be 1 or more")
    return int(text)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _days(text: str) -> float:
    """An age in days: `30`, `30d`, `12h`, `8w`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([hdw]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write 30d, 12h or 8w")
    days = float(found[1]) * DAYS[found[2] or "d"]
    if days > MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MOST_DAYS} days")
    return days


def _params(text: str) -> str | dict[str, Any]:
    if text == "-":
        return text
    try:
        found: dict[str, Any] = json_decoder(dict[str, Any]).decode(_text(text))
    except (msgspec.DecodeError, RecursionError) as fault:
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object: {fault}") from None
    return found


class _Chosen(argparse.Action):
    """Gathers `KEY=VALUE` into what a list is asked for."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        key, equals, value = str(values).partition("=")
        if not equals:
            raise argparse.ArgumentError(self, f"{values!r} is not KEY=VALUE")
        chosen = {**getattr(namespace, self.dest)}
        if key.startswith("metadata."):
            members = {**chosen.get("metadata", {}), key.removeprefix("metadata."): _plain(value)}
            chosen["metadata"] = members
        elif key.replace("-", "_") in chosen:
            raise argparse.ArgumentError(self, f"{key} is given twice")
        else:
            chosen[key.replace("-", "_")] = self._value(key, value)
        setattr(namespace, self.dest, chosen)

    def _value(self, key: str, value: str) -> str | bool:
        flags: dict[str, str | bool] = {**FLAGS, **({"any": "any"} if key == "archived" else {})}
        if key in ("archived", "named"):
            if value not in flags:
                raise argparse.ArgumentError(self, f"{key} is {' or '.join(flags)}, not {value!r}")
            return flags[value]
        if key not in ("prefix", "cwd", "repository", "branch", "git-root"):
            raise argparse.ArgumentError(self, f"there is no key {key!r}")
        return value


def _plain(text: str) -> str | bool | int | float:
    """A number, true or false where it is one, else text."""
    try:
        value: bool | int | float = json_decoder(bool | int | float).decode(text)
    except msgspec.DecodeError:
        return text
    return value


def _member(text: str) -> tuple[str, str | bool | int | float | None]:
    """`NAME=VALUE` as a name and what is kept under it; None: nothing any more."""
    name, equals, value = _text(text).partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, _plain(value) if value else None


def _common(hidden: Sequence[str] = ()) -> _Command:
    """The options that may stand before and after the subcommand; absent ones leave no default,
    which would undo what stood before it. The help passes over those in `hidden`."""
    common = _Command(add_help=False, argument_default=argparse.SUPPRESS)

    def add(name: str, text: str, **how: Any) -> None:
        common.add_argument(f"--{name}", help=argparse.SUPPRESS if name in hidden else text, **how)

    add("home", "the data folder", metavar="DIR", type=_folder)
    add("connect", "unix:/path or host:port of a daemon", metavar="ADDR", type=_address)
    add("token", "its connection token; better in TERTULIA_TOKEN")
    add("json", "output and errors for programs", action="store_true")
    add("no-color", "as NO_COLOR does", action="store_true")
    return common


class _Parser(argparse.ArgumentParser):
    """Says what was perhaps meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"argument COMMAND: invalid choice: '(.*?)' (.*)", message)
        if unknown:
            message = f"there is no command {unknown[1]!r}{_nearest(*unknown.groups())}"
        elif self.prog == "tertulia send" and not message.startswith("argument --"):
            message += SEND_HINT
        super().error(message)


class _Command(_Parser):
    """Takes options between its words as well, up to a `--`."""

    _in_passes = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._in_passes or "--" in args:
            return super().parse_known_args(args, namespace)
        self._in_passes = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._in_passes = False


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


def _late(where: str) -> Run:
    """A subcommand, as `module:function`; the module is imported when it runs."""
    module, _, function = where.partition(":")

    def run(options: argparse.Namespace) -> int:
        with ended_at_once():
            found: Run = getattr(import_module(f"tertulia.{module}"), function)
        return found(options)

    return run
