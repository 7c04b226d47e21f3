"""Exact rewrites: the same function of the picture with fewer operations, for sizes that are multiples of 4.

Every function here turns one layer of a TransformNet into one ``Stage``; the identity that makes it exact stands in
its docstring, per axis, since every kernel acts on both axes alike. ``x`` is the layer's input of length L, ``w``
its kernel. The largest difference that rounding leaves is of the order of 1e-4 levels of 0..255 in float32.
benchmarks/README.md says what each of them gives.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from nst_deploy.export.norm import PhaseNorm, RowwiseNorm
from nst_deploy.export.phase_head import PhaseHead, wide_kernel
from nst_deploy.export.stage import MIDDLE, Centre, FoldedBlock, FoldedNet, Levels, PadMode, Stage
from nst_train.transform_net import (
    ConvNormReLU,
    ResidualBlock,
    TransformNet,
    TransformNetConfig,
    Upsample,
    same_padding,
    scale_input,
)

Rewrite = Literal["centred_first", "subpixel", "paired_head", "phase_head", "rowwise_norm"]
REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)

ANY_EVEN = 8  # a stand-in for "an even size": TensorFlow's SAME depends on the parity alone


def fold(net: TransformNet, rewrites: Collection[str] = REWRITES, *, rounded: bool = False) -> FoldedNet:
    """The rewrites of this file applied to a copy; ``net`` stays as it is.

    Args:
        rewrites: all of them, unless one wants to know what each gives. ``phase_head`` needs ``subpixel`` and takes
            the place of ``paired_head``.
        rounded: the result clamps to 0..255 and rounds half to even too, where that costs least.
    """
    with _float64(net) as exact:
        levels = Levels(exact.config, rounded=rounded)
        blocks = cast("list[ResidualBlock]", list(exact.blocks))
        layers: list[nn.Module] = [
            *_encoder(exact, rewrites),
            *(FoldedBlock(plain(block.first), plain(block.second)) for block in blocks),
            *_decoder(exact, rewrites, levels),
        ]
        dtype = next(net.parameters()).dtype
        return FoldedNet(layers, rounded=rounded).to(dtype).eval()


def _encoder(net: TransformNet, rewrites: Collection[str]) -> list[nn.Module]:
    first, *strided = cast("list[ConvNormReLU]", list(net.encoder))
    start: nn.Module = _InputScale(net.config)
    stage = plain(first)
    if "centred_first" in rewrites:
        start, stage = centred_first(net.config, first)
    if "rowwise_norm" in rewrites:
        stage.norm = precise(stage.norm)
    return [start, stage, *(plain(layer) for layer in strided)]


def _decoder(net: TransformNet, rewrites: Collection[str], levels: Levels) -> list[nn.Module]:
    inner, outer = cast("list[Upsample]", list(net.decoder))
    final_norm = precise(net.head.norm) if "rowwise_norm" in rewrites else net.head.norm
    if {"subpixel", "phase_head"} <= set(rewrites):
        # A norm needs all pixels of a channel together, so only without one the levels are made in phases.
        tail = [nn.Identity(), final_norm, levels] if net.config.final_norm else [levels]
        return [subpixel(inner), *phase_head(outer, net.head, tail[0]), *tail[1:]]
    head = paired_head(net.head) if "paired_head" in rewrites else plain(net.head)
    head.norm = final_norm
    if "subpixel" not in rewrites:
        return [_Doubled(inner), _Doubled(outer), head, levels]
    last = subpixel(outer)
    if "rowwise_norm" in rewrites:
        last.norm = precise(last.norm)
    return [subpixel(inner), last, head, levels]


class _InputScale(nn.Module):
    """The input scaling as a layer of its own, where it is not folded."""

    def __init__(self, config: TransformNetConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, image: Tensor) -> Tensor:
        return scale_input(self.config, image)


class _Doubled(nn.Module):
    """An upsampling as it was trained."""

    def __init__(self, layer: Upsample) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.layer(x, (2 * x.shape[-2], 2 * x.shape[-1])))


@contextmanager
def _float64(net: TransformNet) -> Iterator[TransformNet]:
    """A float64 copy, so that sums of taps are rounded once, when the result goes back to the net's own dtype."""
    exact = TransformNet(net.config).double()
    exact.load_state_dict(net.state_dict())
    with torch.no_grad():
        yield exact


