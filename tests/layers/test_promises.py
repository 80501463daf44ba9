"""`spec/promises.md` and the tests agree: what is promised is tested, and the tests are named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "spec" / "promises.md").read_text()
HEADING = re.compile(r"^## (P\d+): (.+)$", re.MULTILINE)
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


def test_the_promises_are_numbered() -> None:
    assert list(promises()) == [f"P{number}" for number in range(1, len(promises()) + 1)]
    assert len(promises()) == 8


@pytest.mark.parametrize(("promise", "named"), promises().items(), ids=promises())
def test_every_promise_is_kept_by_tests_that_exist(
    promise: str, named: list[tuple[str, str]]
) -> None:
    assert named, f"no test keeps {promise}"
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or name not in names_in(ROOT / file)
    ]
    assert not missing, f"{promise} names tests that are not there: {missing}"


def test_every_whole_daemon_test_file_keeps_a_promise_or_says_why_not() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "e2e").glob("test_*.py")}
    named = {file for file, _ in NAMED.findall(PAGE)}
    assert files <= named, "name them in spec/promises.md"
