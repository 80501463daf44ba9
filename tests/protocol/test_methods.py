"""The methods: how params are read, what is refused and where, and what the page says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia_protocol import attachments
from tertulia_protocol.config import SessionConfig
from tertulia_protocol.errors import InvalidParams
from tertulia_protocol.methods import METHODS, decode
from tertulia_protocol.methods.session import NO_CAPABILITIES, SessionOpened

SPEC = Path(__file__).parents[2] / "spec"
RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "recorded_requests.jsonl")
    .read_text()
    .splitlines()
]
NAMES = [
    "connect",
    "ping",
    "status.get",
    "auth.getStatus",
    "models.list",
    "session.create",
    "session.resume",
    "session.list",
    "session.getMetadata",
    "session.getLastId",
    "session.delete",
    "session.destroy",
    "session.detach",
    "session.send",
    "session.sendAndWait",
    "session.abort",
    "session.getMessages",
    "session.log",
    "session.model.switchTo",
    "session.model.getCurrent",
    "session.name.get",
    "session.name.set",
    "session.options.update",
    "session.eventLog.registerInterest",
    "session.eventLog.releaseInterest",
    "session.getForeground",
    "session.setForeground",
    "runtime.shutdown",
    "rpc.discover",
]


def named(group: str) -> list[str]:
    return [method.name for method in METHODS.values() if method.group == group]


def fault(method: str, raw: Any) -> tuple[str, str]:
    """The path and the message of the refusal of `raw`: bytes, or a value to encode."""
    body = raw if isinstance(raw, bytes) else msgspec.json.encode(raw)
    with pytest.raises(InvalidParams) as refused:
        decode(METHODS[method], body)
    assert refused.value.data is not None
    path = refused.value.data["path"]
    assert refused.value.message.startswith(f"{path}: ")
    return path, refused.value.message


def test_the_registry_holds_the_methods_that_are_answered() -> None:
    assert list(METHODS) == NAMES + named("library") + named("log") + named("sessions")
    in_a_task = {m.name for m in METHODS.values() if m.runs == "in a task"}
    assert in_a_task & set(NAMES) == {"models.list"}
    assert in_a_task >= {"session.eventLog.read"}


@pytest.mark.parametrize(
    "raw", [None, b"", b"null", b" {} ", b"[]", b"[null]", b"[{}]", b" [ {} ]"]
)
def test_nothing_stands_for_an_empty_object(raw: bytes | None) -> None:
    assert decode(METHODS["ping"], raw).message is None


@pytest.mark.parametrize(
    "raw", [b'{"message":"m"}', b'[{"message":"m"}]', b'{"message":"m","x":1}']
)
def test_params_are_read_by_name_and_unknown_ones_passed_over(raw: bytes) -> None:
    assert decode(METHODS["ping"], msgspec.Raw(raw)).message == "m"


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda request: request["method"])
def test_what_the_sdks_were_recorded_sending_is_taken(recorded: dict[str, Any]) -> None:
    params = decode(METHODS[recorded["method"]], msgspec.json.encode(recorded["params"]))
    assert isinstance(params, METHODS[recorded["method"]].params)


FAULTS: list[tuple[str, Any, str]] = [
    ("session.create", {"model": 5}, "$.model"),
    ("session.create", {"sessionId": ""}, "$.sessionId"),
    ("session.create", {"sessionId": "a/b"}, "$.sessionId"),
    ("session.create", {"ifExists": "maybe"}, "$.ifExists"),
    ("session.create", {"systemMessage": {"mode": "shout"}}, "$.systemMessage.mode"),
    ("session.create", {"systemMessage": "be kind"}, "$.systemMessage"),
    ("session.create", {"tools": [{"name": "a"}, {"description": "b"}]}, "$.tools[1].name"),
    ("session.create", {"tools": [{"name": ""}]}, "$.tools[0].name"),
    ("session.create", {"provider": {"type": "openai"}}, "$.provider.baseUrl"),
    ("session.create", {"provider": {"baseUrl": 8}}, "$.provider.baseUrl"),
    ("session.resume", {}, "$.sessionId"),
    ("session.resume", {"sessionId": "s", "streaming": "yes"}, "$.streaming"),
    ("session.send", {"prompt": "p"}, "$.sessionId"),
    ("session.send", {"sessionId": "s"}, "$.prompt"),
    ("session.send", {"sessionId": "s", "prompt": None}, "$.prompt"),
    ("session.send", {"sessionId": "s", "prompt": ""}, "$.prompt"),
    ("session.send", {"sessionId": "s", "prompt": "", "attachments": []}, "$.prompt"),
    ("session.send", {"sessionId": "s", "prompt": "p", "mode": "soon"}, "$.mode"),
    ("session.send", {"sessionId": "s", "prompt": "p", "attachments": [1]}, "$.attachments[0]"),
    (
        "session.send",
        {"sessionId": "s", "prompt": "p", "attachments": [{"type": "file", "path": "a"}, {}]},
        "$.attachments[1].type",
    ),
    (
        "session.send",
        {"sessionId": "s", "prompt": "p", "attachments": [{"type": "file", "path": 3}]},
        "$.attachments[0].path",
    ),
    ("session.send", {"sessionId": "..", "prompt": "p"}, "$.sessionId"),
    ("session.abort", {"sessionId": "s", "reason": "bored"}, "$.reason"),
    ("session.delete", {"sessionId": "../../etc"}, "$.sessionId"),
    ("session.getMetadata", {"sessionId": "x" * 300}, "$.sessionId"),
    ("session.list", {"filter": 3}, "$.filter"),
    ("session.list", {"filter": {"cwd": 3}}, "$.filter.cwd"),
    ("session.log", {"sessionId": "s", "message": "m", "level": "loud"}, "$.level"),
    ("session.name.set", {"sessionId": "s", "name": " \t"}, "$.name"),
    ("ping", 3, "$"),
    ("ping", "hello", "$"),
    ("ping", True, "$"),
    ("ping", [1], "$"),
    ("ping", [{}, {}], "$"),
    ("ping", {"message": ["a"]}, "$.message"),
    ("ping", b'{"message":"\xff"}', "$"),
    ("ping", b'{"message"', "$"),
    ("ping", b"[" * 20_000 + b"]" * 20_000, "$"),
    ("ping", b'{"unknown":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "$"),
    ("session.create", b'{"cloud":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "$"),
]


@pytest.mark.parametrize(("method", "raw", "path"), FAULTS)
def test_a_fault_is_answered_with_its_path(method: str, raw: Any, path: str) -> None:
    assert fault(method, raw)[0] == path


@pytest.mark.parametrize(
    ("method", "raw", "words"),
    [
        ("session.create", {"model": 5}, "$.model: a string is expected, not an integer."),
        ("session.resume", {}, "$.sessionId: is missing."),
        ("session.list", {"filter": []}, "$.filter: an object is expected, not an array."),
        ("session.create", {"streaming": 1}, "$.streaming: true or false is expected, not"),
        ("session.send", {"sessionId": "s", "prompt": "p", "mode": "q"}, "none of the values"),
        ("session.name.set", {"sessionId": "s", "name": ""}, "empty"),
    ],
)
def test_a_fault_is_told_in_words(method: str, raw: Any, words: str) -> None:
    assert words in fault(method, raw)[1]


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("session.create", {"systemMessage": {"mode": SECRET}}),
        ("session.create", {"provider": SECRET}),
        ("session.create", {"provider": {"apiKey": SECRET}}),
        ("session.create", {"provider": {"baseUrl": "http://x", "headers": [SECRET]}}),
        ("connect", {"token": [SECRET]}),
        ("session.send", {"sessionId": SECRET + "/", "prompt": "p"}),
    ],
)
def test_a_fault_repeats_no_value(method: str, raw: Any) -> None:
    assert SECRET not in fault(method, raw)[1]


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("connect", {"token": SECRET}),
        ("session.send", {"sessionId": "s", "prompt": "p", "requestHeaders": {"k": SECRET}}),
        ("session.create", {"provider": {"baseUrl": "http://x", "apiKey": SECRET}}),
        ("session.create", {"mcpServers": {"m": {"env": {"KEY": SECRET}}}}),
        ("session.create", {"gitHubToken": SECRET}),
    ],
)
def test_params_show_no_secret_when_they_are_printed(method: str, raw: Any) -> None:
    params = decode(METHODS[method], msgspec.json.encode(raw))
    assert SECRET not in f"{params!r} {params}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = sorted(
    {field.encode_name for m in METHODS.values() for field in msgspec.structs.fields(m.params)}
)


def typed_or_refused(method: str, raw: bytes) -> bool:
    """Nothing else may come out of `decode`."""
    try:
        decoded = decode(METHODS[method], raw)
    except InvalidParams as refused:
        return refused.data is not None and refused.data["path"].startswith("$")
    return isinstance(decoded, METHODS[method].params)


@settings(deadline=None)
@given(method=st.sampled_from(NAMES), params=JSON | st.dictionaries(st.sampled_from(MEMBERS), JSON))
def test_any_params_are_typed_or_refused_with_a_path(method: str, params: Any) -> None:
    assert typed_or_refused(method, json.dumps(params).encode())


@settings(deadline=None)
@given(method=st.sampled_from(NAMES), raw=st.binary(max_size=64))
def test_any_bytes_are_typed_or_refused(method: str, raw: bytes) -> None:
    assert typed_or_refused(method, raw)


@pytest.mark.parametrize(
    "attachment",
    [
        {"type": "file", "path": "/p/a.py", "lineRange": {"start": 1, "end": 2}},
        {"type": "directory", "path": "/p"},
        {"type": "selection", "filePath": "a.py", "text": "x = 1"},
        {"type": "blob", "mimeType": "image/png", "data": "AAAA"},
        {"type": "github_reference", "number": 3, "title": "t"},
        {"type": "of_a_later_version", "anything": {"deep": [1]}},
    ],
    ids=lambda attachment: attachment["type"],
)
def test_every_kind_of_attachment_is_kept_whole(attachment: dict[str, Any]) -> None:
    raw = {"sessionId": "s", "prompt": "", "attachments": [attachment]}
    params = decode(METHODS["session.send"], msgspec.json.encode(raw))
    assert params.attachments == [attachment]
    known = type(attachments.view(attachment)) is not attachments.OtherAttachment
    assert known is (attachment["type"] in attachments.KINDS)


@pytest.mark.parametrize(
    ("path", "name"), [("/p/a.py", "a.py"), ("C:\\p\\b.ts", "b.ts"), ("/p/dir/", "dir"), ("/", "/")]
)
def test_an_echoed_file_has_a_display_name(path: str, name: str) -> None:
    assert attachments.echoed({"type": "file", "path": path})["displayName"] == name
    given = {"type": "file", "path": path, "displayName": "mine"}
    assert attachments.echoed(given) == given


def test_the_answer_to_create_says_what_the_sdks_test_for() -> None:
    opened = SessionOpened(
        session_id="s",
        start_time="2026-01-02T03:04:05Z",
        is_remote=False,
        mode="interactive",
        capabilities=NO_CAPABILITIES,
    )
    assert msgspec.to_builtins(opened) == {
        "sessionId": "s",
        "startTime": "2026-01-02T03:04:05Z",
        "isRemote": False,
        "mode": "interactive",
        "capabilities": {
            "ui": {"elicitation": False, "mcpApps": False, "canvases": False},
            "extensions": False,
        },
    }


def test_an_options_patch_is_a_config() -> None:
    raw = {
        "sessionId": "s",
        "availableTools": [],
        "enableStreaming": True,
        "modelCapabilitiesOverrides": {"limits": {"max_output_tokens": 9}},
        "installedPlugins": [],
        "skipCustomInstructions": True,
    }
    patch = decode(METHODS["session.options.update"], msgspec.json.encode(raw)).patch()
    assert msgspec.to_builtins(patch) == {
        "availableTools": [],
        "streaming": True,
        "modelCapabilities": {"limits": {"max_output_tokens": 9}},
    }


SECTION = re.compile(
    r"^## `(?P<name>[^`]+)`\n\n- params: (?P<params>.*)\n- result: (?P<result>.*)$", re.M
)


def members(kind: Any) -> str:
    """The members of a params or result, as the page writes them."""
    if kind is None:
        return "null"
    if get_origin(kind) is list:
        return "an array"
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return "an object"
    if issubclass(kind, SessionConfig):
        return "see [session-fields.md](session-fields.md)"
    fields = msgspec.structs.fields(kind)
    return ", ".join(f"`{f.encode_name}`{'' if f.required else '?'}" for f in fields) or "none"


PAGES = {
    "methods.md": NAMES,
    "methods-library.md": named("library"),
    "methods-log.md": named("log"),
    "methods-sessions.md": named("sessions"),
}


@pytest.mark.parametrize("name", PAGES)
def test_every_method_has_its_section_in_its_page(name: str) -> None:
    page = (SPEC / name).read_text("utf-8")
    assert re.findall(r"^## `([^`]+)`", page, re.M) == PAGES[name]


def test_every_section_has_the_members_of_its_method() -> None:
    page = "\n".join((SPEC / name).read_text("utf-8") for name in PAGES)
    sections = {s["name"]: (s["params"], s["result"]) for s in SECTION.finditer(page)}
    assert sections == {m.name: (members(m.params), members(m.result)) for m in METHODS.values()}
