"""Every rewrite is exact: float64, many sizes, every kind of net."""

import itertools
from collections.abc import Collection

import pytest
import torch
from torch import nn

from nst_deploy.export.fold import REWRITES, fold
from nst_train.transform_net import PRESETS, TransformNet, TransformNetConfig

SIZES = [(1, 8, 8), (2, 8, 20), (1, 36, 12), (3, 40, 44)]  # N, H, W


def random_net(config: TransformNetConfig) -> TransformNet:
    """Weights of every layer far from their initial values, so that no term can hide."""
    torch.manual_seed(0)
    net = TransformNet(config).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def assert_same_function(net: TransformNet, rewrites: Collection[str] = REWRITES) -> None:
    folded = fold(net, rewrites)
    for n, height, width in SIZES:
        image = torch.rand(n, 3, height, width, dtype=torch.float64) * 255
        with torch.inference_mode():
            expected, given = net(image), folded(image).clamp(0, 255)
        assert expected.std() > 1  # a picture, not a clamped plane
        torch.testing.assert_close(given, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("padding", "upsampling", "final_norm"),
    list(itertools.product(("reflect", "zero", "same"), ("resize", "transpose"), (False, True))),
)
def test_folding_is_exact(padding: str, upsampling: str, final_norm: bool) -> None:
    assert_same_function(
        random_net(
            TransformNetConfig(
                widths=(5, 6, 7),
                blocks=2,
                padding=padding,
                upsampling=upsampling,
                final_norm=final_norm,
                output_scale=100.0,
                input_scale=0.02,
                input_offset=-3.0,
            )
        )
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_folding_is_exact_for_the_presets(preset: str) -> None:
    assert_same_function(random_net(PRESETS[preset]))


def test_linear_output() -> None:
    net = random_net(TransformNetConfig(widths=(4, 4, 4), blocks=1, output="linear"))
    nn.init.constant_(net.head.conv.bias, 100.0)
    nn.init.normal_(net.head.conv.weight, std=5.0)
    assert_same_function(net)


def test_the_original_is_untouched() -> None:
    net = random_net(TransformNetConfig(widths=(4, 4, 4), blocks=1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fold(net).layers[1].conv.weight.data.zero_()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_float32_rounding_stays_below_a_thousandth_of_a_level() -> None:
    exact = random_net(PRESETS["base"])
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64) * 255
    with torch.inference_mode():
        difference = fold(exact.float())(image.float()).clamp(0, 255) - exact.double()(image)
    assert difference.abs().max() < 1e-2  # of 255, both roundings together; a wrong tap is tens of levels


@pytest.mark.parametrize("left_out", REWRITES)
@pytest.mark.parametrize("upsampling", ["resize", "transpose"])
def test_every_rewrite_is_exact_without_the_others(left_out: str, upsampling: str) -> None:
    net = random_net(TransformNetConfig(widths=(4, 5, 6), blocks=1, upsampling=upsampling, input_offset=0.5))
    rest = [rewrite for rewrite in REWRITES if rewrite != left_out]
    assert_same_function(net, rest)
    assert_same_function(net, [left_out])


@pytest.mark.parametrize("final_norm", [False, True])
def test_rounded_levels_are_those_of_the_original(final_norm: bool) -> None:
    net = random_net(TransformNetConfig(widths=(4, 4, 4), blocks=1, output_scale=200.0, final_norm=final_norm))
    image = torch.rand(1, 3, 16, 20, dtype=torch.float64) * 255
    with torch.inference_mode():
        levels = fold(net, rounded=True)(image)
        assert torch.equal(levels, net(image).round())
    assert {0.0, 255.0} <= set(levels.unique().tolist())  # the clamp was needed
