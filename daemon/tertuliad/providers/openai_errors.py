"""From a refusal in the chat completions format to `ProviderFailed`. Pure.

The kind is read from the status, then from `error.code` and `error.type`, then from words of the
text, as servers agree on little else. The server's text is shown to people cut and without the
secrets that went out with the call: some servers repeat the key.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from tertuliad import limits
from tertuliad.providers.base import SHORTER, FailureKind, ProviderFailed

SECRET_MIN_CHARS = 4  # shorter ones would blot out ordinary words

# Compiled when they are first needed, as `re` does: all of them together would take 5 ms.
_CONTEXT = (
    r"(?i)context[_ ](length|window|size)|maximum context|exceed_context_size|too many tokens"
    r"|(prompt|input|request) is too (long|large)|input length|reduce the length"
    r"|maximum (prompt|number of) (length|tokens|input tokens)|token limit"
)
_NO_MODEL = (
    r"(?is)model_not_found|unknown[_ ]model|invalid[_ ]model|no such model|not a valid model"
    r"|model\b.{0,200}\b(not found|does not exist|not exist|is not available|not supported)"
)
_BAD_KEY = r"(?i)invalid_api_key|incorrect api key|api key (is )?(not valid|invalid)"
_NO_CREDIT = r"(?i)insufficient|billing|credit|balance|payment"
_ALTERNATION = rb"(?i)alternat(?!iv)|interleav"  # the template's words, or a service's
_TITLE = r"(?is)<title[^>]*>(.*?)</title>"

_HINTS: dict[FailureKind, str] = {
    "authentication": "Check the provider's key, and what it is allowed to use.",
    "rate_limit": "Wait a little, then send the message again.",
    "quota": "The account is out of credit: check its plan and billing.",
    "context_window": f"The conversation is too long for this model. {SHORTER}",
    "model_not_found": "Check the model's name.",
    "server_error": "The fault is the server's: send the message again later.",
}
_RETRYABLE = frozenset({"rate_limit", "server_error", "timeout"})


class ErrorDetail(msgspec.Struct, frozen=True):
    """What a server said about its refusal; `status` where the text itself names one."""

    message: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None

    @property
    def words(self) -> str:
        return f"{self.code} {self.type} {self.message}"


def refused(
    where: str,
    status: int,
    body: bytes,
    *,
    retry_after: str | None = None,
    secrets: Iterable[str] = (),
) -> ProviderFailed:
    """The failure for an HTTP `status` that is no success; `retry_after` is the header's value."""
    detail = read_error(body)
    return _failure(where, status, detail, seconds_of(retry_after), secrets)


def reported(where: str, error: Any, *, secrets: Iterable[str] = ()) -> ProviderFailed:
    """The failure for an error object that came inside an answer that began well."""
    detail = _detail(error)
    return _failure(where, detail.status, detail, None, secrets)


def read_error(body: bytes) -> ErrorDetail:
    """What the body of a refusal says, whatever its format."""
    text = body.decode("utf-8", "replace").strip()
    try:
        decoded = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return ErrorDetail(_plain(text))
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    if isinstance(decoded, dict):
        return _detail(decoded.get("error") or decoded)
    return _detail(decoded)


def wants_alternation(body: bytes) -> bool:
    """Whether the body of a refusal speaks of roles that have to take turns."""
    return re.search(_ALTERNATION, body) is not None


def seconds_of(retry_after: str | None, *, now: datetime | None = None) -> float | None:
    """The seconds that a `retry-after` header asks for, given as a number or as a date."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):  # the latter of its zone
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), limits.TOLD_WAIT_S)


def _detail(error: Any) -> ErrorDetail:
    if not isinstance(error, dict):
        return ErrorDetail(_plain(str(error)) if error else "")
    message = error.get("message") or error.get("detail") or error.get("error") or ""
    code = error.get("code")
    status = error.get("status")
    return ErrorDetail(
        message=_plain(message if isinstance(message, str) else str(message)),
        code=code if isinstance(code, str) else "",
        type=str(error.get("type") or (status if isinstance(status, str) else "")),
        status=next((n for n in (code, status) if isinstance(n, int) and 400 <= n < 600), None),
    )


def _plain(text: str) -> str:
    """`text` on one line; of a web page only its title."""
    if text[:1] == "<":
        title = re.search(_TITLE, text)
        import html  # 2 ms at the start, for what is rare

        text = f"a web page titled {html.unescape(title[1])!r}" if title else "a web page"
    return " ".join(text.split())[: limits.MODEL_ERROR_CHARS]


def _failure(
    where: str,
    status: int | None,
    detail: ErrorDetail,
    retry_after: float | None,
    secrets: Iterable[str],
) -> ProviderFailed:
    kind = _kind(status, detail, retry_after)
    said = f": {_without(detail.message, secrets).rstrip('.')}" if detail.message else ""
    http = f" (HTTP {status})" if status is not None else ""
    hint = _HINTS.get(kind, "")
    if kind == "invalid_request" and status == 404:
        hint = "Check the provider's base URL: it usually ends in /v1."
    return ProviderFailed(
        kind,
        f"{where} refused the request{http}{said}. {hint}".strip(),
        status=status,
        code=_without(detail.code or detail.type, secrets) or None,
        retryable=kind in _RETRYABLE,
        retry_after=retry_after,
    )


def _kind(status: int | None, detail: ErrorDetail, retry_after: float | None) -> FailureKind:
    words = detail.words
    if status in (401, 403) or (status == 400 and re.search(_BAD_KEY, words)):
        return "authentication"
    if status == 402:
        return "quota"
    if status == 429 or (status is None and "rate_limit" in words):
        out_of_credit = retry_after is None and re.search(_NO_CREDIT, words)
        return "quota" if out_of_credit else "rate_limit"
    if status == 408:
        return "timeout"
    if re.search(_CONTEXT, words) and (status is None or status < 500 or "context" in detail.type):
        return "context_window"
    if status is None or status >= 500:
        return "server_error"
    return "model_not_found" if re.search(_NO_MODEL, words) else "invalid_request"


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if len(secret) >= SECRET_MIN_CHARS:
            for form in sorted(_forms_of(secret), key=len, reverse=True):
                text = text.replace(form, "[secret]")
    return text


def _forms_of(secret: str) -> set[str]:
    """As it is, and as servers repeat it inside of JSON, a URL, a page or a header. What else one
    may make of it is not known here."""
    from html import escape
    from urllib.parse import quote, quote_plus

    plain = secret.encode("utf-8", "replace")
    in_json = {
        json.dumps(plain.decode(), ensure_ascii=only_ascii)[1:-1] for only_ascii in (False, True)
    }
    in_json |= {form.replace("/", "\\/") for form in in_json}
    in_json |= {json.dumps(form)[1:-1] for form in in_json}  # JSON inside of JSON
    in_urls = {quote(plain), quote(plain, safe=""), quote_plus(plain)}
    in_urls |= {re.sub("%..", lambda code: code[0].lower(), form) for form in in_urls}
    in_base64 = base64.b64encode(plain).decode().rstrip("=")
    return {secret, escape(secret), in_base64, *in_json, *in_urls}
