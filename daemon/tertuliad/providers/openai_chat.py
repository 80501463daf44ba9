"""Chat completions over HTTP: one OpenAI-compatible endpoint as a `base.Provider`.

The answer's content type decides how it is read, as some servers ignore `stream`. Nothing is tried
again here, but for two things: a server that refuses `stream_options` is asked without, and one
that refuses two messages of one role behind each other is asked with such joined into one, from
then on. The caller's headers and the key are sent and never shown; a failure's text is cleared of
them.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from urllib.parse import unquote

import anyio
import msgspec

from tertulia_protocol.provider_config import parted, public_url
from tertuliad import limits
from tertuliad.providers.base import ANOTHER_TRY, HEARD, Delta, Done, ModelRequest, ProviderFailed
from tertuliad.providers.http import Answer, Http
from tertuliad.providers.openai_answer import StreamedAnswer, whole_answer
from tertuliad.providers.openai_errors import refused, wants_alternation
from tertuliad.providers.openai_wire import ListedModel, decode_models, encode_request, joined

_OPENAI = "https://api.openai.com/"  # its newer models refuse `max_tokens`
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_AUTHORIZATION = ("authorization", "proxy-authorization")
_RESERVED = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})


class OpenAIChat:
    """One endpoint. Holds its key in memory only; `repr` and failures show none."""

    def __init__(
        self,
        name: str,
        base_url: str,
        http: Http,
        *,
        api_key: str | None = None,
        bearer_token: str | None = None,
        headers: Mapping[str, str] | None = None,
        called: str | None = None,
    ) -> None:
        """`called` is how failures name it, instead of by its name."""
        self.name = name
        self._called = called or f"Provider {name!r}"
        self._http = http
        root, userinfo, query = self._parts = parted(base_url.strip())
        self._authorization = _bearer(bearer_token or api_key) or _basic(userinfo)
        self._chat_url = _under(root, "chat/completions", query)
        self._headers = dict(headers or {})
        given = [api_key, bearer_token, _credentials(self._authorization or "")]
        for name, value in self._headers.items():
            given.append(_credentials(value) if name.lower() in _AUTHORIZATION else value)
        self._secrets = [word for value in given if value for word in value.split()]
        openai = root.lower().startswith(_OPENAI)
        self._completion_limit = "max_completion_tokens" if openai else "max_tokens"
        self._ask_usage = True
        self._join = False

    @functools.cached_property
    def _where(self) -> str:
        return f"{self._called} at {public_url(self._chat_url)}"

    @functools.cached_property
    def _models_url(self) -> str:
        root, _, query = self._parts
        return _under(root, "models", query)

    def __repr__(self) -> str:
        return f"OpenAIChat({self.name!r}, {public_url(self._chat_url)!r})"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta | Done, None]:
        """See `base.Provider.stream`. Closing the generator closes the connection."""
        with await self._asked(request) as answer:
            if answer.content_type == "application/json" or not request.stream:
                delta, done = await self._whole(answer, request)
                if delta is not None:
                    yield delta
                yield done
                return
            self._expect_events(answer)
            reader = StreamedAnswer(self._where, self._secrets_of(request))
            while not reader.complete and (data := await _more(answer, reader)):
                yield reader.feed(data) or HEARD
            delta, done = reader.end()
            if delta is not None:
                yield delta
            yield done
            await _run_out(answer)

    async def models(self) -> list[ListedModel]:
        """What GET /models lists, within `MODELS_LIST_TIMEOUT_S`. Raises `ProviderFailed`."""
        with anyio.move_on_after(limits.MODELS_LIST_TIMEOUT_S):
            headers = self._merged({"accept": "application/json"}, {})
            with await self._http.ask("GET", self._models_url, headers=headers) as answer:
                body, _ = await answer.read_all(limits.MODEL_LINE_BYTES)
            if answer.status != 200:
                raise self._refusal(answer, body, self._secrets)
            try:
                return decode_models(body)
            except (ValueError, RecursionError):
                raise ProviderFailed(
                    "bad_response",
                    f"{public_url(self._models_url)} does not answer with a list of models.",
                ) from None
        raise ProviderFailed(
            "timeout",
            f"{public_url(self._models_url)} did not answer within"
            f" {limits.MODELS_LIST_TIMEOUT_S:g} s.",
        )

    async def _asked(self, request: ModelRequest) -> Answer:
        """The answer to `request`, if it is a success. Raises `ProviderFailed`."""
        headers = self._merged(
            {
                "content-type": "application/json",
                "accept": "text/event-stream" if request.stream else "application/json",
                "user-agent": request.user_agent,
            },
            request.headers,
        )
        while True:
            usage, join = self._ask_usage, self._join
            if join:
                request = msgspec.structs.replace(request, messages=joined(request.messages))
            body = encode_request(request, usage=usage, completion_limit=self._completion_limit)
            answer = await self._http.ask("POST", self._chat_url, headers=headers, body=body)
            if 200 <= answer.status < 300:
                return answer
            with answer:
                said, _ = await answer.read_all(limits.MODEL_ERROR_BODY_BYTES)
            if usage and request.stream and b"stream_options" in said:
                self._ask_usage = False
            elif not join and _has_to_join(answer.status, said, request):
                self._join = True
            else:
                raise self._refusal(answer, said, self._secrets_of(request))

    async def _whole(self, answer: Answer, request: ModelRequest) -> tuple[Delta | None, Done]:
        body, complete = await answer.read_all(limits.MODEL_LINE_BYTES)
        if not complete:
            raise ProviderFailed(
                "bad_response",
                f"{self._where} sent more than {limits.MODEL_LINE_BYTES} bytes. {ANOTHER_TRY}",
            )
        return whole_answer(body, self._where, self._secrets_of(request))

    def _expect_events(self, answer: Answer) -> None:
        if answer.content_type == "text/html":
            raise ProviderFailed(
                "bad_response",
                f"{self._where} answered with a web page. Check the provider's base URL: it"
                " usually ends in /v1.",
                status=answer.status,
            )

    def _refusal(self, answer: Answer, body: bytes, secrets: Iterable[str]) -> ProviderFailed:
        return refused(
            self._where,
            answer.status,
            body,
            retry_after=answer.header("retry-after"),
            secrets=secrets,
        )

    def _secrets_of(self, request: ModelRequest) -> list[str]:
        """What went out with `request` and must not come back in a failure's text."""
        return [*self._secrets, *request.headers.values()]

    def _merged(self, ours: dict[str, str], request: Mapping[str, str]) -> dict[str, str]:
        """All headers of a call; the caller's win over ours, the request's over the provider's."""
        merged = ours | self._standing
        return merged | self._checked(request) if request else merged

    @functools.cached_property
    def _standing(self) -> dict[str, str]:
        """The headers of every call."""
        ours = {"accept-encoding": "identity"}
        if self._authorization:
            ours["authorization"] = self._authorization
        return self._checked(ours | self._headers)

    def _checked(self, headers: Mapping[str, str]) -> dict[str, str]:
        """`headers` with their names in small letters. Raises `ProviderFailed`."""
        for fault in _header_faults(headers):
            raise ProviderFailed("invalid_request", f"{self._called}: {fault}")
        return {name.lower(): value for name, value in headers.items()}


