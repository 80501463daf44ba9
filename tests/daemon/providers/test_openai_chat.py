"""A chat completions endpoint over real HTTP: what is sent, what comes out, and every failure."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
import pytest

from tertuliad import limits
from tertuliad.limits import MODEL_LINE_BYTES
from tertuliad.providers.base import (
    Delta,
    Done,
    FailureKind,
    Image,
    Message,
    ModelRequest,
    ProviderFailed,
    RichMessage,
    ToolCall,
    ToolDeclaration,
    Usage,
)
from tertuliad.providers.http import Http
from tertuliad.providers.openai_chat import OpenAIChat
from tertuliad.providers.openai_wire import decode_chunk, joined
from tests.support.scripted_model import ScriptedModel

pytestmark = pytest.mark.anyio
KEY = "sk-very-secret-0123456789"
BOUND_S = 20


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
def chat(model: ScriptedModel, http: Http) -> OpenAIChat:
    return OpenAIChat("test", model.base_url, http, api_key=KEY)


def ask(spec: str, text: str = "hi", **more: Any) -> ModelRequest:
    return ModelRequest(model=spec, messages=[Message("user", text)], **more)


async def collect(chat: OpenAIChat, request: ModelRequest) -> tuple[list[Delta], Done]:
    with anyio.fail_after(BOUND_S):
        items = [item async for item in chat.stream(request)]
    *deltas, done = items
    assert isinstance(done, Done)
    assert all(isinstance(d, Delta) for d in deltas)
    return [d for d in deltas if isinstance(d, Delta)], done


async def text_of(chat: OpenAIChat, request: ModelRequest) -> str:
    deltas, _ = await collect(chat, request)
    return "".join(d.text for d in deltas)


async def failure(chat: OpenAIChat, request: ModelRequest) -> ProviderFailed:
    with anyio.fail_after(BOUND_S), pytest.raises(ProviderFailed) as caught:
        async for _ in chat.stream(request):
            pass
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    return caught.value


# What arrives


async def test_a_stream_gives_its_text_its_usage_and_its_end(chat: OpenAIChat) -> None:
    deltas, done = await collect(chat, ask("fake-n3-d1"))
    assert "".join(d.text for d in deltas) == "w0 low1 low2 lo"
    assert done.finish_reason == "stop"
    assert done.usage.output_tokens == 3
    assert done.call_id == "chatcmpl-1"


async def test_deltas_that_arrived_together_leave_together(chat: OpenAIChat) -> None:
    deltas, _ = await collect(chat, ask("fake-n2000-d0"))
    assert "".join(d.text for d in deltas) == "".join(f"w{i} lorem"[:5] for i in range(2000))
    assert len(deltas) < 200


@pytest.mark.parametrize("spec", ["fake-n3-crlf", "fake-n3-bytes1", "fake-n3-d1-crlf"])
async def test_line_ends_and_cuts_of_the_bytes_do_not_matter(chat: OpenAIChat, spec: str) -> None:
    assert await text_of(chat, ask(spec)) == "w0 low1 low2 lo"


async def test_reasoning_is_kept_apart_from_the_text(chat: OpenAIChat) -> None:
    deltas, _ = await collect(chat, ask("fake-reason2-n2"))
    assert "".join(d.reasoning for d in deltas) == "r0 r1 "
    assert "".join(d.text for d in deltas) == "w0 low1 lo"


async def test_an_answer_in_one_piece_gives_the_same(chat: OpenAIChat) -> None:
    deltas, done = await collect(chat, ask("fake-reason1-n3", stream=False))
    assert deltas == [Delta("w0 low1 low2 lo", "r0 ")]
    assert done.finish_reason == "stop"
    assert done.usage.output_tokens == 3


async def test_several_choices_are_one_message(chat: OpenAIChat) -> None:
    assert await text_of(chat, ask("fake-choices2-n1", stream=False)) == "w0 low0 lo"
    _, done = await collect(chat, ask("fake-choices2-toolgrep", '[[args:{"q":1}]]', stream=False))
    assert [(c.name, c.arguments) for c in done.tool_calls] == [("grep", '{"q":1}')] * 2
    assert len({c.id for c in done.tool_calls}) == 2


async def test_a_tool_call_is_put_together(chat: OpenAIChat) -> None:
    deltas, done = await collect(chat, ask("fake-toolgrep", 'x [[args:{"q":"é"}]]'))
    assert deltas  # its pieces are heard, so that a long call is not taken for silence
    assert set(map(msgspec.structs.astuple, deltas)) == {("", "")}
    assert done.finish_reason == "tool_calls"
    assert done.tool_calls == (ToolCall("call_1", "grep", '{"q":"é"}'),)


@pytest.mark.parametrize(
    ("told", "count"),
    [("12", 12), ("12.0", 12), ("0", 0), ("-5", None), ("1e30", None), ('"many"', None)],
)
def test_a_count_of_tokens_that_is_none_does_not_spoil_the_answer(
    told: str, count: int | None
) -> None:
    chunk = decode_chunk(b'{"choices": [], "usage": {"prompt_tokens": %b}}' % told.encode())
    assert chunk.usage is not None
    assert chunk.usage.usage().input_tokens == count


async def test_the_finish_reason_is_the_providers_word(chat: OpenAIChat) -> None:
    _, done = await collect(chat, ask("fake-length"))
    assert done.finish_reason == "length"


async def test_bytes_that_are_no_unicode_are_replaced(chat: OpenAIChat) -> None:
    assert await text_of(chat, ask("fake-n1-badutf8")) == "\ufffd\ufffdw0 lo"
    assert await text_of(chat, ask("fake-n1-badutf8", stream=False)) == "\ufffd\ufffdw0 lo"


async def test_half_a_surrogate_pair_is_replaced(http: Http) -> None:
    async with raw_server(EVENTS.replace(b'"hi"', rb'"\ud83d\ude00 \ud83d"')) as base_url:
        assert await text_of(OpenAIChat("raw", base_url, http), ask("m")) == "😀 \ufffd"


async def test_a_server_that_ignores_stream_is_understood(chat: OpenAIChat) -> None:
    assert await text_of(chat, ask("fake-n2-ndjson")) == "w0 low1 lo"


async def test_a_stream_that_ends_with_a_finish_reason_needs_no_done_mark(
    http: Http,
) -> None:
    async with raw_server(
        b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    ) as base_url:
        assert await text_of(OpenAIChat("raw", base_url, http), ask("m")) == "hi"


async def test_what_follows_the_end_mark_is_ignored(http: Http) -> None:
    async with raw_server(
        b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
        b"data: [DONE]\n\ndata: {not json at all\n\n"
    ) as base_url:
        assert await text_of(OpenAIChat("raw", base_url, http), ask("m")) == "hi"


async def test_many_streams_run_at_once(chat: OpenAIChat, model: ScriptedModel) -> None:
    texts: list[str] = []

    async def one() -> None:
        texts.append(await text_of(chat, ask("fake-n5-d20-crowd150")))

    async with anyio.create_task_group() as tasks:
        for _ in range(150):
            tasks.start_soon(one)
    assert texts == ["w0 low1 low2 low3 low4 lo"] * 150
    assert model.stats.max_active == 150


async def test_calls_one_after_another_share_a_connection(
    chat: OpenAIChat, model: ScriptedModel
) -> None:
    for spec in ("fake-n3", "fake-n2-d5", "fake-bytes1", "fake-crlf"):
        await collect(chat, ask(spec))
    await failure(chat, ask("fake-e500"))
    await collect(chat, ask("fake", stream=False))
    assert model.stats.connections == 1


# What is sent


async def test_the_call_has_the_published_shape(chat: OpenAIChat, model: ScriptedModel) -> None:
    request = ModelRequest(
        model="fake",
        messages=[
            Message("system", "be brief"),
            RichMessage("user", "look", (Image("image/png", "aGk="),)),
            RichMessage("assistant", "", tool_calls=(ToolCall("c1", "grep", "{}"),)),
            RichMessage("tool", "found", tool_call_id="c1"),
        ],
        tools=[ToolDeclaration("grep", "searches", {"type": "object"})],
        max_output_tokens=7,
        reasoning_effort="low",
        user_agent="tertuliad/1 editor/2",
        headers={"X-Trace": "abc"},
    )
    await collect(chat, request)
    (received,) = model.chats
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["user-agent"] == "tertuliad/1 editor/2"
    assert received.headers["x-trace"] == "abc"
    assert received.body == {
        "model": "fake",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
        "reasoning_effort": "low",
        "messages": [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "grep", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "grep",
                    "description": "searches",
                    "parameters": {"type": "object"},
                },
            }
        ],
    }


async def test_a_call_in_one_piece_asks_for_no_stream(
    chat: OpenAIChat, model: ScriptedModel
) -> None:
    await collect(chat, ask("fake", stream=False))
    assert model.chats[0].body == {
        "model": "fake",
        "stream": False,
        "messages": [{"role": "user", "content": "hi"}],
    }


async def test_the_bearer_token_wins_over_the_key(model: ScriptedModel, http: Http) -> None:
    chat = OpenAIChat("t", model.base_url, http, api_key="k", bearer_token=" token\n")
    await collect(chat, ask("fake"))
    assert model.chats[0].headers["authorization"] == "Bearer token"


async def test_no_key_sends_no_authorization(model: ScriptedModel, http: Http) -> None:
    await collect(OpenAIChat("t", model.base_url, http), ask("fake"))
    assert "authorization" not in model.chats[0].headers


async def test_user_info_in_the_address_becomes_basic_authorization(
    model: ScriptedModel, http: Http
) -> None:
    chat = OpenAIChat("t", model.base_url.replace("//", "//me:p%40ss@"), http)
    await collect(chat, ask("fake"))
    assert model.chats[0].headers["authorization"] == "Basic bWU6cEBzcw=="
    assert "p%40ss" not in repr(chat)


@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions", "?api-version=1"])
async def test_the_base_url_is_taken_as_people_write_it(
    model: ScriptedModel, http: Http, suffix: str
) -> None:
    await collect(OpenAIChat("t", model.base_url + suffix, http), ask("fake"))
    assert model.chats[0].path == "/v1/chat/completions"


async def test_a_history_of_megabytes_is_sent_whole(chat: OpenAIChat, model: ScriptedModel) -> None:
    assert (await text_of(chat, ask("fake-echo", "é" * 2_000_000))).startswith("messages=1")
    assert len(model.chats[0].body["messages"][0]["content"]) == 2_000_000


async def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    chat: OpenAIChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hidden@127.0.0.1:9")
    assert await text_of(chat, ask("fake")) == "w0 lo"


@pytest.mark.parametrize("user", ["", "me:pass%20word@"])
async def test_a_proxy_of_the_environment_is_used_for_others(
    model: ScriptedModel, http: Http, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    # The scripted model stands in for the proxy: it sees the absolute address.
    proxy = model.base_url.removesuffix("/v1").replace("http://", f"http://{user}")
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    await collect(OpenAIChat("t", "http://model.invalid/v1", http), ask("fake"))
    assert model.chats[0].path == "http://model.invalid/v1/chat/completions"
    said = model.chats[0].headers.get("proxy-authorization")
    assert said == ("Basic " + base64.b64encode(b"me:pass word").decode() if user else None)


async def test_a_server_that_refuses_stream_options_is_asked_without(http: Http) -> None:
    refusal = b'{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs"}]}'
    answers = [
        http_answer(422, refusal, b"application/json"),
        http_answer(200, EVENTS),
        http_answer(200, EVENTS),
    ]
    async with replying(answers) as (base_url, bodies):
        chat = OpenAIChat("raw", base_url, http)
        assert await text_of(chat, ask("m")) == "hi"
        assert await text_of(chat, ask("m")) == "hi"
    assert [b"stream_options" in body for body in bodies] == [True, False, False]


def said_by(*roles: str) -> list[Message]:
    return [Message(role, f"{n}") for n, role in enumerate(roles)]  # type: ignore[arg-type]


async def test_a_server_whose_roles_must_alternate_is_asked_with_joined_messages(
    chat: OpenAIChat, model: ScriptedModel
) -> None:
    whole = said_by("system", "user", "assistant", "user")
    for messages, calls in ((whole, 1), ([*whole, Message("user", "and")], 3), (whole, 4)):
        await collect(chat, ModelRequest(model="fake-strict", messages=messages))
        assert len(model.chats) == calls
    for _ in range(2):
        more = [*whole, Message("user", "and"), Message("user", "more")]
        await collect(chat, ModelRequest(model="fake-strict", messages=more))
    said = [[m["content"] for m in received.body["messages"]] for received in model.chats]
    alone, refused, once, again, *later = said
    assert alone == again == ["0", "1", "2", "3"]
    assert refused == ["0", "1", "2", "3", "and"]
    assert once == ["0", "1", "2", "3\n\nand"]
    assert later == [["0", "1", "2", "3\n\nand\n\nmore"]] * 2, "from then on at once"


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (500, b'{"error":{"message":"Jinja Exception: Conversation roles must alternate"}}'),
        (400, b'{"error":{"message":"user message(s) should Alternate with assistant"}}'),
        (400, b'{"error":{"message":"You should interleave the messages in your input"}}'),
    ],
)
async def test_a_refusal_that_stays_is_told_after_the_second_time(
    http: Http, status: int, refusal: bytes
) -> None:
    async with replying([http_answer(status, refusal, b"application/json")] * 2) as (url, bodies):
        chat = OpenAIChat("raw", url, http)
        failed = await failure(chat, ModelRequest(model="m", messages=said_by("user", "user")))
    assert failed.status == status
    assert [body.count(b'"role"') for body in bodies] == [2, 1]


@pytest.mark.parametrize(
    ("roles", "refusal"),
    [
        (("user", "assistant", "user"), b"Conversation roles must alternate"),
        (("system", "system", "user", "tool", "tool"), b"Conversation roles must alternate"),
        (("user", "user"), b"No such model; an alternative is m-2"),
        (("user", "user"), b"Bad Request"),
    ],
)
async def test_a_refusal_that_joining_does_not_mend_is_told_at_once(
    http: Http, roles: tuple[str, ...], refusal: bytes
) -> None:
    async with replying([http_answer(400, refusal, b"text/plain")]) as (base_url, bodies):
        chat = OpenAIChat("raw", base_url, http)
        await failure(chat, ModelRequest(model="m", messages=said_by(*roles)))
    assert len(bodies) == 1


def test_joined_messages_have_all_texts_images_and_calls() -> None:
    picture, other = Image("image/png", "AA=="), Image("image/png", "BB==")
    call = ToolCall("c", "grep", "{}")
    tools = [RichMessage("tool", "a", tool_call_id=n) for n in ("c", "d")]
    assert joined(
        [
            *said_by("system", "system"),
            RichMessage("user", "", (picture,)),
            Message("user", "what is it"),
            RichMessage("user", "and this", (other,)),
            Message("assistant", "well"),
            RichMessage("assistant", "", tool_calls=(call,)),
            *tools,
            *said_by("user", "user", "assistant"),
        ]
    ) == [
        *said_by("system", "system"),
        RichMessage("user", "what is it\n\nand this", (picture, other)),
        RichMessage("assistant", "well", tool_calls=(call,)),
        *tools,
        Message("user", "0\n\n1"),
        Message("assistant", "2"),
    ]


# What fails


@pytest.mark.parametrize(
    ("spec", "kind", "status", "retryable"),
    [
        ("fake-e400", "invalid_request", 400, False),
        ("fake-e401", "authentication", 401, False),
        ("fake-e402", "quota", 402, False),
        ("fake-e403", "authentication", 403, False),
        ("fake-e404", "invalid_request", 404, False),
        ("fake-e404-codemodel_not_found", "model_not_found", 404, False),
        ("fake-e400-codecontext_length_exceeded", "context_window", 400, False),
        ("fake-e408", "timeout", 408, True),
        ("fake-e429", "rate_limit", 429, True),
        ("fake-e500", "server_error", 500, True),
        ("fake-e503-plain", "server_error", 503, True),
        ("fake-html", "server_error", 502, True),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_says_what_it_is(
    chat: OpenAIChat, spec: str, kind: FailureKind, status: int, retryable: bool, stream: bool
) -> None:
    failed = await failure(chat, ask(spec, stream=stream))
    assert (failed.kind, failed.status, failed.retryable) == (kind, status, retryable)
    assert f"HTTP {status}" in failed.message
    assert "127.0.0.1" in failed.message


async def test_a_rate_limit_carries_the_wait_that_was_asked_for(chat: OpenAIChat) -> None:
    assert (await failure(chat, ask("fake-e429"))).retry_after == 1.0


async def test_a_key_that_the_server_repeats_is_not_shown(http: Http) -> None:
    body = b'{"error":{"message":"Incorrect API key provided: %b"}}' % KEY.encode()
    async with replying([http_answer(401, body, b"application/json")]) as (base_url, _):
        failed = await failure(OpenAIChat("raw", base_url, http, api_key=KEY), ask("m"))
    assert "Incorrect API key provided: [secret]" in failed.message


async def test_the_name_of_a_scheme_is_no_secret(http: Http) -> None:
    body = b'{"error":{"message":"Send a Bearer token; %b is none, nor is hunter"}}' % KEY.encode()
    headers = {"Authorization": f"Bearer {KEY}", "x-key": "hunter two"}
    async with replying([http_answer(401, body, b"application/json")]) as (base_url, _):
        chat = OpenAIChat("raw", base_url, http, headers=headers)
        failed = await failure(chat, ask("m"))
    assert "Send a Bearer token; [secret] is none, nor is [secret]" in failed.message


async def test_a_cut_stream_is_interrupted(chat: OpenAIChat) -> None:
    seen: list[Delta | Done] = []
    with pytest.raises(ProviderFailed) as caught:
        async for item in chat.stream(ask("fake-n5-d5-cut2")):
            seen.append(item)  # noqa: PERF401  what came before the failure counts
    assert "".join(d.text for d in seen if isinstance(d, Delta)) == "w0 low1 lo"
    assert caught.value.kind == "interrupted"
    assert not caught.value.retryable


async def test_how_http_ends_after_a_whole_answer_does_not_matter(http: Http) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
        body = EVENTS + b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        await writer.drain()
        await answered.wait()
        writer.close()  # without the chunk that ends the body

    answered = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chat = OpenAIChat("raw", f"http://127.0.0.1:{port}/v1", http)
    items: list[Delta | Done] = []
    with anyio.fail_after(BOUND_S):
        async for item in chat.stream(ask("m")):
            items.append(item)
            if isinstance(item, Done):
                answered.set()
    assert [type(item) for item in items] == [Delta, Done]
    server.close()


async def test_a_finished_answer_is_whole_though_the_server_never_ends_it(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AFTER_FINISH_S", 0.05)
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENTS)
        await reader.read()
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chat = OpenAIChat("raw", f"http://127.0.0.1:{port}/v1", http)
    with anyio.fail_after(BOUND_S):
        items = [item async for item in chat.stream(ask("m"))]
        await hung_up.wait()
    assert [type(item) for item in items] == [Delta, Done]
    server.close()


async def test_a_cut_answer_in_one_piece_is_interrupted(chat: OpenAIChat) -> None:
    failed = await failure(chat, ask("fake-n5-cut1", stream=False))
    assert (failed.kind, failed.retryable) == ("interrupted", False)


async def test_an_end_that_was_not_announced_is_interrupted(chat: OpenAIChat) -> None:
    failed = await failure(chat, ask("fake-n2-nodone"))
    assert (failed.kind, failed.retryable) == ("interrupted", False)


async def test_an_error_inside_the_stream_is_a_failure(chat: OpenAIChat) -> None:
    failed = await failure(chat, ask("fake-n3-fail1"))
    assert failed.kind == "server_error"
    assert "fake error in the stream" in failed.message
    failed = await failure(chat, ask("fake-n3-fail1-codecontext_length_exceeded"))
    assert failed.kind == "context_window"


@pytest.mark.parametrize("spec", ["fake-nonsense", "fake-empty"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_sense_is_a_bad_response(
    chat: OpenAIChat, spec: str, stream: bool
) -> None:
    failed = await failure(chat, ask(spec, stream=stream))
    assert (failed.kind, failed.retryable) == ("bad_response", False)


async def test_a_web_page_instead_of_an_answer_is_a_bad_response(http: Http) -> None:
    async with replying([http_answer(200, b"<html></html>", b"text/html")]) as (base_url, _):
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m"))
    assert failed.kind == "bad_response"
    assert "/v1" in failed.message


async def test_json_nested_without_end_is_a_bad_response(http: Http) -> None:
    async with raw_server(b"data: " + b"[" * 100_000 + b"\n\n") as base_url:
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m"))
    assert failed.kind == "bad_response"


async def test_a_line_without_end_is_a_bad_response(chat: OpenAIChat) -> None:
    failed = await failure(chat, ask(f"fake-s{MODEL_LINE_BYTES + 1000}"))
    assert failed.kind == "bad_response"
    failed = await failure(chat, ask(f"fake-s{MODEL_LINE_BYTES + 1000}", stream=False))
    assert failed.kind == "bad_response"


@pytest.mark.parametrize("piece", ["content", "reasoning_content", "arguments", "name", "id"])
async def test_an_answer_without_end_is_a_bad_response(
    http: Http, monkeypatch: pytest.MonkeyPatch, piece: str
) -> None:
    monkeypatch.setattr(limits, "MODEL_ANSWER_CHARS", 1000)
    delta: dict[str, Any] = {piece: "x" * 100}
    if piece == "arguments":
        delta = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", **delta}}]}
    elif piece == "name":
        delta = {"tool_calls": [{"index": 0, "function": delta}]}
    elif piece == "id":
        delta = {"tool_calls": [{"index": 0, **delta}]}
    chunk = b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
    async with raw_server(chunk * 11) as base_url:
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m"))
    assert (failed.kind, failed.retryable) == ("bad_response", False)
    assert "does not end" in failed.message


@pytest.mark.parametrize("part", [{}, {"function": {"arguments": ""}}], ids=["bare", "empty"])
async def test_pieces_of_a_tool_call_that_bring_nothing_count_too(
    http: Http, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any]
) -> None:
    monkeypatch.setattr(limits, "MODEL_ANSWER_CHARS", 1000)
    delta = {"tool_calls": [{"index": 0, **part}] * 101}
    chunk = b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
    async with raw_server(chunk * 10) as base_url:
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m"))
    assert failed.kind == "bad_response"
    assert "more than 1000 characters" in failed.message


@pytest.mark.parametrize("stream", [True, False])
async def test_too_many_tool_calls_are_a_bad_response(
    http: Http, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(limits, "MODEL_TOOL_CALLS", 4)

    def answer(calls: int) -> bytes:
        message = {"tool_calls": [{"index": n, "function": {"name": "f"}} for n in range(calls)]}
        choice = {"delta" if stream else "message": message, "finish_reason": "tool_calls"}
        body = json.dumps({"choices": [choice]}).encode()
        return b"data: " + body + b"\n\ndata: [DONE]\n\n" if stream else body

    async with raw_server(answer(4)) as base_url:
        _, done = await collect(OpenAIChat("raw", base_url, http), ask("m", stream=stream))
    assert len(done.tool_calls) == 4
    async with raw_server(answer(5)) as base_url:
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m", stream=stream))
    assert (failed.kind, failed.retryable) == ("bad_response", False)
    assert "more than 4 tool calls" in failed.message


async def test_a_redirect_is_refused_and_the_key_stays_here(
    chat: OpenAIChat, model: ScriptedModel
) -> None:
    failed = await failure(chat, ask("fake-redirect"))
    assert failed.kind == "bad_response"
    assert "http://elsewhere.invalid/v1." in failed.message
    assert len(model.requests) == 1


async def test_a_closed_port_is_a_connection_failure(http: Http) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        failed = await failure(
            OpenAIChat("t", f"http://me:{KEY}@127.0.0.1:{port}/v1?k={KEY}", http, api_key=KEY),
            ask("m"),
        )
    assert failed.kind == "connection"
    assert failed.retryable
    assert f"http://127.0.0.1:{port}/v1/chat/completions refused" in failed.message


async def test_a_server_that_hangs_up_at_once_is_a_connection_failure(http: Http) -> None:
    async with replying([b""]) as (base_url, _):
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m"))
    assert failed.kind == "connection"


async def test_a_server_that_speaks_no_http_is_a_bad_response(http: Http) -> None:
    async with replying([b"220 mail.example ESMTP\r\n\r\n"]) as (base_url, _):
        failed = await failure(OpenAIChat("raw", base_url, http), ask("m"))
    assert failed.kind == "bad_response"


async def test_https_to_a_port_of_plain_http_says_so(model: ScriptedModel, http: Http) -> None:
    chat = OpenAIChat("t", model.base_url.replace("http:", "https:"), http)
    failed = await failure(chat, ask("fake"))
    assert failed.kind == "connection"


@pytest.mark.parametrize(
    "base_url", ["", "no url", "http://", "http://[::1", "ftp://x/v1", "http://a b/", "http://x:99999/v1"]
)  # fmt: skip
async def test_an_address_that_is_none_is_an_invalid_request(http: Http, base_url: str) -> None:
    failed = await failure(OpenAIChat("t", base_url, http), ask("m"))
    assert failed.kind == "invalid_request"


@pytest.mark.parametrize(
    "headers", [{"x-a": "1\r\nx-b: 2"}, {"bad name": "1"}, {"Content-Length": "7"}, {"": "1"}]
)
async def test_a_header_that_would_break_the_call_is_refused(
    chat: OpenAIChat, model: ScriptedModel, headers: dict[str, str]
) -> None:
    assert (await failure(chat, ask("fake", headers=headers))).kind == "invalid_request"
    assert model.requests == []


# What is cancelled


@pytest.mark.parametrize("spec", ["fake-hang", "fake-n5-stall2", "fake-n1000-d20"])
async def test_a_cancelled_call_closes_its_connection(
    chat: OpenAIChat, model: ScriptedModel, spec: str
) -> None:
    with anyio.fail_after(BOUND_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, chat, ask(spec))
            await model.until(lambda: model.stats.active == 1)
            tasks.cancel_scope.cancel()
        await model.until(lambda: model.stats.aborted == 1)
    assert model.stats.active == 0


async def test_an_iteration_that_is_closed_early_closes_its_connection(
    chat: OpenAIChat, model: ScriptedModel
) -> None:
    with anyio.fail_after(BOUND_S):
        async with aclosing(chat.stream(ask("fake-n1000-d20"))) as items:
            async for _ in items:
                break
        await model.until(lambda: model.stats.aborted == 1)


async def test_the_next_call_works_after_a_failure_and_a_cancel(chat: OpenAIChat) -> None:
    await failure(chat, ask("fake-n3-cut1"))
    with anyio.move_on_after(0.05):
        await collect(chat, ask("fake-hang"))
    assert await text_of(chat, ask("fake")) == "w0 lo"


# What is listed


async def test_models_are_listed_with_their_windows(model: ScriptedModel, http: Http) -> None:
    model.models = ["a", {"id": "b", "max_model_len": 4096, "owned_by": 7}]
    listed = await OpenAIChat("t", model.base_url, http).models()
    assert [(m.id, m.context) for m in listed] == [("a", None), ("b", 4096)]


async def test_a_list_that_is_refused_is_a_failure(model: ScriptedModel, http: Http) -> None:
    model.models_status = 401
    with pytest.raises(ProviderFailed) as caught:
        await OpenAIChat("t", model.base_url, http).models()
    assert caught.value.kind == "authentication"


def test_a_repr_shows_no_secret() -> None:
    chat = OpenAIChat(
        "t",
        f"https://me:{KEY}@host/v1?k={KEY}",
        Http(),
        api_key=KEY,
        bearer_token=KEY,
        headers={"x-key": KEY},
    )
    assert KEY not in repr(chat)
    assert repr(chat) == "OpenAIChat('t', 'https://host/v1/chat/completions')"


async def test_usage_has_the_details_that_servers_give(http: Http) -> None:
    events = (
        b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,'
        b'"prompt_tokens_details":{"cached_tokens":4},'
        b'"completion_tokens_details":{"reasoning_tokens":2}}}\n\n'
    )
    async with raw_server(events) as base_url:
        _, done = await collect(OpenAIChat("raw", base_url, http), ask("m"))
    assert done.usage == Usage(9, 3, 4, 2)


# Servers that say exactly what a test tells them to

EVENTS = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'


def http_answer(status: int, body: bytes, kind: bytes = b"text/event-stream") -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


class replying:
    """A server that gives `answers` in order, one a connection; gives its URL and the bodies."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = iter(answers)
        self._bodies: list[bytes] = []

    async def __aenter__(self) -> tuple[str, list[bytes]]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1", self._bodies

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        self._bodies.append(await reader.readexactly(length))
        writer.write(next(self._answers).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


class raw_server(replying):
    """A server that answers one call with `events`; gives its URL."""

    def __init__(self, events: bytes) -> None:
        super().__init__([http_answer(200, events)])

    async def __aenter__(self) -> str:  # type: ignore[override]
        base_url, _ = await super().__aenter__()
        return base_url
