"""`tertulia list`, `search`, `models` and `usage`: what there is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec

from tertulia import calls, limits
from tertulia.client import Client
from tertulia.commands.common import (
    as_it_came,
    client_for,
    local_time,
    one_line,
    print_json,
    print_table,
    remark,
    style_for,
    warn_of_no_config,
)
from tertulia.records import Model, ModelUsage, SearchHit, SessionInfo, Snippet, Usage
from tertulia.terminal import Progress, Style, printable
from tertulia_protocol.decoding import convert

SPEAKERS = {"user.message": "you", "assistant.message": "model"}


def list_sessions(options: argparse.Namespace) -> int:
    """`tertulia list`."""
    with client_for(options) as client:
        found = _listed(client, options)
        hidden = not (found["sessions"] or options.filter) and client.session_page(1, archived=True)
    if options.json:
        return print_json(found)
    if hidden and hidden.items:
        remark("All sessions are archived: `tertulia list --filter archived=true` lists them.")
        return 0
    _print_sessions(convert(found["sessions"], list[SessionInfo]), options)
    if "cursor" in found:
        remark("There are more: take a higher --limit, or none.")
    return 0


def _listed(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    """The rows as they came, of as many pages as it takes, and where the next one begins."""
    rows: list[Any] = []
    cursor = None
    while True:
        left = None if options.limit is None else options.limit - len(rows)
        call = calls.sessions(options.filter, options.order, left, cursor)
        result = as_it_came(client, call)
        rows += result["sessions"]
        cursor = result.get("cursor")
        if cursor is None or len(rows) == options.limit:
            return {"sessions": rows, **({"cursor": cursor} if cursor else {})}


def _print_sessions(sessions: Sequence[SessionInfo], options: argparse.Namespace) -> None:
    if not sessions:
        chosen = "No session matches." if options.filter else _NONE_YET
        remark(chosen)
    style = style_for(options)
    width = max((len(info.session_id) for info in sessions), default=0)
    for info in sessions:
        when = style(local_time(info.modified_time), "dim")
        line = f"{info.session_id:<{width}}  {when}  {one_line(info.summary or '')}".rstrip()
        print(line + style(_state(info), "yellow"))


_NONE_YET = "No sessions yet: begin one with `tertulia chat`."


def _state(info: SessionInfo) -> str:
    waiting = f"  ({info.pending} waiting)" if info.pending else ""
    return waiting + ("  (archived)" if info.archived else "")


def search(options: argparse.Namespace) -> int:
    """`tertulia search TEXT`."""
    with client_for(options) as client:
        found = _found(client, " ".join(options.text), options.limit)
    if options.json:
        return print_json(found)
    _print_hits(convert(found["hits"], list[SearchHit]), style_for(options))
    if "cursor" in found:
        remark("There are more: take a higher --limit, or more words.")
    return 0


def _found(client: Client, text: str, places: int) -> dict[str, Any]:
    """The hits of so many places as they came, of as many pages as it takes, and where the next one
    begins. A place that forks share has several."""
    hits: list[Any] = []
    cursor = None
    while True:
        page = min(places, limits.FOUND_AT_MOST)
        result = as_it_came(client, calls.search(text, page, cursor))
        hits += result["hits"]
        cursor = result.get("cursor")
        places -= page
        if cursor is None or not places:
            return {"hits": hits, **({"cursor": cursor} if cursor else {})}


def _print_hits(hits: Sequence[SearchHit], style: Style) -> None:
    if not hits:
        remark("Nothing was found.")
    for hit in hits:
        who = SPEAKERS.get(hit.type, hit.type)
        print(f"{style(hit.session.session_id, 'bold')}  {style(f'{who}, {hit.event_id}', 'dim')}")
        print(f"    {_marked(hit.snippet, style)}")


def _marked(snippet: Snippet, style: Style) -> str:
    """The piece in one line, the words that were found painted."""
    shown, done = "", 0
    for start, end in snippet.highlights:
        shown += _spaced(snippet.text[done:start]) + style(
            _spaced(snippet.text[start:end]), "green"
        )
        done = end
    return shown + _spaced(snippet.text[done:])


def _spaced(text: str) -> str:
    return printable(text.translate({ord("\n"): " ", ord("\t"): " "}))


def usage(options: argparse.Namespace) -> int:
    """`tertulia usage [SESSION]`."""
    with client_for(options) as client, Progress("adding up"):
        found = client.usage(options.session)
    if options.json:
        named = {"sessionId": options.session} if options.session else {}
        return print_json({**named, **msgspec.to_builtins(found)})
    _print_usage(found)
    return 0


def _print_usage(found: Usage) -> None:
    if not found.models:
        return remark("No model was called yet.")
    rows = [("model", "calls", "input", "output", "cached", "reasoning")]
    rows += [(one_line(name), *_figures(each)) for name, each in sorted(found.models.items())]
    if len(found.models) > 1:
        rows.append(("in all", *_figures(found.total)))
    print_table(rows)
    return None


def _figures(used: ModelUsage) -> tuple[str, str, str, str, str]:
    return (
        f"{used.requests:,}",
        f"{used.input_tokens:,}",
        f"{used.output_tokens:,}",
        f"{used.cache_read_tokens:,}",
        f"{used.reasoning_tokens:,}",
    )


def models(options: argparse.Namespace) -> int:
    """`tertulia models`."""
    with client_for(options) as client, Progress("asking the providers"):
        if options.json:
            result = as_it_came(client, calls.models())
        else:
            found = client.models()
    warn_of_no_config(options.home)
    if options.json:
        return print_json(result)
    _print_models(found, style_for(options))
    return 0


def _print_models(found: Sequence[Model], style: Style) -> None:
    if not found:
        remark("No model is configured: name a provider in config.toml.")
    width = max((len(model.id) for model in found), default=0)
    for model in found:
        state = style("ready", "green") if model.available else style("not usable now", "yellow")
        print(f"{model.id:<{width}}  {state}" + (" (default)" if model.default else ""))
        for line in (model.reason or "").splitlines() if not model.available else ():
            print(f"{'':<{width}}    {printable(line)}")