async def _run_out(answer: Answer) -> None:
    """Read what is left after the answer, so that its connection can be used again. How it ends
    does not matter any more."""
    if not answer.at_end:
        with anyio.move_on_after(limits.END_OF_BODY_S), contextlib.suppress(ProviderFailed):
            while await answer.read():
                pass


def _credentials(authorization: str) -> str:
    """What is secret of it: the name of its scheme (RFC 9110, 11.4), where it has one, is not."""
    scheme, _, rest = authorization.strip().partition(" ")
    return rest or scheme


def _basic(userinfo: str) -> str | None:
    """The authorization that a URL's user info stands for."""
    if not userinfo:
        return None
    return "Basic " + base64.b64encode(unquote(userinfo).encode()).decode()


def _bearer(token: str | None) -> str | None:
    return f"Bearer {token.strip()}" if token and token.strip() else None


def _under(root: str, method: str, query: str) -> str:
    """The address of `method`; a base URL that already names the chat method is understood."""
    place = root.rstrip("/").removesuffix("/chat/completions")
    return f"{place}/{method}{'?' if query else ''}{query}"


def _has_to_join(status: int, said: bytes, request: ModelRequest) -> bool:
    """Whether the refusal may be one of messages of one role behind each other."""
    if status < 400 or not wants_alternation(said):
        return False
    return len(joined(request.messages)) < len(request.messages)


async def _more(answer: Answer, reader: StreamedAnswer) -> bytes:
    """What comes next; nothing at the end, which some servers do not say: a model that has finished
    has a while for what it took."""
    if not reader.finished:
        return await answer.read()
    with anyio.move_on_after(limits.AFTER_FINISH_S):
        return await answer.read()
    return b""


def _header_faults(headers: Mapping[str, str]) -> Iterator[str]:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            yield f"{name!r} is no name of an HTTP header."
        elif name.lower() in _RESERVED:
            yield f"the header {name!r} is set by the connection and cannot be given."
        elif _CONTROL.search(value):
            yield f"the value of {name!r} holds a control character. Was it copied whole?"
