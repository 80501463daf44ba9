"""The promises, the pains and the tests agree: what `spec/promises.md` and `spec/pains.md` say is
tested, and the tests are named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "spec" / "promises.md").read_text()
PAINS = (ROOT / "spec" / "pains.md").read_text()
HEADING = re.compile(r"^## (P\d+): (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| ([A-Z]\d+) \|(.+)\|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NAMED = re.compile(r"^- `(tests/[\w/]+\.py)(?:::(\w+))?`", re.MULTILINE)


def promises() -> dict[str, list[tuple[str, str]]]:
    """(file, test) of each promise, by its id."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^(?=## )", PAGE, flags=re.MULTILINE)[1:]:
        heading = HEADING.match(section)
        if heading is not None:
            assert heading[1] not in found, f"{heading[1]} is there twice"
            found[heading[1]] = [(file, name) for file, name in NAMED.findall(section) if name]
    return found


def names_in(path: Path) -> set[str]:
    """The names of the tests in a file; a state machine's is that of its assigned case."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.startswith(("test_", "Test"))}


def missing(named: list[tuple[str, str]]) -> list[str]:
    """Those of (file, test) that are not there."""
    return [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or name not in names_in(ROOT / file)
    ]


def pains() -> list[tuple[str, list[str]]]:
    """(id, cells) of each row: the pain, what happens here, the tests, where it was seen."""
    return [(row[1], row[2].split(" | ")) for row in ROW.finditer(PAINS)]


def test_the_promises_are_numbered() -> None:
    assert list(promises()) == [f"P{number}" for number in range(1, len(promises()) + 1)]
    assert len(promises()) == 8


@pytest.mark.parametrize(("promise", "named"), promises().items(), ids=promises())
def test_every_promise_is_kept_by_tests_that_exist(
    promise: str, named: list[tuple[str, str]]
) -> None:
    assert named, f"no test keeps {promise}"
    assert not missing(named), f"{promise} names tests that are not there"


def test_every_whole_daemon_test_file_keeps_a_promise_or_says_why_not() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "e2e").glob("test_*.py")}
    named = {file for file, _ in NAMED.findall(PAGE)}
    assert files <= named, "name them in spec/promises.md"


def test_every_pain_has_an_id_of_its_own() -> None:
    ids = [pain for pain, _ in pains()]
    assert len(ids) > 50
    assert len(ids) == len({*ids})
    rows = [line for line in PAINS.splitlines() if line.startswith("| ") and "| id |" not in line]
    assert len(rows) == len(ids), "a row is not read"


@pytest.mark.parametrize(("pain", "cells"), pains(), ids=[pain for pain, _ in pains()])
def test_every_pain_is_answered_by_tests_that_exist(pain: str, cells: list[str]) -> None:
    suffered, happens, kept_by, _seen_in = cells
    assert suffered.strip()
    assert happens.strip()
    named = TEST.findall(kept_by)
    assert named, f"no test answers {pain}"
    assert not missing(named), f"{pain} names tests that are not there"
