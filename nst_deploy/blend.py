"""Mixing a styled picture with its photograph."""

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in JPEG's YCbCr


def blend(
    photo: NDArray[np.uint8], styled: NDArray[np.uint8], *, strength: float = 1.0, keep_color: bool = False
) -> NDArray[np.uint8]:
    """``photo + strength * (styled - photo)``, with the photograph's colour where asked for.

    Args:
        photo, styled: uint8 ``[..., H, W, 3]``, RGB, of equal shape.
        strength: 0 gives the photograph, 1 the styled picture.
        keep_color: take only the luminance of ``styled``; chroma (Cb, Cr of BT.601) stays the photograph's.

    Returns:
        uint8, a new array unless nothing was asked for; values are clamped and rounded half to even.
    """
    if strength == 1.0 and not keep_color:
        return styled
    base = photo.astype(np.float32)
    change = styled.astype(np.float32) - base
    if keep_color:
        # R, G and B each are Y plus a function of the chroma alone, so a change of Y is the same change of all three.
        change = (change @ LUMA)[..., None]
    mixed: NDArray[np.float32] = np.clip(base + np.float32(strength) * change, 0, 255)
    return np.rint(mixed).astype(np.uint8)
