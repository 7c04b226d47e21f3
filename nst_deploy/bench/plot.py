"""Bars, drawn with Pillow: a plot is no reason to need a plotting library."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nst_common.atomic_file import atomic_write
from nst_deploy.bench.measure import Row

# px; drawn at twice the size that it is shown at, so that text stays sharp
WIDTH, MARGIN, BAR, GAP, TITLE = 1600, 48, 44, 28, 96
SCALE_ROOM = 280  # right of the longest bar, for its figure
FONT_SIZE = 28
COLORS = ("#2f6f9f", "#d08a2e", "#5a9a5a", "#9a5a8f", "#6f6f6f")
INK, PAPER = "#222222", "#ffffff"


@dataclass(frozen=True)
class Bar:
    """One bar of a group; bars of the same name have the same colour.

    Attributes:
        length: in any unit, the same for all bars of a plot; above 0.
        figure: what stands at its end.
    """

    group: str
    name: str
    length: float
    figure: str


def draw_plot(rows: Sequence[Row], title: str) -> Image.Image:
    """Groups of bars by size, the smallest first; longer is faster.

    Args:
        rows: at least one.
    """
    return draw_bars(
        [
            Bar(
                f"{row.width}x{row.height}",
                row.way.name,
                row.megapixels_per_second,
                f"{row.megapixels_per_second:.2f} MP/s, {1e3 * row.median:.0f} ms",
            )
            for row in sorted(rows, key=lambda row: (row.height * row.width, row.height, row.width))
        ],
        title,
    )


def draw_bars(bars: Sequence[Bar], title: str) -> Image.Image:
    """Groups of horizontal bars, groups and bars in the order in which they first come.

    Args:
        bars: at least one.
    """
    font = ImageFont.load_default(FONT_SIZE)
    groups, names = (list(dict.fromkeys(getattr(bar, field) for bar in bars)) for field in ("group", "name"))
    image = Image.new("RGB", (WIDTH, TITLE + len(bars) * BAR + len(groups) * (GAP + BAR) + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN - FONT_SIZE // 2), title, INK, ImageFont.load_default(FONT_SIZE + 6))
    left = MARGIN + max(round(draw.textlength(name, font)) for name in names) + GAP
    per_unit = (WIDTH - left - SCALE_ROOM) / max(bar.length for bar in bars)
    y = TITLE
    for group in groups:
        y += GAP
        draw.text((MARGIN, y), group, INK, font)
        y += BAR
        for bar in (bar for bar in bars if bar.group == group):
            end = left + max(1, round(bar.length * per_unit))
            draw.text((left - GAP // 2, y + BAR // 2), bar.name, INK, font, anchor="rm")
            draw.rectangle((left, y + 4, end, y + BAR - 4), COLORS[names.index(bar.name) % len(COLORS)])
            draw.text((end + GAP // 2, y + BAR // 2), bar.figure, INK, font, anchor="lm")
            y += BAR
    return image


def save_plot(path: Path, image: Image.Image) -> None:
    """Writes a PNG, atomically.

    Raises:
        CannotWriteError.
    """
    encoded = io.BytesIO()
    image.save(encoded, "PNG", optimize=True)
    with atomic_write(path) as partial:
        partial.write_bytes(encoded.getvalue())
