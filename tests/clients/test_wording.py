"""The daemon's messages on the command line: no method of the wire is named there."""

from __future__ import annotations

import pytest

from tertulia.errors import (
    Draining,
    InvalidParams,
    ModelUnavailable,
    NotAuthenticated,
    Overloaded,
    RpcError,
    SessionExists,
    SessionNotFound,
    TertuliaError,
    TurnBusy,
    TurnFailed,
)
from tertulia.wording import said


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SessionNotFound.of("nope"), "There is no session nope; see `tertulia list`."),
        (
            InvalidParams("$.sessionId: an id has letters.", {"path": "$.sessionId"}),
            "An id has letters.",
        ),
        (
            ModelUnavailable(
                "No model is configured. Give session.create a provider (baseUrl), or set"
                " a variable; models.list shows what can be used."
            ),
            "No model is configured. Name a provider in config.toml in the data folder, or set a"
            " variable such as OPENAI_API_KEY. `tertulia models` shows what can be used.",
        ),
        (
            TurnFailed("model_not_found", "No. Check the name; models.list shows what there is."),
            "No. Check the name. `tertulia models` shows what can be used.",
        ),
        (
            Overloaded("9 messages wait already; wait for session.idle."),
            "9 messages wait already. Wait for their answers.",
        ),
        (
            Overloaded(
                "9 messages wait already. The queue is paused: session.queue.clear empties."
            ),
            "9 messages wait already. `tertulia queue` shows, clears and resumes them.",
        ),
        (Draining("The daemon is stopping: connect again."), "The daemon is stopping."),
        (
            TurnBusy("A turn runs in this session. Wait for session.idle, or end it."),
            "A turn runs in this session. Try again when it has ended.",
        ),
        (
            TurnBusy(
                "A turn of session s runs in another daemon on the same data folder; wait until it"
                " ends, or talk to that daemon."
            ),
            "A turn of session s runs in another daemon on the same data folder; wait until it"
            " ends, or start `tertulia serve` first: then all commands share one, and messages"
            " wait in a queue.",
        ),
        (
            TurnBusy("It was to be idle; without ifIdle it waits. Wait for session.idle."),
            "It was to be idle; without --if-idle it waits. Try again when it has ended.",
        ),
        (
            InvalidParams(
                "$.eventId: no such event. sessions.fork takes one.", {"path": "$.eventId"}
            ),
            "No such event.",
        ),
        (SessionExists("It exists. Attach with session.resume."), "It exists."),
        (
            NotAuthenticated("AUTHENTICATION_FAILED: call connect first."),
            "The daemon asks for its connection token, and got none or a wrong one: give it in"
            " TERTULIA_TOKEN.",
        ),
    ],
)
def test_a_method_gives_way_to_a_command(error: TertuliaError | RpcError, text: str) -> None:
    assert said(error) == text


@pytest.mark.parametrize(
    "text",
    [
        "One; two. Three: 3.5; four",
        "Missing:\n  pip install x\n  pip install y",
        "Odd",
        "The session store at /data/sessions.db failed: no. Look into it.",
        "The session store at sessions.db failed: no. Look into it.",
        "There is no /data/session.old; look elsewhere.",
    ],
)
def test_what_names_no_method_stays_as_it_is(text: str) -> None:
    assert said(TertuliaError(text)) == text


def test_an_address_at_the_beginning_stays_as_it_is() -> None:
    assert said(TertuliaError("http://x/v1 hung up.")) == "http://x/v1 hung up."


def test_something_is_said_where_all_of_it_names_methods() -> None:
    assert said(RpcError(0, "Use session.resume.")) == "Use session.resume."
