"""What attachments add to a prompt: files, folders, selections and references as text.

Files are read when the message is accepted, so that the same history gives the same words later.
Nothing is followed outside of what the caller named; what cannot be read is said, not raised.
Where files or folders are named this reads the disk: run it off the event loop.
"""

from __future__ import annotations

import os
from pathlib import Path

from tertulia_protocol import attachments, layout
from tertulia_protocol.envelope import sayable
from tertuliad import limits
from tertuliad.sessions.history import is_image


def prompt_with(prompt: str, given: list[attachments.Attachment], cwd: str | None) -> str:
    """The text that the model reads: the prompt unchanged, then each attachment in tags."""
    parts = [_described(item, cwd) for item in given if not is_image(item)]
    return "\n\n".join([prompt, *parts]) if parts else prompt


def names_files(given: list[attachments.Attachment]) -> bool:
    """Whether the disk is read for any of them."""
    kinds = (attachments.FileAttachment, attachments.DirectoryAttachment)
    return any(isinstance(attachments.view(item), kinds) for item in given)


def _described(item: attachments.Attachment, cwd: str | None) -> str:
    match attachments.view(item):
        case attachments.FileAttachment(path=path, line_range=lines):
            return _tagged("file", path, _file_text(_resolved(path, cwd), lines))
        case attachments.DirectoryAttachment(path=path):
            return _tagged("directory", path, _listing(_resolved(path, cwd)))
        case attachments.SelectionAttachment(file_path=path, text=text):
            return _tagged("selection", path, text)
        case attachments.ReferenceAttachment() as reference:
            return _tagged("reference", reference.url or f"#{reference.number}", reference.title)
        case attachments.BlobAttachment(mime_type=mime_type, display_name=name):
            return _tagged("blob", name or mime_type, "(not shown: only images can be)")
        case other:
            return _tagged("attachment", str(other.type), "(not shown: its kind is not known)")


def _tagged(kind: str, name: str, text: str) -> str:
    quoted = name.replace("&", "&amp;").replace('"', "&quot;")
    return f'<attached {kind}="{quoted}">\n{text}\n</attached>'


def _resolved(path: str, cwd: str | None) -> Path:
    return Path(cwd or ".") / path


def _file_text(path: Path, lines: attachments.LineRange | None) -> str:
    try:
        if not path.is_file():
            return "(there is no such file)"
        if path.resolve().name.startswith(layout.DATABASE_FILE):
            # With any descriptor of the file, or of its log's index, its locks would be closed.
            return "(a daemon's own database is not read)"
        with open(path, "rb", opener=never_waiting) as file:
            data: bytes | None = file.read(limits.ATTACHED_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        return f"(cannot be read: {_reason(error)})"
    if data is None:
        return "(cannot be read: nothing is there yet)"
    cut = len(data) > limits.ATTACHED_FILE_BYTES
    text = data[: limits.ATTACHED_FILE_BYTES].decode("utf-8", "replace")
    if lines is not None:
        text = "\n".join(text.split("\n")[lines.start : lines.end + 1])
    return text + ("\n(the rest is left out)" if cut else "")


def never_waiting(path: str, flags: int) -> int:
    """Open it, and have no read wait for what somebody may write."""
    return os.open(path, flags | os.O_NONBLOCK)


def _reason(error: OSError | ValueError) -> str:
    """What people are told; a path that no file can have is a `ValueError`."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _listing(path: Path) -> str:
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    except (OSError, ValueError) as error:
        return f"(cannot be listed: {_reason(error)})"
    shown = names[: limits.LISTED_ENTRIES]
    left = len(names) - len(shown)
    return "\n".join(map(sayable, shown)) + (f"\n(and {left} more)" if left else "")
