"""Draws engines/gallery.jpg: both photographs of the package in every bundled base style.

python engines/gallery.py
"""

from pathlib import Path

from PIL import Image

from nst_common.atomic_file import atomic_write
from nst_deploy import Stylizer
from nst_deploy.export.parity import PHOTOGRAPHS
from nst_deploy.styles import bundled_styles
from nst_train.contact_sheet import Row, Tile, draw_sheet

GALLERY = Path(__file__).parent / "gallery.jpg"


def main() -> None:
    styles = {name: engine for name, engine in bundled_styles().items() if not name.endswith("_half")}
    stylizers = {name: Stylizer(engine) for name, engine in styles.items()}
    rows = []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        photo = Image.open(path).convert("RGB")
        tiles = [Tile(photo, "photograph")]
        tiles += [Tile(stylize(photo), name) for name, stylize in stylizers.items()]
        half = (len(tiles) + 1) // 2
        rows += [Row("", tiles[:half]), Row("", tiles[half:])]
    sheet = draw_sheet("One pass each, 480x320 px", rows, tile_size=(480, 320))
    with atomic_write(GALLERY) as partial:
        sheet.save(partial, "JPEG", quality=88)


if __name__ == "__main__":
    main()
