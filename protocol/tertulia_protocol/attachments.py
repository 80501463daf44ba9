"""Attachments of a message: typed views of the kinds that the model reads as text or image.

An attachment is kept as it came, so that `user.message` can echo every member, also of kinds that
are not known here; `view` gives the typed form of one. Lines and characters count from 0.
"""

from __future__ import annotations

import posixpath
from typing import Any

import msgspec

from tertulia_protocol import faults
from tertulia_protocol.decoding import convert

Attachment = dict[str, Any]


class LineRange(msgspec.Struct, frozen=True):
    start: int
    end: int


class Position(msgspec.Struct, frozen=True):
    line: int
    character: int


class Range(msgspec.Struct, frozen=True):
    start: Position
    end: Position


class _Kind(msgspec.Struct, frozen=True):
    type: str


class FileAttachment(msgspec.Struct, frozen=True, tag="file", rename="camel"):
    path: str
    display_name: str | None = None
    line_range: LineRange | None = None
    mime_type: str | None = None


class DirectoryAttachment(msgspec.Struct, frozen=True, tag="directory", rename="camel"):
    path: str
    display_name: str | None = None


class SelectionAttachment(msgspec.Struct, frozen=True, tag="selection", rename="camel"):
    """A piece of an editor's buffer."""

    file_path: str
    text: str
    display_name: str | None = None
    selection: Range | None = None


class BlobAttachment(msgspec.Struct, frozen=True, tag="blob", rename="camel"):
    """`data` is base64."""

    mime_type: str
    data: str | None = None
    display_name: str | None = None


class ReferenceAttachment(msgspec.Struct, frozen=True, tag="github_reference", rename="camel"):
    number: int
    title: str
    reference_type: str | None = None
    state: str | None = None
    url: str | None = None


class OtherAttachment(msgspec.Struct, frozen=True):
    """A kind that is not known here, as it came."""

    type: str
    members: Attachment


Known = (
    FileAttachment
    | DirectoryAttachment
    | SelectionAttachment
    | BlobAttachment
    | ReferenceAttachment
)
KINDS = frozenset({"file", "directory", "selection", "blob", "github_reference"})


def view(attachment: Attachment) -> Known | OtherAttachment:
    """The typed form. Raises `msgspec.ValidationError` with the path of the fault below `$`."""
    kind = convert(attachment, _Kind).type
    if kind not in KINDS:
        return OtherAttachment(kind, attachment)
    known: Known = convert(attachment, Known)
    return known


def echoed(attachment: Attachment) -> Attachment:
    """The form for `user.message`: a file or folder without a display name gets its last part."""
    path = attachment.get("path")
    if attachment.get("displayName") is not None or not isinstance(path, str):
        return attachment
    name = posixpath.basename(path.replace("\\", "/").rstrip("/")) or path
    return {**attachment, "displayName": name}


def chars_of(given: list[Attachment] | None) -> int:
    """The characters of all texts in attachments, and one for each other value. They may be nested
    deeper than a function can call itself."""
    total, left = 0, list[Any](given or ())
    while left:
        match left.pop():
            case str(text):
                total += len(text)
            case dict(members):
                left += members
                left += members.values()
            case list(items):
                left += items
            case _:
                total += 1
    return total


def check_message(prompt: str, given: list[Attachment] | None, at: str) -> None:
    """Raise `InvalidParams` for a message that says nothing, or has an attachment that does not
    fit; `at` is the message's JSON path."""
    if not prompt and not given:
        raise faults.invalid(
            f"{at}.prompt", "the message is empty: it needs a prompt or an attachment"
        )
    for index, attachment in enumerate(given or ()):
        try:
            view(attachment)
        except msgspec.ValidationError as error:
            path, fault = faults.explain(str(error))
            raise faults.invalid(f"{at}.attachments[{index}]{path[1:]}", fault) from None
