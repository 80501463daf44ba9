"""What servers say when they refuse, read into kinds."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertuliad import limits
from tertuliad.providers.base import FailureKind
from tertuliad.providers.openai_errors import (
    refused,
    reported,
    seconds_of,
)

OPENAI_CONTEXT = (
    b'{"error":{"message":"This model\'s maximum context length is 8192 tokens. However, your'
    b' messages resulted in 9000 tokens.","type":"invalid_request_error","param":"messages",'
    b'"code":"context_length_exceeded"}}'
)
LLAMA_CONTEXT = (
    b'{"error":{"code":400,"message":"the request exceeds the available context size",'
    b'"type":"exceed_context_size_error","n_ctx":4096}}'
)
OPENAI_QUOTA = (
    b'{"error":{"message":"You exceeded your current quota, please check your plan and billing'
    b' details.","type":"insufficient_quota","code":"insufficient_quota"}}'
)
OPENAI_NO_MODEL = (
    b'{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.",'
    b'"type":"invalid_request_error","code":"model_not_found"}}'
)
OLLAMA_NO_MODEL = (
    b'{"error":{"message":"model \\"nope\\" not found, try pulling it first","type":"api_error"}}'
)
GEMINI_KEY = b'[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, OPENAI_CONTEXT, "context_window"),
        (400, LLAMA_CONTEXT, "context_window"),
        (500, LLAMA_CONTEXT, "context_window"),
        (413, b'{"error":{"message":"prompt is too long: 300000 tokens"}}', "context_window"),
        (413, b"Payload Too Large", "invalid_request"),
        (429, OPENAI_QUOTA, "quota"),
        (429, b'{"error":{"message":"Rate limit reached for requests"}}', "rate_limit"),
        (404, OPENAI_NO_MODEL, "model_not_found"),
        (404, OLLAMA_NO_MODEL, "model_not_found"),
        (400, b'{"error":"unknown model"}', "model_not_found"),
        (404, b'{"detail":"Not Found"}', "invalid_request"),
        (400, GEMINI_KEY, "authentication"),
        (422, b'{"detail":[{"msg":"field required"}]}', "invalid_request"),
        (500, b"", "server_error"),
        (529, b'{"error":{"type":"overloaded_error"}}', "server_error"),
        (418, b"[]", "invalid_request"),
    ],
)
def test_the_kind_is_read_from_status_code_and_words(
    status: int, body: bytes, kind: FailureKind
) -> None:
    assert refused("W", status, body).kind == kind


def test_where_the_history_is_too_long_the_ways_out_are_told() -> None:
    said = refused("W", 400, OPENAI_CONTEXT).message
    for way in ("`tertulia rewind`", "session.history.rewind", "new session", "larger window"):
        assert way in said


def test_a_status_inside_a_stream_counts_as_one() -> None:
    failed = reported("W", {"code": 429, "message": "slow down"})
    assert (failed.kind, failed.status) == ("rate_limit", 429)
    assert reported("W", "it broke").kind == "server_error"


def test_of_a_web_page_only_the_title_is_shown() -> None:
    page = b"<html><head><title>502 Bad &amp; Gone</title></head><body>secret</body></html>"
    text = refused("W", 502, page).message
    assert "'502 Bad & Gone'" in text
    assert "secret" not in text


def test_a_long_text_is_cut_to_one_line() -> None:
    text = refused("W", 400, b"line\n" * 10_000).message
    assert "\n" not in text
    assert len(text) < limits.MODEL_ERROR_CHARS + 100


def test_secrets_are_cleared_from_text_and_code() -> None:
    body = b'{"error":{"message":"bad key sk-12345678","code":"sk-12345678"}}'
    failed = refused("W", 401, body, secrets=["sk-12345678"])
    assert "sk-12345678" not in f"{failed.message}{failed.code}"


SECRET = 'p"ss/word &\u00e9=='


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        json.dumps(SECRET, ensure_ascii=False),
        json.dumps(SECRET),
        json.dumps(SECRET).replace("/", "\\/"),
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote(SECRET),
        json.dumps(json.dumps(SECRET))[1:-1],
        urllib.parse.quote_plus(SECRET),
        re.sub("%..", lambda code: code[0].lower(), urllib.parse.quote(SECRET, safe="")),
        html.escape(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
    ],
    ids=[
        "as it is",
        "in JSON",
        "in ASCII",
        "with slashes",
        "in a URL",
        "in a path",
        "in JSON in JSON",
        "in a form",
        "in a URL in small letters",
        "in a page",
        "in base64",
    ],
)
def test_secrets_are_cleared_in_the_forms_that_a_server_may_show(shown: str) -> None:
    body = json.dumps({"error": {"message": f"refused: {shown}!"}}).encode()
    text = refused("W", 401, body, secrets=[SECRET]).message
    assert "refused: " in text
    assert shown.strip('\\"=') not in text


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Tue, 01 Jan 2030 00:00:30 GMT", 30.0),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0),
        ("inf", limits.TOLD_WAIT_S),
        ("nan", None),
        ("soon", None),
        ("Tue, 01 Jan 2030 00:00:30 +9999999999999999999", None),
        ("Tue, 01 Jan 2030 00:00:30 +99999999", None),
        ("Tue, 01 Jan 99999 00:00:30 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_the_wait_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert seconds_of(value, now=NOW) == seconds


@given(st.integers(400, 599), st.binary(max_size=200), st.text(max_size=20))
def test_no_body_and_no_header_breaks_the_reading(status: int, body: bytes, after: str) -> None:
    failed = refused("W", status, body, retry_after=after)
    assert failed.status == status
    assert failed.message.startswith("W refused the request")
