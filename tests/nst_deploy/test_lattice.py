"""A net that upsamples by phases can print a lattice of 4 px over every picture; no shipped style may show one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nst_deploy import Stylizer
from nst_deploy.export.parity import bundled_photographs
from nst_deploy.styles import bundled_styles

PERIOD = 4  # px: two upsamplings by 2
MOST = 5.0  # levels between the lightest and the darkest place of a block; photographs have about 0.5
Pixels = NDArray[np.uint8]


def lattice(pictures: list[Pixels]) -> float:
    """Levels from the darkest to the lightest of the PERIOD x PERIOD places of a block, in the worst channel.

    Every place's mean over all blocks of all pictures, uint8 ``[H, W, 3]``; what is drawn there averages out, and what
    the net prints everywhere alike stays.
    """
    blocks = [_blocks(picture).reshape(-1, PERIOD, PERIOD, 3) for picture in pictures]
    places = np.concatenate(blocks).mean(axis=0)  # [PERIOD, PERIOD, 3]
    return float(np.ptp(places, axis=(0, 1)).max())


def _blocks(picture: Pixels) -> NDArray[np.float64]:
    """``[H, W, 3]`` -> ``[rows, columns, PERIOD, PERIOD, 3]``; what is left over right and below is cut away."""
    rows, columns = picture.shape[0] // PERIOD, picture.shape[1] // PERIOD
    whole = picture[: rows * PERIOD, : columns * PERIOD].astype(np.float64)
    return whole.reshape(rows, PERIOD, columns, PERIOD, 3).transpose(0, 2, 1, 3, 4)


def test_photographs_have_none() -> None:
    assert lattice(bundled_photographs()) < 1


def test_a_lattice_is_seen() -> None:
    pictures = [photo // 2 + 20 for photo in bundled_photographs()]
    before = lattice(pictures)
    for picture in pictures:
        picture[1::PERIOD, 2::PERIOD, 1] += 10
    assert lattice(pictures) == pytest.approx(10, abs=before)


@pytest.mark.parametrize("name", bundled_styles())
def test_a_shipped_style_prints_no_lattice(name: str) -> None:
    with Stylizer(name, device="cpu") as stylize:
        printed = lattice([stylize(photo) for photo in bundled_photographs()])
    assert printed < MOST, f"{printed:.1f} levels"
