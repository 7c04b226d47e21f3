"""The papers' loss functions, pure and without weights.

Every loss is first computed for each picture of the batch; ``reduction`` then takes their mean over N (the default) or
returns them as they are (``none``, shape ``[N]``). A mean over pictures makes a batch that is split evenly over
several processes agree with the whole one. All sums are taken in float32 or better, whatever autocast chose for the
activations.
"""

from typing import Literal

import torch
from torch import Tensor

from nst_train.fast_forms import self_product

Reduction = Literal["mean", "none"]


def content_loss(output: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Feature reconstruction loss ``‖φ(ŷ) − φ(y)‖² / CHW`` (Johnson et al. 2016, equation 2).

    Args:
        output, target: activations of one layer, float ``[N, C, H, W]``.
        reduction: ``mean`` over the pictures, or ``none``.

    Returns:
        A scalar, or ``[N]``; in squared units of the activations.
    """
    difference = at_least_float32(output) - at_least_float32(target)  # [N, C, H, W]
    return _reduce(difference.square().mean(dim=(1, 2, 3)), reduction)


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix ``ψψᵀ / CHW`` with ψ the activations as a matrix of C rows (Johnson et al. 2016, equation 3).

    Its size does not depend on the picture's, so pictures of any two sizes compare.

    Args:
        features: activations of one layer, float ``[N, C, H, W]``, in any memory format.

    Returns:
        ``[N, C, C]``, symmetric; float32, or float64 for float64 features.
    """
    channels, height, width = features.shape[1:]
    with torch.autocast(features.device.type, enabled=False):  # the features' own dtype decides
        psi = features.flatten(2).mT  # [N, HW, C], a view of channels_last features
        return self_product(psi) / (channels * height * width)


def style_loss(output: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Style reconstruction loss ``‖G(ŷ) − G(y)‖²_F`` (Johnson et al. 2016, equation 4).

    Args:
        output: Gram matrices of the pictures, float ``[N, C, C]``.
        target: of the style, ``[N, C, C]`` or ``[1, C, C]``.
        reduction: ``mean`` over the pictures, or ``none``.

    Returns:
        A scalar, or ``[N]``.
    """
    difference = at_least_float32(output) - at_least_float32(target)  # [N, C, C]
    return _reduce(difference.square().sum(dim=(1, 2)), reduction)


def total_variation(image: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean squared difference of vertical neighbours plus that of horizontal ones.

    The papers sum the squares (Mahendran & Vedaldi 2015, with exponent 2); we take their means, so that one weight
    does the same at every picture size.

    Args:
        image: float ``[N, C, H, W]``, usually 0..255.
        reduction: ``mean`` over the pictures, or ``none``.

    Returns:
        A scalar, or ``[N]``; in squared levels. An axis of one pixel has no differences and counts as 0.
    """
    x = at_least_float32(image)
    per_picture = x.new_zeros(x.shape[0])  # [N]
    for axis in (2, 3):
        if x.shape[axis] > 1:
            per_picture = per_picture + x.diff(dim=axis).square().mean(dim=(1, 2, 3))
    return _reduce(per_picture, reduction)


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 -> float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _reduce(per_picture: Tensor, reduction: Reduction) -> Tensor:
    return per_picture.mean() if reduction == "mean" else per_picture
