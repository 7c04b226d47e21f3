"""The transform net against explicit formulas."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.errors import PictureTooSmallError
from nst_train.transform_net import PRESETS, ConvNormReLU, TransformNet, TransformNetConfig, Upsample, same_padding

TINY = TransformNetConfig(widths=(4, 6, 8), blocks=1)


def tiny(**changes: object) -> TransformNetConfig:
    return TransformNetConfig(**{"widths": (4, 6, 8), "blocks": 1, **changes})


def test_base_is_the_papers_net() -> None:
    net = TransformNet(PRESETS["base"])
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in convs]
    assert shapes == [
        (3, 32, 9, 1),
        (32, 64, 3, 2),
        (64, 128, 3, 2),
        *[(128, 128, 3, 1)] * 10,
        (128, 64, 3, 1),
        (64, 32, 3, 1),
        (32, 3, 9, 1),
    ]
    assert sum(isinstance(m, nn.InstanceNorm2d) for m in net.modules()) == 15  # every convolution but the last
    assert not any("Pool" in type(m).__name__ for m in net.modules())


def test_half_has_half_the_channels() -> None:
    assert PRESETS["half"].widths == (16, 32, 64)


@pytest.mark.parametrize("padding", ["reflect", "zero", "same"])
@pytest.mark.parametrize("upsampling", ["resize", "transpose"])
def test_any_size_comes_back_at_exactly_that_size(padding: str, upsampling: str) -> None:
    net = TransformNet(tiny(padding=padding, upsampling=upsampling)).eval()
    for height, width in itertools.product((5, 6, 7, 8, 21), (5, 8, 18)):
        assert net(torch.rand(2, 3, height, width) * 255).shape == (2, 3, height, width)


@pytest.mark.parametrize("output", ["tanh", "linear"])
def test_output_is_clamped_to_levels_only_in_evaluation(output: str) -> None:
    net = TransformNet(tiny(output=output, output_scale=300.0))
    nn.init.normal_(net.head.conv.weight, std=200.0)
    image = torch.rand(1, 3, 16, 16) * 255
    free, clamped = net.train()(image), net.eval()(image)
    assert free.min() < 0
    assert free.max() > 255
    assert torch.equal(clamped, free.clamp(0, 255))


def test_tanh_output_spans_its_scale_around_its_offset() -> None:
    net = TransformNet(tiny(output="tanh", output_scale=100.0, output_offset=110.0)).train()
    nn.init.zeros_(net.head.conv.weight)
    for bias, level in ((0.0, 110.0), (50.0, 210.0), (-50.0, 10.0)):
        nn.init.constant_(net.head.conv.bias, bias)
        assert torch.allclose(net(torch.rand(1, 3, 8, 8) * 255), torch.tensor(level))


def test_input_scaling_is_the_configs() -> None:
    torch.manual_seed(0)
    scaled = TransformNet(tiny(input_scale=0.01, input_offset=-1.5)).eval()
    plain = TransformNet(tiny(input_scale=1.0, input_offset=0.0)).eval()
    plain.load_state_dict(scaled.state_dict())
    image = torch.rand(1, 3, 12, 12) * 255
    torch.testing.assert_close(scaled(image), plain(image * 0.01 - 1.5))


def test_too_small_a_picture_is_named() -> None:
    with pytest.raises(PictureTooSmallError, match="4x9 px"):
        TransformNet(TINY)(torch.zeros(1, 3, 4, 9))


def test_instance_norm_is_per_picture_and_channel() -> None:
    layer = ConvNormReLU(TINY, 3, 4, 3, relu=False).double()
    x = torch.rand(2, 3, 10, 14, dtype=torch.float64)
    y = layer(x)
    raw = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.conv.weight)
    mean, variance = raw.mean((2, 3), keepdim=True), raw.var((2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(y, (raw - mean) / (variance + TINY.norm_eps).sqrt())


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (8, 2), (9, 2), (237, 2), (474, 2)])
def test_same_padding_gives_tensorflows_output_size(size: int, stride: int) -> None:
    before, after = same_padding(size, 3, stride)
    assert (size + before + after - 3) // stride + 1 == -(-size // stride)
    assert after - before in (0, 1)


def conv_same(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's definition of SAME, one output at a time; x [C, H, W], w [O, C, k, k]."""
    kernel = w.shape[-1]
    outs = [-(-size // stride) for size in x.shape[1:]]
    before = [max((o - 1) * stride + kernel - s, 0) // 2 for o, s in zip(outs, x.shape[1:], strict=True)]
    y = np.zeros((w.shape[0], *outs))
    for i, j in np.ndindex(*outs):
        for a, b in np.ndindex(kernel, kernel):
            r, c = i * stride - before[0] + a, j * stride - before[1] + b
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                y[:, i, j] += w[:, :, a, b] @ x[:, r, c]
    return y


@pytest.mark.parametrize("size", [(8, 11), (9, 12), (7, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_convolution_is_tensorflows(size: tuple[int, int], stride: int) -> None:
    layer = ConvNormReLU(tiny(padding="same"), 3, 4, 3, stride=stride, relu=False, norm=False).double()
    nn.init.zeros_(layer.conv.bias)
    x = torch.rand(1, 3, *size, dtype=torch.float64)
    expected = conv_same(x[0].numpy(), layer.conv.weight.detach().numpy(), stride)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 11), (9, 12), (10, 7)])
@pytest.mark.parametrize("padding", ["same", "zero"])
def test_transposed_convolution_is_the_gradient_of_the_encoders(size: tuple[int, int], padding: str) -> None:
    up = Upsample(tiny(padding=padding, upsampling="transpose"), 5, 4).double()
    up.norm = nn.Identity()
    y = torch.zeros(1, 4, *size, dtype=torch.float64, requires_grad=True)
    pads = (*same_padding(size[1], 3, 2), *same_padding(size[0], 3, 2)) if padding == "same" else (1, 1, 1, 1)
    down = F.conv2d(F.pad(y, pads), up.conv.weight, stride=2)  # [1, 5, ceil(H/2), ceil(W/2)]
    x = torch.rand_like(down)
    (gradient,) = torch.autograd.grad(down, y, x)
    torch.testing.assert_close(up(x, size), F.relu(gradient))


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_resize_upsampling_repeats_every_pixel(size: tuple[int, int]) -> None:
    up = Upsample(TINY, 3, 4).double()
    up.norm = nn.Identity()
    x = torch.rand(1, 3, *[-(-s // 2) for s in size], dtype=torch.float64)
    large = x.numpy().repeat(2, axis=2).repeat(2, axis=3)[..., : size[0], : size[1]]
    padded = torch.from_numpy(np.pad(large, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    torch.testing.assert_close(up(x, size), F.relu(F.conv2d(padded, up.conv.weight)))


def test_residual_block_adds_its_input() -> None:
    net = TransformNet(TINY)
    block = net.blocks[0]
    nn.init.zeros_(block.second.norm.weight)  # what the block computes is now its last norm's bias
    nn.init.constant_(block.second.norm.bias, -0.25)
    x: Tensor = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(block(x), x - 0.25)  # also below zero: no ReLU after the sum
