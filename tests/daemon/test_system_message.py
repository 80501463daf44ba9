"""The system message: ours, the caller's, or ours as the caller wants it."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from tertulia_protocol.config import Section, SessionConfig, SystemMessage
from tertuliad.sessions import system_message
from tertuliad.sessions.system_message import IDENTITY_GROUP, ORDER, render


def rendered(working_directory: str | None = None, **given: Any) -> str | None:
    message = SystemMessage(**given) if given else None
    return render(SessionConfig(system_message=message, working_directory=working_directory))


def customized(content: str | None = None, **sections: Section) -> str:
    text = rendered(mode="customize", content=content, sections=sections)
    assert text is not None
    return text


def ours() -> str:
    text = rendered()
    assert text is not None
    return text


def test_ours_is_short_and_names_the_working_directory() -> None:
    text = rendered("/home/me/project")
    assert text is not None
    assert "/home/me/project" in text
    assert len(text) < 500
    assert "Current working directory" not in ours()


@pytest.mark.parametrize("mode", ["append", None])
def test_append_puts_the_callers_text_behind_ours(mode: str | None) -> None:
    assert rendered(mode=mode, content="Be a pirate.") == f"{ours()}\n\nBe a pirate."
    assert rendered(mode=mode, content="") == ours()


def test_replace_is_exactly_the_callers_text() -> None:
    assert rendered(mode="replace", content=" only this \n") == " only this \n"


@pytest.mark.parametrize("content", [None, ""])
def test_replace_by_nothing_sends_no_system_message(content: str | None) -> None:
    assert rendered(mode="replace", content=content) is None


def test_a_section_is_replaced_in_its_place() -> None:
    text = customized(environment_context=Section("replace", "On a ship."))
    assert "Operating System" not in text
    assert text.endswith("On a ship.")
    assert "helpful assistant" in text


def test_the_identity_takes_its_group_along() -> None:
    assert "tone" in IDENTITY_GROUP
    text = customized(identity=Section("replace", "You are a pirate."))
    assert text.startswith("You are a pirate.")
    assert "briefly" not in text
    removed = customized(identity=Section("remove"))
    assert "assistant" not in removed
    assert "briefly" not in removed
    assert "Operating System" in removed


def test_text_is_added_to_either_end_of_a_section() -> None:
    text = customized(
        identity=Section("append", "Behind."),
        environment_context=Section("prepend", "Before."),
    )
    assert "one person.\nBehind." in text
    assert "Before.\nOperating System" in text


def test_a_preserved_section_stays() -> None:
    assert customized(identity=Section("preserve", "ignored")) == ours()


def test_an_empty_section_can_be_filled() -> None:
    assert customized(safety=Section("append", "Safe.")).endswith("Safe.")


def test_sections_keep_our_order_whatever_the_callers() -> None:
    changes = {name: Section("replace", f"<{name}>") for name in reversed(ORDER)}
    text = rendered(mode="customize", sections=changes)
    assert text is not None
    places = [text.index(f"<{name}>") for name in ORDER if name not in IDENTITY_GROUP]
    assert places == sorted(places)


def test_code_rules_are_wrapped() -> None:
    text = customized(code_change_rules=Section("replace", "No goto."))
    assert "<code_change_instructions>\nNo goto.\n</code_change_instructions>" in text


def test_an_unknown_section_takes_its_text_to_the_end() -> None:
    text = customized(
        "Last.", of_the_future=Section("append", "New."), gone=Section("remove", "No")
    )
    assert text == f"{ours()}\n\nNew.\n\nLast."


def test_every_action_of_the_wire_is_decided_on() -> None:
    actions = get_args(get_type_hints(Section)["action"])
    assert set(actions) == {"replace", "remove", "append", "prepend", "preserve", "transform"}
    kept = {action: "briefly" in customized(tone=Section(action, "x")) for action in actions}
    assert [action for action, has_ours in kept.items() if not has_ours] == ["replace", "remove"]


def test_the_same_settings_give_the_same_words() -> None:
    assert ours() == ours()
    assert system_message.render(SessionConfig()) == ours()