def plain(layer: ConvNormReLU) -> Stage:
    """The layer itself with its padding made static."""
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    pads = same_padding(ANY_EVEN, kernel, stride) if layer.padding == "same" else (kernel // 2, kernel // 2)
    return Stage(
        layer.conv.weight,
        pads=pads,
        mode=_pad_mode(layer.padding),
        bias=layer.conv.bias,
        stride=stride,
        norm=layer.norm,
        relu=layer.relu,
    )


def centred_first(config: TransformNetConfig, layer: ConvNormReLU) -> tuple[Centre, Stage]:
    """``conv(w, s*x + o) = conv(s*w, x - c) + (s*c + o) * sum(w)``: the constant cancels in the norm that follows.

    Reflected padding commutes with all of it; a padding of zeros after the scaling is one of ``-o/s - c`` here. The
    middle of the range as c leaves numbers that bf16 and FP16 hold exactly, and a convolution whose mean is small
    beside its deviation, so that its rounding and its norm lose less: +1 dB in bf16.
    """
    stage = plain(layer)
    padding = layer.conv.kernel_size[0] // 2
    return Centre(), Stage(
        layer.conv.weight * config.input_scale,
        pads=(padding, padding),
        mode=stage.mode,
        pad_value=-config.input_offset / config.input_scale - MIDDLE,
        norm=layer.norm,
        relu=layer.relu,
    )


def subpixel(layer: Upsample) -> Stage:
    """Either upsampling as a convolution at the low resolution, followed by depth-to-space."""
    return _subpixel_transpose(layer) if layer.upsampling == "transpose" else _subpixel_resize(layer)


def _subpixel_resize(layer: Upsample) -> Stage:
    """Nearest x2, pad 1, conv 3 ≡ pad 1, conv 2 to twice the channels, depth-to-space, crop 1 on each side.

    With u[i] = x[i // 2] the even outputs are y[2a] = w0 x[a-1] + (w1+w2) x[a] and the odd ones
    y[2a+1] = (w0+w1) x[a] + w2 x[a+1]. Window j of the 2-tap convolution sees x[j-1], x[j]; it gives y[2j-1] and
    y[2j], in this order, so depth-to-space yields y[-1] … y[2L], and the crop takes y[-1] and y[2L] off.
    Reflecting u by 1 repeats its edge, which is what repeating the edge of x does.
    """
    w0, w1, w2 = layer.conv.weight.unbind(-2)  # each [C_out, C_in, 3], by row
    rows = (torch.stack([w0 + w1, w2], -2), torch.stack([w0, w1 + w2], -2))  # y[2j-1], y[2j]
    phases = []
    for row in rows:  # [C_out, C_in, 2, 3]
        v0, v1, v2 = row.unbind(-1)
        phases += [torch.stack([v0 + v1, v2], -1), torch.stack([v0, v1 + v2], -1)]
    return Stage(
        _interleave(phases),
        pads=(1, 1),
        mode="replicate" if layer.padding == "reflect" else "constant",
        depth_to_space=True,
        crop=True,
        norm=layer.norm,
        relu=True,
    )


def _subpixel_transpose(layer: Upsample) -> Stage:
    """Transposed conv 3, stride 2 ≡ pad one zero, conv 2 to twice the channels, depth-to-space.

    The transposed convolution is y[2a] = w0 x[a] + w2 x[a-1], y[2a+1] = w1 x[a], a = 0 … L. TensorFlow's SAME keeps
    y[0] … y[2L-1]: the zero goes before x, and the window x[a-1], x[a] has taps (w2, w0) and (0, w1). A padding of 1
    keeps y[1] … y[2L]: the zero goes behind, and x[a], x[a+1] has taps (w1, 0) and (w2, w0).
    """
    same = layer.padding == "same"
    weight = layer.conv.weight.transpose(0, 1)  # [C_out, C_in, 3, 3]

    def taps(w: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        w0, w1, w2 = w.unbind(axis)
        zero = torch.zeros_like(w1)
        both, one = torch.stack([w2, w0], axis), torch.stack([zero, w1] if same else [w1, zero], axis)
        return (both, one) if same else (one, both)

    phases = [phase for row in taps(weight, -2) for phase in taps(row, -1)]
    return Stage(
        _interleave(phases),
        pads=(1, 0) if same else (0, 1),
        mode="constant",
        depth_to_space=True,
        norm=layer.norm,
        relu=True,
    )


def paired_head(layer: ConvNormReLU) -> Stage:
    """The head for 2x2 px at once: see wide_kernel."""
    stage = plain(layer)
    padding = layer.conv.kernel_size[0] // 2
    return Stage(
        wide_kernel(layer.conv.weight, 2),
        pads=(padding, padding),
        mode=stage.mode,
        bias=None if layer.conv.bias is None else layer.conv.bias.repeat_interleave(4),
        stride=2,
        depth_to_space=True,
        norm=layer.norm,
        relu=layer.relu,
    )


def phase_head(upsampling: Upsample, head: ConvNormReLU, tail: nn.Module) -> tuple[Stage, PhaseNorm, PhaseHead]:
    """The last upsampling and the head with everything between them in phases: see PhaseNorm and PhaseHead."""
    shuffled = subpixel(upsampling)
    margin = 1 if shuffled.crop else 0
    norm = PhaseNorm(upsampling.norm, margin)
    shuffled.depth_to_space = shuffled.crop = shuffled.relu = False
    shuffled.norm = nn.Identity()
    conv = head.conv
    return shuffled, norm, PhaseHead(conv.weight, conv.bias, mode=plain(head).mode, margin=margin, tail=tail)


def precise(norm: nn.Module) -> nn.Module:
    """An instance norm as the same function with sums that stay precise over millions of pixels; others as they are."""
    return RowwiseNorm(norm) if isinstance(norm, nn.InstanceNorm2d) else norm


def _interleave(phases: list[Tensor]) -> Tensor:
    """Four kernels ``[C, C_in, k, k]`` by (row, column) phase -> ``[4C, C_in, k, k]``, as pixel_shuffle reads them."""
    return torch.stack(phases, 1).flatten(0, 1).contiguous()


def _pad_mode(padding: str) -> PadMode:
    return "reflect" if padding == "reflect" else "constant"
