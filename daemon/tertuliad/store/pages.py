"""A damaged database file, read page by page: the rows that are still there, whatever is not.

It follows SQLite's file format (https://www.sqlite.org/fileformat.html) and asks nothing of SQLite,
which refuses a file whose first page, length or inner nodes are off. Rows are found in the leaves
of tables; what the write-ahead log has committed lies over the file. Pages that were given back are
passed over where the list of them can be read, so that what was deleted stays deleted. Memory: one
page and one row. Nothing is written here.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tertuliad.store.schema import PAGE_BYTES

Value = int | float | str | bytes | None

MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}

_TABLE_LEAF = 13
_LEAF_HEADER = 8
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of an integer, by its serial type."""


class Found(NamedTuple):
    """A row, whose table nobody knows."""

    row_id: int
    values: list[Value]


class _Committed(NamedTuple):
    """What a write-ahead log has committed: where it has each page, and how many pages the database
    had then. `end` is where the frames end that follow on each other. `page_size` None: it is no
    such log."""

    page_size: int | None
    newer: dict[int, int]
    pages: int
    end: int


class Image:
    """The pages of a database as its last commit left them, as far as they can be read."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`. A missing file is an empty one: its log may still be there."""
        self._file = _opened(path)
        self._wal = _opened(path.with_name(path.name + "-wal"))
        header = _at(self._file, 0, 100)
        log = _committed(self._wal)
        self._newer = log.newer
        self.page_size = log.page_size or _page_size(header) or PAGE_BYTES
        in_file = -(-os.fstat(self._file.fileno()).st_size // self.page_size) if self._file else 0
        self.pages = max(in_file, log.pages, max(self._newer, default=0))

    def close(self) -> None:
        for file in (self._file, self._wal):
            if file is not None:
                file.close()

    def page(self, number: int) -> bytes:
        """What is missing of a page is zeros."""
        offset = self._newer.get(number)
        if offset is not None:
            data = _at(self._wal, offset, self.page_size)
        else:
            data = _at(self._file, (number - 1) * self.page_size, self.page_size)
        return data.ljust(self.page_size, b"\0")

    def rows(self) -> Iterator[Found]:
        """The rows of every table, in the order of the file; rows that are cut are left out."""
        free = self.free_pages() or frozenset()
        for number in range(1, self.pages + 1):
            if number not in free:
                yield from self._rows_of(number)

    def free_pages(self) -> frozenset[int] | None:
        """The pages that were given back; None: the list of them cannot be read."""
        header = self.page(1)[:100]
        if not header.startswith(MAGIC):
            return None
        trunk, count = struct.unpack(">II", header[32:40])
        found: set[int] = set()
        while trunk:
            if not 1 < trunk <= self.pages or trunk in found:
                return None
            found.add(trunk)
            page = self.page(trunk)
            trunk, leaves = struct.unpack(">II", page[:8])
            if leaves > self.page_size // 4 - 2:
                return None
            found.update(struct.unpack(f">{leaves}I", page[8 : 8 + 4 * leaves]))
        return frozenset(found) if len(found) == count else None

    def _rows_of(self, number: int) -> Iterator[Found]:
        page = self.page(number)
        start = 100 if number == 1 else 0
        if page[start] != _TABLE_LEAF:
            return
        (cells,) = struct.unpack_from(">H", page, start + 3)
        pointers = start + _LEAF_HEADER
        if pointers + 2 * cells > self.page_size:
            return
        for at in struct.unpack_from(f">{cells}H", page, pointers):
            with contextlib.suppress(_Broken, struct.error, IndexError, UnicodeDecodeError):
                yield self._row(page, at)

    def _row(self, page: bytes, at: int) -> Found:
        size, at = _varint(page, at)
        row_id, at = _varint(page, at)
        return Found(_signed(row_id), _values(self._payload(page, at, size)))

    def _payload(self, page: bytes, at: int, size: int) -> bytes:
        if size > self.pages * self.page_size:
            raise _Broken
        local = self._local(size)
        payload = bytearray(page[at : at + local])
        at += local
        follow = struct.unpack_from(">I", page, at)[0] if local < size else 0
        while len(payload) < size:
            if not 1 < follow <= self.pages:
                raise _Broken
            more = self.page(follow)
            (follow,) = struct.unpack_from(">I", more)
            payload += more[4 : 4 + size - len(payload)]
        return bytes(payload)

    def _local(self, size: int) -> int:
        """How much of a payload lies in the leaf itself."""
        usable = self.page_size
        if size <= usable - 35:
            return size
        least = (usable - 12) * 32 // 255 - 23
        wanted = least + (size - least) % (usable - 4)
        return wanted if wanted <= usable - 35 else least


class _Broken(Exception):
    """These bytes are no row."""


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _at(file: BinaryIO | None, offset: int, size: int) -> bytes:
    return b"" if file is None else os.pread(file.fileno(), size, offset)


def _page_size(header: bytes) -> int | None:
    if not header.startswith(MAGIC):
        return None
    size = int.from_bytes(header[16:18], "big")
    return _sound_size(65536 if size == 1 else size)


def _sound_size(size: int) -> int | None:
    return size if 512 <= size <= 65536 and size & (size - 1) == 0 else None


def lost_commits(database: Path) -> int:
    """How many commits of the write-ahead log stand behind a damaged place, which SQLite takes for
    the log's end. What an earlier round, or a commit that was cut, has left behind the end is none.
    Raises `OSError`."""
    wal = _opened(database.with_name(database.name + "-wal"))
    if wal is None:
        return 0
    with wal:
        log = _committed(wal)
        size = log.page_size
        if size is None:
            return 0
        salts = _at(wal, 16, 8)
        length = os.fstat(wal.fileno()).st_size
        heads = (_at(wal, at, 24) for at in range(log.end, length - size - 23, 24 + size))
        return sum(1 for head in heads if head[8:16] == salts and any(head[4:8]))


_NO_LOG = _Committed(None, {}, 0, 0)


def _committed(wal: BinaryIO | None) -> _Committed:
    header = _at(wal, 0, 32)
    order = _WAL_MAGIC.get(int.from_bytes(header[:4], "big")) if len(header) == 32 else None
    size = _sound_size(int.from_bytes(header[8:12], "big")) if order else None
    if order is None or size is None:
        return _NO_LOG
    newer: dict[int, int] = {}
    waiting: dict[int, int] = {}
    pages, offset, salts = 0, 32, header[16:24]
    sums = _checksum(order, header[:24], (0, 0))
    if sums != struct.unpack(">II", header[24:32]):
        return _NO_LOG
    while len(frame := _at(wal, offset, 24 + size)) == 24 + size:
        sums = _checksum(order, frame[:8] + frame[24:], sums)
        if frame[8:16] != salts or struct.unpack(">II", frame[16:24]) != sums:
            break
        number, commit = struct.unpack(">II", frame[:8])
        waiting[number] = offset + 24
        if commit:
            newer.update(waiting)
            waiting, pages = {}, commit
        offset += 24 + size
    return _Committed(size, {n: at for n, at in newer.items() if n <= pages}, pages, offset)


def _checksum(order: str, data: bytes, start: tuple[int, int]) -> tuple[int, int]:
    one, two = start
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return one, two


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _values(payload: bytes) -> list[Value]:
    """The columns of a record."""
    end, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if at != end:
        raise _Broken
    values: list[Value] = []
    for kind in kinds:
        value, end = _value(payload, end, kind)
        values.append(value)
    if end != len(payload):
        raise _Broken
    return values


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if (size := _INTEGERS.get(kind)) is not None:
        return int.from_bytes(payload[at : at + size], "big", signed=True), at + size
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind < 12:
        raise _Broken
    size = (kind - 12) // 2
    data = payload[at : at + size]
    if len(data) < size:
        raise _Broken
    return (data if kind % 2 == 0 else data.decode()), at + size
