"""Picture files that no encoder would write, and what a folder holds."""

import struct
import zlib
from pathlib import Path


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def names_in(folder: Path) -> list[str]:
    """Of everything in the folder, hidden or not, so that a forgotten partial file shows."""
    return sorted(path.name for path in folder.iterdir())
