"""The lattice that a net may print on every picture, and a loss against it.

A net that halves the resolution twice treats each pixel by its place in a block of 4x4: what the blocks of a picture
have in common beyond their mean shows as a fine lattice in even places, such as skies. (That strided and
fractionally-strided layers print such patterns: Odena, Dumoulin & Olah 2016, "Deconvolution and Checkerboard
Artifacts".) Photographs and paintings have next to none.
"""

from torch import Tensor

from nst_train.losses import at_least_float32

PERIOD = 4  # px; TransformNet halves the resolution twice


def grid_pattern(image: Tensor) -> Tensor:
    """Mean of all whole blocks of a picture, without the mean over the block.

    Args:
        image: float ``[N, C, H, W]``; rows and columns beyond the last whole block are left out.

    Returns:
        float32 or better ``[N, C, 4, 4]``, in the picture's units.
    """
    count, channels, height, width = image.shape
    rows, columns = height // PERIOD, width // PERIOD
    whole = image[..., : rows * PERIOD, : columns * PERIOD]
    blocks = at_least_float32(whole).reshape(count, channels, rows, PERIOD, columns, PERIOD)
    pattern = blocks.mean(dim=(2, 4))  # [N, C, 4, 4]
    return pattern - pattern.mean(dim=(2, 3), keepdim=True)


def grid_loss(image: Tensor) -> Tensor:
    """Mean square of the pattern: a scalar, the mean over the pictures; in squared levels for pictures in 0..255."""
    return grid_pattern(image).square().mean()
