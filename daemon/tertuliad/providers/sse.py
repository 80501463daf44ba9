"""An incremental reader of server-sent events: bytes in, the data of whole events out.

Pure. Line ends are LF, CRLF or CR, however the bytes are cut; comments and fields other than
`data` are dropped, and the lines of one event's data are joined with LF (WHATWG HTML, 9.2.6).
Unlike that text, `end` also gives an event that lacks its closing blank line: servers forget it.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event is larger than the reader's bound."""


class SseReader:
    """Reads one stream. `max_bytes` bounds one event, counted without its line ends."""

    __slots__ = ("_after_cr", "_data", "_line", "_max", "_size", "_started")

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._line: list[bytes] = []  # pieces of the line that is not ended yet
        self._data: list[bytes] = []  # data lines of the event that is not ended yet
        self._size = 0  # bytes in both
        self._after_cr = False  # the last byte was a CR: an LF now belongs to it
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes. Raises `EventTooLarge`."""
        if not self._size and chunk[:6] == b"data: " and chunk[-2:] == b"\n\n":
            # The common case: whole events, each of one line.
            events = chunk[6:-2].split(b"\n\ndata: ")
            if chunk.count(b"\n") == 2 * len(events) and b"\r" not in chunk:
                if len(chunk) > self._max and max(map(len, events)) > self._max:
                    raise EventTooLarge
                self._started = True
                self._after_cr = False
                return events
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 10:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == 13
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = chunk.split(b"\n")
        self._grow(len(first))
        if first:
            self._line.append(first)
        if not rest:
            return []
        lines = [b"".join(self._line), *rest]
        last = lines.pop()
        events = self._take(lines)
        self._line = [last] if last else []
        self._grow(len(last))
        return events

    def end(self) -> list[bytes]:
        """The data of an event that the end of the stream left open, if there is one."""
        return self.feed(b"\n\n") if self._line or self._data else []

    def _take(self, lines: list[bytes]) -> list[bytes]:
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        events = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
            elif line == b"data":
                data.append(b"")
        self._size = sum(map(len, data)) + len(data)
        if self._size > self._max:
            raise EventTooLarge
        return events

    def _grow(self, count: int) -> None:
        self._size += count
        if self._size > self._max:
            raise EventTooLarge
