"""The system message: our few sections, and what the caller makes of them.

`append` is ours and then the caller's text; `replace` is exactly the caller's; `customize` changes
sections one by one. Section ids are the wire's; most of ours are empty until tools are run, and an
id that is not known takes its text to the end. Small models read this too: keep it short.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

from tertulia_protocol.config import Section, SessionConfig

ORDER = (
    "preamble",
    "identity",
    "tone",
    "tool_efficiency",
    "environment_context",
    "code_change_rules",
    "guidelines",
    "safety",
    "tool_instructions",
    "custom_instructions",
    "runtime_instructions",
    "last_instructions",
)
IDENTITY_GROUP = ("preamble", "tone", "tool_efficiency")
"""Sections that `identity` stands for as well: removing or replacing it takes them along."""


def render(config: SessionConfig) -> str | None:
    """The text of the system message; None where there is none to send."""
    given = config.system_message
    if given is None:
        return _joined(_default(config).values())
    content = given.content or ""
    if given.mode == "replace":
        return content or None
    sections = _default(config)
    extra: list[str] = []
    if given.mode == "customize":
        for name, change in (given.sections or {}).items():
            if name in sections:
                _change(sections, name, change)
            elif change.action != "remove" and change.content:
                extra.append(change.content)
    return _joined([*sections.values(), *extra, content])


def _joined(parts: Iterable[str]) -> str | None:
    return "\n\n".join(part for part in parts if part) or None


def _change(sections: dict[str, str], name: str, change: Section) -> None:
    content = change.content or ""
    match change.action:
        case "replace":
            _clear_group(sections, name)
            sections[name] = _wrapped(name, content)
        case "remove":
            _clear_group(sections, name)
            sections[name] = ""
        case "append":
            sections[name] = "\n".join(part for part in (sections[name], content) if part)
        case "prepend":
            sections[name] = "\n".join(part for part in (content, sections[name]) if part)
        case _:
            return


def _clear_group(sections: dict[str, str], name: str) -> None:
    if name == "identity":
        for member in IDENTITY_GROUP:
            sections[member] = ""


def _wrapped(name: str, content: str) -> str:
    if name != "code_change_rules" or not content:
        return content
    return f"<code_change_instructions>\n{content}\n</code_change_instructions>"


def _default(config: SessionConfig) -> dict[str, str]:
    """Our own sections, in their order."""
    sections = dict.fromkeys(ORDER, "")
    sections["identity"] = "You are a helpful assistant in a conversation with one person."
    sections["tone"] = "Answer briefly and to the point. Say so when you do not know."
    environment = [f"Operating System: {platform.system()}"]
    if config.working_directory:
        environment.insert(0, f"Current working directory: {config.working_directory}")
    sections["environment_context"] = "\n".join(environment)
    return sections
