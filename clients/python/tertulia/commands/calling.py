"""`tertulia call`: any method of the protocol, by its own name and in its own words."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from tertulia.client import Client
from tertulia.commands.common import client_for, print_json, resumed_as_it_is
from tertulia.errors import SessionNotFound, TertuliaError
from tertulia_protocol.decoding import json_decoder

PIPE = "-"


def call(options: argparse.Namespace) -> int:
    """Ask once, for as long as the answer takes, and print the result as it came. What is not about
    sessions needs none to be there."""
    options.begins = not options.method.startswith("session")
    params = _piped() if options.params == PIPE else options.params
    with client_for(options) as client:
        result = _asked(client, options.method, params)
    return print_json(result)


def _asked(client: Client, method: str, params: dict[str, Any]) -> Any:
    """What is for those alone who are attached to a session is asked for once we are."""
    try:
        return client.request(method, params, timeout=None)
    except SessionNotFound:
        if not isinstance(session_id := params.get("sessionId"), str):
            raise
        resumed_as_it_is(client, session_id)
        return client.request(method, params, timeout=None)


def _piped() -> dict[str, Any]:
    try:
        return json_decoder(dict[str, Any]).decode(sys.stdin.buffer.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise TertuliaError(f"What came on stdin is not a JSON object: {fault}") from None
