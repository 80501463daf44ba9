"""Who may import whom, each rule with its reason. Imports inside functions count as well."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from tertulia_protocol.events import EVENTS, NOTIFICATIONS
from tertulia_protocol.methods import METHODS

ROOT = Path(__file__).parents[2]
ROOTS = {
    "tertulia_protocol": ROOT / "protocol",
    "tertuliad": ROOT / "daemon",
    "tertulia": ROOT / "clients" / "python",
}


def module_name(path: Path, root: Path) -> str:
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {
    module_name(path, root): path
    for package, root in ROOTS.items()
    for path in sorted((root / package).rglob("*.py"))
}
"""Every module of ours."""


def within(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def is_ours(module: str) -> bool:
    return within(module, ROOTS)


def imports_of(module: str) -> set[str]:
    """What a module imports, anywhere in it: modules of ours, and others' names in full."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            home = str(node.module)
            found |= {home if is_ours(home) and name not in MODULES else name for name in whole}
    return found


IMPORTS = {module: imports_of(module) for module in MODULES}


def edges(who: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(importer, imported) of all modules in some rooms."""
    for module, imported in IMPORTS.items():
        if within(module, who):
            yield from ((module, name) for name in sorted(imported))


class Rule(msgspec.Struct, frozen=True):
    """`who` imports, of what is ours, nothing but `may` (and itself)."""

    who: str
    may: tuple[str, ...]
    because: str


PROTOCOL = "tertulia_protocol"
RULES = (
    Rule(PROTOCOL, (), "the protocol is shared by the daemon, the clients and the fuzz tests"),
    Rule("tertulia", (PROTOCOL,), "a client knows the wire and nothing of the daemon behind it"),
    Rule("tertuliad", (PROTOCOL,), "a daemon does not know who its clients are"),
    Rule(
        "tertuliad.sessions",
        (
            PROTOCOL,
            "tertuliad.askers",
            "tertuliad.store.base",
            "tertuliad.store.owners",
            "tertuliad.providers.base",
            "tertuliad.replies",
            "tertuliad.clock",
            "tertuliad.ids",
            "tertuliad.limits",
            "tertuliad.open_files",
            "tertuliad.tasks",
        ),
        "a session cannot tell who is watching, which store keeps it, or which model answers",
    ),
    Rule(
        "tertuliad.providers",
        (
            PROTOCOL,
            "tertuliad.config",
            "tertuliad.limits",
            "tertuliad.open_files",
            "tertuliad.threads",
        ),
        "a provider knows its own interface only: the engine is not its business",
    ),
    Rule(
        "tertuliad.store",
        (
            PROTOCOL,
            "tertuliad.askers",
            "tertuliad.limits",
            "tertuliad.open_files",
            "tertuliad.replies",
            "tertuliad.tasks",
        ),
        "a store keeps rows and bytes and does not know what they mean",
    ),
    Rule(
        "tertuliad.doctor",
        (
            PROTOCOL,
            "tertuliad.store",
            "tertuliad.sessions",
            "tertuliad.limits",
            "tertuliad.clock",
            "tertuliad.home",
        ),
        "a home is looked at without a daemon: there are no clients and no models",
    ),
    Rule(
        "tertuliad.handlers",
        (
            PROTOCOL,
            "tertuliad.askers",
            "tertuliad.sessions",
            "tertuliad.store.base",
            "tertuliad.follow",
            "tertuliad.replies",
            "tertuliad.clock",
            "tertuliad.ids",
            "tertuliad.limits",
            "tertuliad.models",
            "tertuliad.named_files",
        ),
        "a handler decodes, calls the domain and encodes: it sees no stream and no SQL",
    ),
    Rule(
        "tertuliad.follow",
        (
            PROTOCOL,
            "tertuliad.askers",
            "tertuliad.sessions.facts",
            "tertuliad.sessions.sealed",
            "tertuliad.store.base",
            "tertuliad.limits",
        ),
        "a follower is a cursor in a log, whatever connection it belongs to",
    ),
    Rule(
        "tertuliad.rpc",
        (
            PROTOCOL,
            "tertuliad.askers",
            "tertuliad.replies",
            "tertuliad.limits",
            "tertuliad.open_files",
            "tertuliad.spread",
        ),
        "the gate knows requests and answers, not what they are about",
    ),
    Rule(
        "tertuliad.connection",
        (PROTOCOL, "tertuliad.askers", "tertuliad.rpc", "tertuliad.limits"),
        "a connection carries frames: sessions outlive it and must not hang on it",
    ),
    Rule(
        "tertuliad.others",
        (
            PROTOCOL,
            "tertuliad.follow",
            "tertuliad.sessions",
            "tertuliad.store.base",
            "tertuliad.store.owners",
            "tertuliad.replies",
            "tertuliad.limits",
            "tertuliad.tasks",
        ),
        "what others write concerns sessions and who follows them, not connections",
    ),
    Rule(
        "tertuliad.engine",
        (
            PROTOCOL,
            "tertuliad.askers",
            "tertuliad.audience",
            "tertuliad.connection",
            "tertuliad.follow",
            "tertuliad.handlers",
            "tertuliad.models",
            "tertuliad.named_files",
            "tertuliad.others",
            "tertuliad.replies",
            "tertuliad.rpc",
            "tertuliad.sessions",
            "tertuliad.store",
            "tertuliad.garbage",
            "tertuliad.limits",
            "tertuliad.tasks",
        ),
        "it works without a stream, a listener or a process of its own",
    ),
    Rule(
        "tertuliad.handlers.runtime",
        (PROTOCOL, "tertuliad.clock", "tertuliad.handlers.context", "tertuliad.replies"),
        "it answers before the engine is imported",
    ),
    Rule("tertuliad.askers", (), "everybody may say who asks"),
    Rule(
        "tertuliad.named_files",
        (PROTOCOL, "tertuliad.askers", "tertuliad.limits"),
        "it does not know what is looked for",
    ),
    Rule("tertuliad.clock", (), "everybody may know the time"),
    Rule("tertuliad.replies", (PROTOCOL, "tertuliad.askers"), "everybody completes replies"),
    Rule("tertuliad.garbage", (), "it is imported before everything else"),
    Rule("tertuliad.open_files", (), "everybody may meet the bound"),
    Rule("tertuliad.threads", (), "everybody may meet the bound"),
    Rule("tertuliad.tasks", (), "everybody may be given a task"),
    Rule("tertuliad.limits", (), "every bound stands in one file that anybody may read"),
    Rule(
        "tertuliad.listeners",
        (PROTOCOL, "tertuliad.limits", "tertuliad.spread"),
        "a listener yields byte streams",
    ),
    Rule("tertuliad.descriptors", (), "it is imported before anything may print"),
    Rule(
        "tertuliad.stdio",
        ("tertuliad.descriptors", "tertuliad.limits"),
        "it yields bytes, and does not know what they say",
    ),
    Rule(
        "tertuliad.greeting",
        (PROTOCOL, "tertuliad.descriptors", "tertuliad.handlers.front", "tertuliad.limits"),
        "a client waits for all that it imports",
    ),
    Rule("tertuliad.process_log", (), "it is imported before anything may log"),
    Rule(
        "tertuliad.embedded_child",
        (),
        "it is a process of its own, and has to start without the daemon's parts",
    ),
)

ONLY_IN: dict[str, tuple[tuple[str, ...], str]] = {
    "pylsp_jsonrpc": (
        ("tertuliad.rpc", "tertulia.rpc"),
        "its defects are worked around in one place on each side",
    ),
    "sqlite3": (("tertuliad.store",), "another store may stand behind the interface"),
    "aiohttp": (("tertuliad.providers.http",), "there is one HTTP client, imported on first use"),
    "uvloop": (("tertuliad.run",), "the event loop is chosen where it is run"),
    "xllamacpp": (
        ("tertuliad.embedded_child",),
        "the engine runs in a process of its own: a crash of it ends no conversation",
    ),
    "subprocess": (
        ("tertuliad.providers.embedded_process", "tertulia.process"),
        "whoever starts a process also ends it",
    ),
    "tertuliad.daemon": (("tertuliad.run",), "nobody imports the composition root"),
    "tertuliad.run": (("tertuliad.entry",), "a daemon is started by its entry"),
    "tertuliad.greeting": (("tertuliad.start",), "a client is greeted once, and then by the gate"),
    "tertuliad.engine": (("tertuliad.daemon",), "what it wires does not know that it is wired"),
    "tertuliad.entry": (("tertuliad.__main__",), "nobody imports the command"),
}

NO_IO = {
    "anyio",
    "asyncio",
    "ctypes",
    "datetime",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib.Path",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
PURE = (
    PROTOCOL,
    "tertuliad.sessions.decide",
    "tertuliad.sessions.state",
    "tertuliad.sessions.facts",
    "tertuliad.sessions.system_message",
    "tertulia.calls",
    "tertulia.core",
    "tertulia.queue_calls",
    "tertulia.reading",
    "tertulia.turn",
)
"""Rooms without I/O, clock, log or randomness: what they decide can be tested without waiting."""
NO_IO_EITHER = {"threading.Lock"}
IS_A_PROGRAM_TOO = {"tertulia_protocol.schema"}
"""Run by hand, it renders `spec/`; imported, it only makes the documents."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.who)
def test_a_room_imports_only_what_it_may(rule: Rule) -> None:
    assert any(within(module, [rule.who]) for module in MODULES), f"there is no {rule.who}"
    broken = [
        f"{importer} imports {imported}"
        for importer, imported in edges([rule.who])
        if is_ours(imported) and not within(imported, [rule.who, *rule.may])
    ]
    assert not broken, f"{rule.because}: {broken}"


@pytest.mark.parametrize("imported", ONLY_IN)
def test_a_module_is_imported_only_where_it_belongs(imported: str) -> None:
    places, because = ONLY_IN[imported]
    found = {
        module for module, names in IMPORTS.items() if any(within(n, [imported]) for n in names)
    }
    found -= {module for module in found if within(module, [imported])}
    elsewhere = sorted(module for module in found if not within(module, places))
    assert not elsewhere, f"{because}: {elsewhere}"


def test_the_library_for_json_rpc_is_imported_in_exactly_two_places() -> None:
    found = [m for m, names in IMPORTS.items() if any(within(n, ["pylsp_jsonrpc"]) for n in names)]
    assert sorted(found) == ["tertulia.rpc", "tertuliad.rpc"]


def test_the_protocol_stands_on_msgspec_alone() -> None:
    foreign = {
        imported
        for _, imported in edges([PROTOCOL])
        if not is_ours(imported) and imported.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == {"msgspec"}


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_touches_nothing_outside(room: str) -> None:
    assert any(within(module, [room]) for module in MODULES), f"there is no {room}"
    broken = [
        f"{importer} imports {imported}"
        for importer, imported in edges([room])
        if within(imported, NO_IO) and imported not in NO_IO_EITHER
        if importer not in IS_A_PROGRAM_TOO
    ]
    assert not broken, f"it has no I/O, clock, log or randomness: {broken}"


SQL = re.compile(
    r"^\s*(SELECT .+ FROM|INSERT (OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE|PRAGMA )"
)


def test_sql_stands_in_the_store_only() -> None:
    found = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    }
    assert found
    assert all(within(module, ["tertuliad.store"]) for module in found)


def test_typed_decoding_has_one_door() -> None:
    """Two threads that meet msgspec by other ways at the same time may end the process."""
    found = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _is_typed_decoding(node)
    }
    assert found == {"tertulia_protocol.decoding"}


def _is_typed_decoding(call: ast.Call) -> bool:
    match ast.unparse(call.func).removeprefix("msgspec."):
        case "json.Decoder" | "msgpack.Decoder" | "convert":
            return ast.unparse(call.func).startswith("msgspec.")
        case "json.decode" | "msgpack.decode":
            return any(keyword.arg == "type" for keyword in call.keywords)
    return False


def test_only_handlers_and_the_registry_know_the_names_of_methods() -> None:
    names = METHODS.keys() - EVENTS.keys() - NOTIFICATIONS.keys()
    found = {
        module
        for module, path in MODULES.items()
        if within(module, ["tertuliad"])
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    # The gate lets `connect` through before anything else.
    assert found <= {"tertuliad.handlers.front", "tertuliad.handlers.table", "tertuliad.rpc"}
