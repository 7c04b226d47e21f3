"""Norms by rows and pictures in phases, against PyTorch's own layers in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_deploy.export.norm import PhaseNorm, RowwiseNorm
from nst_deploy.export.phase_head import PhaseHead, wide_kernel

CHANNELS = 3


def random_norm() -> nn.InstanceNorm2d:
    norm = nn.InstanceNorm2d(CHANNELS, eps=1e-3, affine=True).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def picture_in_phases(n: int, height: int, width: int, margin: int) -> tuple[Tensor, Tensor]:
    """A random picture ``[N, C, H, W]``, and its phases with a margin of values that nothing may depend on."""
    torch.manual_seed(0)
    picture = torch.randn(n, CHANNELS, height, width, dtype=torch.float64) * 4 + 7
    framed = F.pad(picture, (margin,) * 4, value=1e3)
    return picture, F.pixel_unshuffle(framed, 2)


def pixels_of(phases: Tensor, margin: int) -> Tensor:
    shuffled = F.pixel_shuffle(phases, 2)
    return shuffled[..., margin : shuffled.shape[-2] - margin, margin : shuffled.shape[-1] - margin]


def test_rowwise_norm_is_instance_norm() -> None:
    norm, x = random_norm(), torch.randn(2, CHANNELS, 13, 29, dtype=torch.float64) * 4 + 7
    torch.testing.assert_close(RowwiseNorm(norm)(x), norm(x))


@pytest.mark.parametrize(("margin", "size"), list(itertools.product((0, 1), ((8, 8), (12, 20), (36, 8)))))
def test_phase_norm_is_instance_norm_and_relu_of_the_picture(margin: int, size: tuple[int, int]) -> None:
    norm = random_norm()
    picture, phases = picture_in_phases(2, *size, margin)
    torch.testing.assert_close(pixels_of(PhaseNorm(norm, margin)(phases), margin), F.relu(norm(picture)))


def test_sums_by_rows_stay_precise_over_a_megapixel() -> None:
    norm = nn.InstanceNorm2d(CHANNELS, affine=True)
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, 900, 1200) + 5  # a mean far from 0 costs digits of the variance
    exact = norm.double()(x.double())
    norm.float()
    torch.testing.assert_close(RowwiseNorm(norm)(x).double(), exact, atol=3e-5, rtol=0)
    phases = PhaseNorm(norm, 0)(F.pixel_unshuffle(x, 2))
    torch.testing.assert_close(F.pixel_shuffle(phases, 2).double(), F.relu(exact), atol=3e-5, rtol=0)


def test_a_plane_has_no_variance_and_gives_the_bias() -> None:
    norm = random_norm().float()
    plane = torch.full((1, CHANNELS, 40, 64), 9.3)
    expected = norm.bias.detach()[None, :, None, None].expand_as(plane)
    torch.testing.assert_close(RowwiseNorm(norm)(plane), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        F.pixel_shuffle(PhaseNorm(norm, 0)(F.pixel_unshuffle(plane, 2)), 2), F.relu(expected), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("mode", "margin", "size"), list(itertools.product(("reflect", "constant"), (0, 1), ((8, 8), (8, 24), (20, 12))))
)
def test_phase_head_is_the_head_of_the_picture(mode: str, margin: int, size: tuple[int, int]) -> None:
    picture, phases = picture_in_phases(2, *size, margin)
    weight = torch.randn(3, CHANNELS, 9, 9, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    head = PhaseHead(weight, bias, mode=mode, margin=margin, tail=torch.tanh)
    expected = torch.tanh(F.conv2d(F.pad(picture, (4,) * 4, mode=mode), weight, bias))
    torch.testing.assert_close(head(phases), expected)


@pytest.mark.parametrize("block", [2, 4])
def test_a_wide_kernel_computes_a_block_of_pixels_at_once(block: int) -> None:
    weight = torch.randn(3, 5, 9, 9, dtype=torch.float64)
    x = torch.randn(1, 5, 16 + 8, 24 + 8, dtype=torch.float64)
    blocks = F.conv2d(x, wide_kernel(weight, block), stride=block)
    torch.testing.assert_close(F.pixel_shuffle(blocks, block), F.conv2d(x, weight))
