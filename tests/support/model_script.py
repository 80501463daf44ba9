"""What one call to the scripted model does, and the bytes that answer it: pure, no sockets.

A call's script is written in the model's name, or in `[[...]]` in the last user message, which
wins. The words are listed in `scripted_model.py`.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
from typing import Any

FILL = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor "
_SPEC_IN_TEXT = re.compile(r"\[\[(fake[^\]]*)\]\]")
_ARGS_IN_TEXT = re.compile(r"\[\[args:(.*?)\]\]", re.DOTALL)
_SAY_IN_TEXT = re.compile(r"\[\[say:(.*?)\]\]", re.DOTALL)
_NUMBERED = re.compile(r"(n|d|s|e|cut|reason|stall|fail|slowstart|choices|crowd)(\d+)")
_NAMED = re.compile(r"(tool|code)(.+)")


class Script:
    """What one call does, parsed from its words."""

    __slots__ = ("flags", "names", "numbers")

    def __init__(self, spec: str) -> None:
        self.numbers: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.flags: set[str] = set()
        if not spec.startswith("fake"):
            return
        for word in spec.split("-")[1:]:
            if numbered := _NUMBERED.fullmatch(word):
                self.numbers[numbered[1]] = int(numbered[2])
            elif named := _NAMED.fullmatch(word):
                self.names[named[1]] = named[2]
            else:
                self.flags.add(word)

    def number(self, name: str, default: int) -> int:
        return self.numbers.get(name, default)


@functools.lru_cache(maxsize=1024)
def parse_script(spec: str) -> Script:
    return Script(spec)


def chunk_text(index: int, size: int) -> str:
    """The text of chunk `index`: `w3 lorem ips`, cut to `size` letters."""
    start = f"w{index} "
    if size <= len(start):
        return start[: max(1, size)]
    rest = size - len(start)
    return start + (FILL * (rest // len(FILL) + 1))[:rest]


def _fragment(index: int, content: str) -> bytes:
    role = '"role":"assistant",' if index == 0 else ""
    return f'{{{role}"content":{json.dumps(content)}}},"finish_reason":null}}]}}\n\n'.encode()


@functools.lru_cache(maxsize=8192)
def _filler_fragment(index: int, size: int) -> bytes:
    return _fragment(index, chunk_text(index, size))


def text_of(content: Any) -> str:
    """The text of a message's content, whether a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return ""


