"""Parity figures against their formulas."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy.errors import ParityError, PictureSizeError, PictureUnreadableError
from nst_deploy.export.parity import ODD_SIZE, compare, verification_pictures
from nst_deploy.parity_limit import LIMITS, ParityLimit

GREY = np.full((4, 5, 3), 100, np.uint8)


def shifted(values: int, levels: int) -> object:
    """An engine whose first values differ by some levels."""

    def run(batch: np.ndarray) -> np.ndarray:
        styled = batch.copy()
        styled.reshape(-1)[:values] += np.uint8(levels)
        return styled

    return run


def test_figures_are_those_of_the_formulas() -> None:
    report = compare(lambda batch: batch, shifted(6, 3), "fake", [("a", GREY), ("b", GREY)])
    assert report.parity.max_levels == 3
    assert report.parity.identical == pytest.approx(54 / 60)
    assert report.parity.psnr_db == pytest.approx(10 * math.log10(255**2 / (9 * 6 / 60)))
    assert report.parity.backend == "fake"


def test_pictures_weigh_by_their_size() -> None:
    def run(batch: np.ndarray) -> np.ndarray:
        return batch + np.uint8(batch.shape[1] == 4)

    report = compare(lambda batch: batch, run, "fake", [("small", GREY), ("large", np.zeros((40, 5, 3), np.uint8))])
    assert report.parity.identical == pytest.approx(10 / 11)


def test_equal_pictures_have_no_decibels_but_pass() -> None:
    report = compare(lambda batch: batch, lambda batch: batch, "fake", [("a", GREY)])
    assert report.parity.psnr_db is None
    assert "equal" in report.table()
    report.require(ParityLimit(max_levels=0, min_psnr_db=99.0))


def test_levels_beyond_the_wrap_of_uint8_count_in_full() -> None:
    report = compare(np.zeros_like, lambda b: np.full_like(b, 255), "fake", [("a", GREY)])
    assert report.parity.max_levels == 255


@pytest.mark.parametrize(
    ("limit", "passes"), [(LIMITS["fp32"], False), (ParityLimit(2), True), (ParityLimit(2, 60), False)]
)
def test_limits(limit: ParityLimit, passes: bool) -> None:
    report = compare(lambda batch: batch, shifted(60, 2), "fake", [("a", GREY)])
    if passes:
        report.require(limit)
    else:
        with pytest.raises(ParityError, match=r"2 levels, 42\.1 dB"):
            report.require(limit)


def test_a_limit_of_decibels_alone_allows_any_level() -> None:
    report = compare(lambda batch: batch, shifted(1, 100), "fake", [("a", np.zeros((40, 50, 3), np.uint8))])
    report.require(LIMITS["int8"])  # one value of 6000: 46 dB
    with pytest.raises(ParityError, match=r"up to 100 levels, 45\.9 dB; allowed is at least 50 dB;"):
        report.require(ParityLimit(max_levels=None, min_psnr_db=50.0))


def test_bundled_photographs_come_at_two_sizes_one_odd() -> None:
    pictures = verification_pictures()
    assert len(pictures) == 4
    sizes = {image.shape[:2] for _, image in pictures}
    assert ODD_SIZE in sizes
    assert len(sizes) == 2
    assert ODD_SIZE[0] % 2 == ODD_SIZE[1] % 2 == 1
    assert ODD_SIZE[0] != ODD_SIZE[1]
    assert all(image.std() > 30 for _, image in pictures)  # photographs, not planes


def test_own_pictures_and_a_static_size(tmp_path: Path) -> None:
    Image.new("L", (21, 34)).save(tmp_path / "a.png")
    assert [i.shape for _, i in verification_pictures([tmp_path / "a.png"])] == [(34, 21, 3), (*ODD_SIZE, 3)]
    assert [i.shape for _, i in verification_pictures([tmp_path / "a.png"], (16, 24))] == [(16, 24, 3)]
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(PictureUnreadableError):
        verification_pictures([tmp_path / "b.png"])


def test_a_picture_that_is_too_small_to_compare_is_named(tmp_path: Path) -> None:
    Image.new("L", (3, 34)).save(tmp_path / "thin.png")
    with pytest.raises(PictureSizeError, match=r"3x34 px .*thin\.png"):
        verification_pictures([tmp_path / "thin.png"])
