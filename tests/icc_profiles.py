"""Small ICC profiles (version 2.4) built from the specification, whose effect is known by a formula."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# sRGB's primaries adapted to D50, as columns of the matrix to XYZ (IEC 61966-2-1, Bradford).
SRGB_PRIMARIES = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}


def linear_grey() -> bytes:
    """Grey whose values are proportional to light."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _gamma(1.0)})


def linear_rgb() -> bytes:
    """sRGB's primaries, values proportional to light."""
    curves = {tag: _gamma(1.0) for tag in (b"rTRC", b"gTRC", b"bTRC")}
    return _profile(b"RGB ", b"mntr", b"XYZ ", {tag: _xyz(*xyz) for tag, xyz in SRGB_PRIMARIES.items()} | curves)


def cmyk_of_one_color(lab: tuple[int, int, int]) -> bytes:
    """CMYK whose colours all print the same, and whose black prints black.

    Args:
        lab: the colour: L 0..255 (for 0..100), a and b 0..255 (for -128..127).
    """
    ramp = bytes(range(256))
    table = (bytes(lab) + bytes([0, 128, 128])) * 2**3  # a grid of two points for each of four inks, K fastest
    head = b"mft1" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0)
    identity = b"".join(struct.pack(">i", 65536 if i in (0, 4, 8) else 0) for i in range(9))
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": head + identity + ramp * 4 + table + ramp * 3})


def srgb_from_light(light: float) -> float:
    """The sRGB transfer function: 0..1 -> 0..255."""
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def srgb_from_lab(lightness: float, a: float, b: float) -> list[float]:
    """CIE Lab (D50) -> sRGB 0..255, clipped."""
    fy = (lightness + 16) / 116
    ratios = [f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29) for f in (fy + a / 500, fy, fy - b / 200)]
    xyz = np.array(ratios) * D50
    light = np.linalg.solve(np.array(list(SRGB_PRIMARIES.values())).T, xyz)
    return [srgb_from_light(min(1.0, max(0.0, value))) for value in light]


def _profile(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _description(), b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(*D50)} | tags
    offset = 128 + 4 + 12 * len(tags)
    directory, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        directory += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(*D50)[8:]
    return head.ljust(128, b"\0") + directory + body


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in (x, y, z)))


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _description() -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
