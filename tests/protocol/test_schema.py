"""The rendered files of `spec/`, and that the pages written by hand agree with the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tertulia_protocol import errors, schema
from tertulia_protocol.config import FIELDS
from tertulia_protocol.events import EVENTS
from tertulia_protocol.methods import METHODS

SPEC = Path(__file__).parents[2] / "spec"


def references(document: Any) -> set[str]:
    if isinstance(document, dict):
        own = {document["$ref"]} if isinstance(document.get("$ref"), str) else set()
        return own.union(*(references(value) for value in document.values()))
    if isinstance(document, list):
        return set().union(*(references(value) for value in document))
    return set()


def at(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_the_files_are_what_the_code_renders() -> None:
    assert schema.stale(SPEC) == []


@pytest.mark.parametrize(
    "document", [schema.openrpc(), schema.event_schema()], ids=["rpc", "events"]
)
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = references(document)
    assert found
    for reference in found:
        assert isinstance(at(document, reference), dict)


def test_every_method_is_in_the_document() -> None:
    assert [method["name"] for method in schema.openrpc()["methods"]] == list(METHODS)


def test_a_required_param_says_so() -> None:
    methods = {method["name"]: method for method in schema.openrpc()["methods"]}
    required = {p["name"] for p in methods["session.send"]["params"] if p["required"]}
    assert required == {"sessionId", "prompt"}


@pytest.mark.parametrize("name", ["create", "resume"])
def test_every_field_of_a_config_is_in_the_document_with_its_standing(name: str) -> None:
    methods = {method["name"]: method for method in schema.openrpc()["methods"]}
    params = {p["name"]: p["x-standing"] for p in methods[f"session.{name}"]["params"]}
    wanted = {n: f.standing for n, f in FIELDS.items() if f.on in (None, name)}
    assert params == wanted


def test_every_event_is_in_the_schema() -> None:
    types = [one["properties"]["type"]["const"] for one in schema.event_schema()["oneOf"]]
    assert types == list(EVENTS)


def test_the_page_of_the_wire_names_every_error() -> None:
    page = (SPEC / "wire.md").read_text("utf-8")
    rows = re.findall(r"^\| (-\d+) \|(?: `(\w+)`)? ", page, re.M)
    plain = {(str(code), "") for code in schema.UNCLASSED}
    assert len(rows) == len(set(rows))
    kinds = {(str(cls.default_code), kind) for kind, cls in errors.BY_KIND.items()}
    assert set(rows) == plain | kinds


def test_the_page_of_the_wire_names_events_that_exist() -> None:
    page = (SPEC / "wire.md").read_text("utf-8")
    order = page[page.index("## The order of a turn") :]
    named = set(re.findall(r"`((?:session|assistant|user|model|pending_messages)\.\w+)`", order))
    assert named - {"session.send"} <= set(EVENTS)
    assert {"user.message", "assistant.message", "session.idle", "session.error"} <= named


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tertulia_protocol.schema", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_writes_the_files_and_notices_a_stale_one(tmp_path: Path) -> None:
    assert run(str(tmp_path)).returncode == 0
    assert run("--check", str(tmp_path)).returncode == 0
    document = tmp_path / "openrpc.json"
    changed = json.loads(document.read_text("utf-8"))
    changed["methods"].pop()
    document.write_text(json.dumps(changed), "utf-8")
    stale = run("--check", str(tmp_path))
    assert stale.returncode == 1
    assert "openrpc.json" in stale.stderr


@pytest.mark.parametrize("arguments", [(), ("--wrong",), ("a", "b")])
def test_the_command_says_how_it_is_used(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "usage" in ended.stderr
