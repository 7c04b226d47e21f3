"""Bars of megapixels per second, drawn with Pillow: a plot is no reason to need a plotting library."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nst_common.atomic_file import atomic_write
from nst_deploy.bench.measure import Row, variant_name

# px; drawn at twice the size that it is shown at, so that text stays sharp
WIDTH, MARGIN, BAR, GAP, TITLE = 1600, 48, 44, 28, 96
SCALE_ROOM = 280  # right of the longest bar, for its figure
FONT_SIZE = 28
COLORS = ("#2f6f9f", "#d08a2e", "#5a9a5a", "#9a5a8f", "#6f6f6f")
INK, PAPER = "#222222", "#ffffff"


def draw_plot(rows: Sequence[Row], title: str) -> Image.Image:
    """Groups of bars by size, the smallest first; longer is faster.

    Args:
        rows: at least one.
    """
    font = ImageFont.load_default(FONT_SIZE)
    sizes = sorted({(row.height, row.width) for row in rows}, key=lambda size: (size[0] * size[1], size))
    names = list(dict.fromkeys(variant_name(row.device, row.precision) for row in rows))
    height = TITLE + len(rows) * BAR + len(sizes) * (GAP + BAR) + MARGIN
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN - FONT_SIZE // 2), title, INK, ImageFont.load_default(FONT_SIZE + 6))
    left = MARGIN + max(round(draw.textlength(name, font)) for name in names) + GAP
    per_unit = (WIDTH - left - SCALE_ROOM) / max(row.megapixels_per_second for row in rows)
    y = TITLE
    for size in sizes:
        y += GAP
        draw.text((MARGIN, y), f"{size[1]}x{size[0]}", INK, font)
        y += BAR
        for row in (row for row in rows if (row.height, row.width) == size):
            name = variant_name(row.device, row.precision)
            end = left + max(1, round(row.megapixels_per_second * per_unit))
            draw.text((left - GAP // 2, y + BAR // 2), name, INK, font, anchor="rm")
            draw.rectangle((left, y + 4, end, y + BAR - 4), COLORS[names.index(name) % len(COLORS)])
            figure = f"{row.megapixels_per_second:.2f} MP/s, {1e3 * row.median:.0f} ms"
            draw.text((end + GAP // 2, y + BAR // 2), figure, INK, font, anchor="lm")
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
