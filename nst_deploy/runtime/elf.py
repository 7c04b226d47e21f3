"""What a shared library of Linux needs, read from its file: loading it to find out would run its code."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
LOADED, DYNAMIC = 1, 2  # kinds of segments
END, NEEDED, NAMES = 0, 1, 5  # kinds of entries in the dynamic one
HEADER, SEGMENT, ENTRY = struct.Struct("<16xHHIQQQIHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<QQ")


def needed_libraries(library: Path) -> tuple[str, ...]:
    """The names that the system's loader will look for, such as ``libcudart.so.13``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such library.
    """
    with library.open("rb") as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise ValueError(f"{library.name} is no 64-bit ELF file")
        _, _, _, _, table, _, _, _, size, count = HEADER.unpack(header)
        segments = [SEGMENT.unpack(_read(file, table + i * size, SEGMENT.size)) for i in range(count)]
        entries: list[tuple[int, int]] = []
        for kind, _, at, _, _, length, *_ in segments:
            if kind == DYNAMIC:
                entries += _entries(file, at, length)
        names, base = next((value for kind, value in entries if kind == NAMES), 0), 0
        for kind, _, at, address, _, length, *_ in segments:
            if kind == LOADED and address <= names < address + length:
                base = at - address  # entries tell where things will be in memory
        return tuple(_name(file, base + names + value) for kind, value in entries if kind == NEEDED)


def _entries(file: BinaryIO, at: int, length: int) -> Iterator[tuple[int, int]]:
    for kind, value in ENTRY.iter_unpack(_read(file, at, length - length % ENTRY.size)):
        if kind == END:
            return
        yield kind, value


def _name(file: BinaryIO, at: int) -> str:
    return _read(file, at, 256, short=True).split(b"\0")[0].decode()


def _read(file: BinaryIO, at: int, size: int, *, short: bool = False) -> bytes:
    file.seek(at)
    content = file.read(size)
    if len(content) < size and not short:
        raise ValueError("it is cut short")
    return content
