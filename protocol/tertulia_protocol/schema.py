"""Renders what the registry holds: the OpenRPC document, the event schema, the page of fields.

The functions are pure and their output depends on the code alone, so that the files in `spec/` can
be compared with it. `python -m tertulia_protocol.schema SPEC_DIR` writes them, `--check` compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from tertulia_protocol import PROTOCOL_VERSION, errors, session_id
from tertulia_protocol.config import FIELDS, Field, SessionConfig
from tertulia_protocol.events import EVENTS, NOTIFICATIONS, EventType
from tertulia_protocol.methods import METHODS, Method

Json = dict[str, Any]

UNCLASSED = {
    errors.PARSE_ERROR: "parse error",
    errors.INVALID_REQUEST: "invalid request",
    errors.INTERNAL_ERROR: "internal error",
    errors.REQUEST_CANCELLED: "request cancelled",
}
"""Codes that are answered without `data.kind`."""


def openrpc() -> Json:
    """The OpenRPC 1.3 document of `METHODS`: what `rpc.discover` answers."""
    types = [method.params for method in METHODS.values()]
    types += [method.result for method in METHODS.values() if method.result is not None]
    types += [note.params for note in NOTIFICATIONS.values()]
    schemas, components = _schemas(types, "#/components/schemas/{name}")
    params = {method.params.__name__ for method in METHODS.values()}
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "Tertulia",
            "description": "Conversations with language models, over JSON-RPC 2.0.",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "license": {"name": "MIT"},
        },
        "methods": [_method(method, schemas, components) for method in METHODS.values()],
        "x-notifications": [
            {"name": note.name, "summary": note.summary, "params": schemas[note.params]}
            for note in NOTIFICATIONS.values()
        ],
        "components": {
            "schemas": {n: s for n, s in components.items() if n not in params},
            "errors": _errors(),
        },
    }


def _schemas(types: Iterable[Any], template: str) -> tuple[dict[Any, Json], dict[str, Json]]:
    """The JSON schema of each type, and the components that they refer to, by name."""
    distinct = [kind for kind in dict.fromkeys(types) if kind != dict[str, Any]]
    found, components = msgspec.json.schema_components(distinct, ref_template=template)
    schemas: dict[Any, Json] = dict(zip(distinct, found, strict=True))
    schemas[dict[str, Any]] = {"type": "object"}
    return schemas, {name: _described(components[name]) for name in sorted(components)}


def _described(component: Json) -> Json:
    """Its docstring without the code's indentation, which msgspec before 0.23 leaves in."""
    if "description" not in component:
        return component
    return {**component, "description": cleandoc(component["description"])}


def _method(method: Method, schemas: dict[Any, Json], components: dict[str, Json]) -> Json:
    result = {"type": "null"} if method.result is None else schemas[method.result]
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": _params(method, components[method.params.__name__]),
        "result": {"name": "result", "schema": result},
    }


def _params(method: Method, schema: Json) -> list[Json]:
    """The params as OpenRPC's content descriptors; those of a config are documented by `FIELDS`."""
    required = schema.get("required", [])
    known = {
        name: {"name": name, "required": name in required, "schema": _param(name, found)}
        for name, found in schema.get("properties", {}).items()
    }
    if not issubclass(method.params, SessionConfig):
        return list(known.values())
    return [
        {**known.get(name, {"name": name, "required": False, "schema": {}}), **_standing(field)}
        for name, field in FIELDS.items()
        if field.on in (None, method.name.removeprefix("session."))
    ]


def _param(name: str, schema: Json) -> Json:
    if name == "sessionId" and "anyOf" not in schema:
        return {**schema, "pattern": f"^{session_id.PATTERN}$"}
    return schema


def _standing(field: Field) -> Json:
    return {"description": field.note, "x-standing": field.standing}


def _errors() -> Json:
    plain = {
        words.replace(" ", "_"): {"code": code, "message": words}
        for code, words in UNCLASSED.items()
    }
    kinds = {
        kind: {
            "code": cls.default_code,
            "message": kind.replace("_", " "),
            "data": {"kind": kind},
        }
        for kind, cls in errors.BY_KIND.items()
    }
    return plain | kinds


def event_schema() -> Json:
    """The JSON schema of one event as `session.event` carries it."""
    schemas, components = _schemas((event.data for event in EVENTS.values()), "#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Session event",
        "description": "One event of a session, in its envelope. Other types may be added.",
        "oneOf": [_event(event, schemas[event.data]) for event in EVENTS.values()],
        "$defs": components,
    }


def _event(event: EventType, data: Json) -> Json:
    properties: Json = {
        "type": {"const": event.type},
        "id": {"type": "string", "format": "uuid"},
        "timestamp": {"type": "string", "format": "date-time"},
        "parentId": {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]},
        "ephemeral": {"const": True} if event.ephemeral else {"type": "boolean"},
        "data": data,
    }
    optional = () if event.ephemeral else ("ephemeral",)
    return {
        "description": event.doc,
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def session_fields() -> str:
    """The page of the fields of `session.create` and `session.resume`."""
    rows = [
        f"| `{name}` | {field.standing} | {field.on or 'both'} | {field.note} |"
        for name, field in FIELDS.items()
    ]
    return "\n".join((*_FIELDS_HEAD, *rows, ""))


_FIELDS_HEAD = (
    "# The fields of `session.create` and `session.resume`",
    "",
    "Generated from the code (`python -m tertulia_protocol.schema spec`); do not edit.",
    "",
    "- *used*: it does what the note says.",
    "- *ignored*: accepted and not read; the note says why that harms nobody.",
    "- *refused*: taken where it asks for nothing (absent, null, false, empty, or the value that",
    "  the note allows); otherwise the call fails: `not_supported`, with the note as message.",
    "",
    "Fields that are not in this table are passed over.",
    "",
    "| field | standing | on | note |",
    "|---|---|---|---|",
)


def _json(document: Json) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "openrpc.json": lambda: _json(openrpc()),
    "events.schema.json": lambda: _json(event_schema()),
    "session-fields.md": session_fields,
}
"""What is rendered, by the name of its file in `spec/`."""


def stale(folder: Path) -> list[str]:
    """The names of the files in `folder` that differ from what the code renders."""
    return [
        name
        for name, render in FILES.items()
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != render()
    ]


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` name the stale ones on stderr. 0, 1 stale, 2 usage."""
    folders = [argument for argument in arguments if argument != "--check"]
    if len(folders) != 1 or folders[0].startswith("-"):
        sys.stderr.write("usage: python -m tertulia_protocol.schema [--check] SPEC_DIR\n")
        return 2
    folder = Path(folders[0])
    if "--check" in arguments:
        names = stale(folder)
        sys.stderr.writelines(f"{folder / name} is stale: render it again\n" for name in names)
        return 1 if names else 0
    for name, render in FILES.items():
        (folder / name).write_text(render(), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
