"""Sheets of labelled pictures, drawn with Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, PALE_INK = (255, 255, 255), (20, 20, 20), (120, 120, 120)
TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 24, 16, 13  # px, of the letters
MARGIN, GAP = 24, 12  # px, round the sheet and between tiles


class Tile(NamedTuple):
    """A picture with a label below it and a paler note below that."""

    image: Image.Image
    label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Tiles side by side with a heading above them."""

    heading: str
    tiles: Sequence[Tile]


def draw_sheet(
    title: str, rows: Sequence[Row], *, subtitle: str = "", tile_size: tuple[int, int] | None = None
) -> Image.Image:
    """Draws ``rows`` below each other on white.

    Args:
        title, subtitle: at the top.
        rows: at least one tile in all.
        tile_size: width and height that every picture is brought to, px; None leaves them as they are.

    Returns:
        An RGB image, as large as it needs to be.
    """
    drawn = [_draw_row(row, tile_size) for row in rows]
    head = _draw_head(title, subtitle)
    parts = [head, *drawn]
    width = max(part.width for part in parts) + 2 * MARGIN
    height = sum(part.height + GAP for part in parts) - GAP + 2 * MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, top))
        top += part.height + GAP
    return sheet


def _draw_head(title: str, subtitle: str) -> Image.Image:
    lines = [(title, TITLE_SIZE, INK)] + ([(subtitle, NOTE_SIZE, PALE_INK)] if subtitle else [])
    return _draw_lines(lines)


def _draw_row(row: Row, tile_size: tuple[int, int] | None) -> Image.Image:
    columns = [_draw_tile(tile, tile_size) for tile in row.tiles]
    heading_height = LABEL_SIZE + GAP if row.heading else 0
    width = sum(column.width + GAP for column in columns) - GAP
    width = max(width, _text_width(row.heading, LABEL_SIZE))
    drawn = Image.new("RGB", (width, heading_height + max(column.height for column in columns)), PAPER)
    if row.heading:
        ImageDraw.Draw(drawn).text((0, 0), row.heading, INK, _font(LABEL_SIZE))
    left = 0
    for column in columns:
        drawn.paste(column, (left, heading_height))
        left += column.width + GAP
    return drawn


def _draw_tile(tile: Tile, size: tuple[int, int] | None) -> Image.Image:
    image = tile.image.convert("RGB")
    if size is not None and image.size != size:
        # A feature map shows its own pixels; only shrinking may blur.
        method = Image.Resampling.NEAREST if image.height < size[1] else Image.Resampling.LANCZOS
        image = image.resize(size, method)
    captions = ((tile.label, LABEL_SIZE, INK), (tile.note, NOTE_SIZE, PALE_INK))
    lines = [line for line in captions if line[0]]
    if not lines:
        return image
    caption = _draw_lines(lines)
    drawn = Image.new("RGB", (max(image.width, caption.width), image.height + GAP // 2 + caption.height), PAPER)
    drawn.paste(image, (0, 0))
    drawn.paste(caption, (0, image.height + GAP // 2))
    return drawn


def _draw_lines(lines: Sequence[tuple[str, int, tuple[int, int, int]]]) -> Image.Image:
    """Text below each other; each line is its text, the letters' size in px and its colour."""
    width = max(_text_width(text, size) for text, size, _ in lines)
    drawn = Image.new("RGB", (width, sum(round(size * 1.35) for _, size, _ in lines)), PAPER)
    top = 0
    for text, size, ink in lines:
        ImageDraw.Draw(drawn).text((0, top), text, ink, _font(size))
        top += round(size * 1.35)
    return drawn


def _text_width(text: str, size: int) -> int:
    return int(_font(size).getlength(text)) + 1


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