class Call:
    """One chat completion: who asked for what, and the bytes that answer it."""

    def __init__(self, number: int, body: dict[str, Any], size: int) -> None:
        messages = body.get("messages") or []
        users = [text_of(m.get("content")) for m in messages if m.get("role") == "user"]
        self.messages = messages
        self.users = users
        self.size = size
        self.last_user = users[-1] if users else ""
        named = _SPEC_IN_TEXT.search(self.last_user)
        self.spec = named[1] if named else str(body.get("model", ""))
        self.script = parse_script(self.spec)
        self.stream = bool(body.get("stream"))
        self.id = f"chatcmpl-{number}"
        self.call_id = f"call_{number}"
        self.created = int(time.time())
        self.model = body.get("model")
        self.texts = self._texts()
        self.count = len(self.texts) if self.texts is not None else self.script.number("n", 1)
        self.head = (
            f'data: {{"id":"{self.id}","object":"chat.completion.chunk",'
            f'"created":{self.created},"model":{json.dumps(self.model)},'
        ).encode()
        self.choice = self.head + b'"choices":[{"index":0,"delta":'

    def _texts(self) -> list[str] | None:
        flags = self.script.flags
        said = _SAY_IN_TEXT.search(self.last_user)
        if said or "say" in flags:
            text = said[1].strip() if said else ""
        elif "history" in flags:
            text = " | ".join(self.users)
        elif "echo" in flags:
            text = f"messages={len(self.messages)} users={len(self.users)} bytes={self.size}"
        else:
            return None
        parts = max(1, self.script.number("n", 1))
        step = max(1, -(-len(text) // parts))
        return [text[i : i + step] for i in range(0, len(text), step)] or [""]

    @property
    def tool(self) -> str | None:
        """The tool to call in this round; none once its result has come back."""
        for message in reversed(self.messages):
            if message.get("role") == "tool":
                return None
            if message.get("role") == "user":
                break
        return self.script.names.get("tool")

    @property
    def roles_alternate(self) -> bool:
        """Whether no two of the messages behind each other are of one role."""
        roles = [m.get("role") for m in self.messages]
        return all(one != other for one, other in itertools.pairwise(roles))

    @property
    def arguments(self) -> str:
        found = _ARGS_IN_TEXT.search(self.last_user)
        return found[1] if found else "{}"

    @property
    def finish_reason(self) -> str:
        return "length" if "length" in self.script.flags else "stop"

    def usage(self) -> dict[str, int]:
        prompt = -(-self.size // 4)
        completion = self.script.number("n", 1)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def event(self, index: int) -> bytes:
        """Chunk `index` as an event; reasoning chunks come first."""
        reasons = self.script.number("reason", 0)
        if index < reasons:
            thought = json.dumps({"reasoning_content": f"r{index} "})
            return self.choice + thought.encode() + b',"finish_reason":null}]}\n\n'
        index -= reasons
        if self.texts is not None:
            fragment = _fragment(index, self.texts[index])
        else:
            size = self.script.number("s", 5)
            make = _filler_fragment if size <= 4096 else _filler_fragment.__wrapped__
            fragment = make(index, size)
        if "badutf8" in self.script.flags:
            fragment = fragment.replace(b'"content":"', b'"content":"\xff\xfe', 1)
        return self.choice + fragment

    def tail(self) -> bytes:
        """What follows the last chunk: the finish reason, the usage, and the end mark."""
        if "nodone" in self.script.flags:
            return b""
        if "fail" in self.script.numbers:
            return b"data: " + json.dumps(self.error("fake error in the stream")).encode() + b"\n\n"
        finish = b""
        if "empty" not in self.script.flags:
            reason = "tool_calls" if self.tool else self.finish_reason
            finish = self.choice + f'{{}},"finish_reason":"{reason}"}}]}}\n\n'.encode()
        usage = self.head + b'"choices":[],"usage":' + json.dumps(self.usage()).encode() + b"}\n\n"
        return finish + usage + b"data: [DONE]\n\n"

    def tool_events(self, tool: str) -> list[bytes]:
        opening = {
            "role": "assistant",
            "content": chunk_text(0, 5) if "stall" in self.script.numbers else None,
            "tool_calls": [
                {
                    "index": 0,
                    "id": self.call_id,
                    "type": "function",
                    "function": {"name": tool, "arguments": ""},
                }
            ],
        }
        rest = {"tool_calls": [{"index": 0, "function": {"arguments": self.arguments}}]}
        return [
            self.choice + json.dumps(delta).encode() + b',"finish_reason":null}]}\n\n'
            for delta in (opening, rest)
        ]

    def error(self, message: str, status: int = 500) -> dict[str, Any]:
        code = self.script.names.get("code") or ("invalid_api_key" if status == 401 else None)
        kind = "invalid_request_error" if status == 401 else "server_error"
        return {"error": {"message": message, "type": kind, "code": code}}

    def whole(self) -> bytes:
        """The answer of a call that does not stream."""
        choices = []
        if "empty" not in self.script.flags:
            choices = [self._choice(i) for i in range(self.script.number("choices", 1))]
        answer = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": self.usage(),
        }
        out = json.dumps(answer).encode()
        if "badutf8" in self.script.flags:
            out = out.replace(b'"content": "', b'"content": "\xff\xfe', 1)
        return out

    def _choice(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        finish: str | None = self.finish_reason
        if tool := self.tool:
            call = {"name": tool, "arguments": self.arguments}
            ident = self.call_id if index == 0 else f"{self.call_id}_{index}"
            message["tool_calls"] = [{"id": ident, "type": "function", "function": call}]
            finish = "tool_calls"
        elif self.texts is not None:
            message["content"] = "".join(self.texts)
        else:
            size = self.script.number("s", 5)
            message["content"] = "".join(chunk_text(i, size) for i in range(self.count))
        if thoughts := self.script.number("reason", 0):
            message["reasoning_content"] = "".join(f"r{i} " for i in range(thoughts))
        if "nodone" in self.script.flags:
            finish = None
        return {"index": index, "message": message, "finish_reason": finish}

    def summary(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": self.spec,
            "path": path,
            "n": len(self.messages),
            "users": len(self.users),
            "bytes": self.size,
            "stream": self.stream,
            "tools": len(body.get("tools") or []),
            "roles": ",".join(str(m.get("role")) for m in self.messages[:40]),
            "lastUser": self.last_user[-80:],
        }
