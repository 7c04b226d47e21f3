from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from nst_common.atomic_file import CannotWriteError
from nst_deploy.bench.plot import COLORS, draw_plot, save_plot
from tests.nst_deploy.bench.rows import row


def bar_length(image: Image.Image, color: str) -> int:
    """px of the longest run of a colour in any line."""
    return int((np.asarray(image) == ImageColor.getrgb(color)).all(axis=2).sum(axis=1).max())


def test_bars_are_as_long_as_the_rates() -> None:
    image = draw_plot([row("cpu", 0.3), row("openvino", 0.1), row("openvino", 0.05, precision="bf16")], "speed")
    cpu, openvino, bf16 = (bar_length(image, color) for color in COLORS[:3])
    assert bf16 > 500
    assert openvino / bf16 == pytest.approx(1 / 2, abs=0.01)
    assert cpu / bf16 == pytest.approx(1 / 6, abs=0.01)


def test_a_png_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    image = draw_plot([row("cpu", 0.3), row("cpu", 0.5, size=(9, 9))], "speed")
    save_plot(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as written:
        assert written.format == "PNG"
        assert written.size == image.size
    with pytest.raises(CannotWriteError, match="no/such"):
        save_plot(tmp_path / "no/such/b.png", image)
