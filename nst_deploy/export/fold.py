"""Exact rewrites: the same function of the picture with fewer operations, for sizes that are multiples of 4.

Every function here turns one layer of a TransformNet into one ``Stage``; the identity that makes it exact stands in
its docstring, per axis, since every kernel acts on both axes alike. ``x`` is the layer's input of length L, ``w``
its kernel. The largest difference that rounding leaves is of the order of 1e-4 levels of 0..255 in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.transform_net import (
    ConvNormReLU,
    ResidualBlock,
    TransformNet,
    TransformNetConfig,
    Upsample,
    same_padding,
    scale_output,
)

PadMode = Literal["reflect", "replicate", "constant"]
Pads = tuple[int, int]  # before and after, the same for both axes

ANY_EVEN = 8  # a stand-in for "an even size": TensorFlow's SAME depends on the parity alone


class Stage(nn.Module):
    """Pad, convolve, and where asked for depth-to-space x2, crop of 1 px, instance norm, ReLU: all sizes static.

    Shape: ``[N, C_in, H, W]`` -> ``[N, C_out, H', W']``, float.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        pads: Pads,
        mode: PadMode,
        pad_value: float = 0.0,
        bias: Tensor | None = None,
        stride: int = 1,
        depth_to_space: bool = False,
        crop: bool = False,
        norm: nn.Module | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        # Zeros on both sides alike need no operation of their own: the convolution brings them along.
        own_zeros = mode == "constant" and pad_value == 0.0 and pads[0] == pads[1]
        self.pads: Pads = (0, 0) if own_zeros else pads
        self.mode: PadMode = mode
        self.pad_value = pad_value
        c_out, c_in, kernel, _ = weight.shape
        padding = pads[0] if own_zeros else 0
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=bias is not None, dtype=weight.dtype)
        self.conv.weight = nn.Parameter(weight)
        self.conv.bias = None if bias is None else nn.Parameter(bias)
        self.depth_to_space, self.crop, self.relu = depth_to_space, crop, relu
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        if self.pads != (0, 0):
            value = self.pad_value if self.mode == "constant" else None
            x = F.pad(x, self.pads * 2, mode=self.mode, value=value)
        x = self.conv(x)
        if self.depth_to_space:
            x = F.pixel_shuffle(x, 2)
        if self.crop:
            x = x[..., 1:-1, 1:-1]
        x = self.norm(x)
        return F.relu(x) if self.relu else x


class RowwiseNorm(nn.Module):
    """Instance norm whose means are taken over rows first, then over their means: ``[N, C, H, W]``, kept; float.

    ONNX Runtime's CPU kernel adds up a whole channel in eight float32 accumulators: at 2 megapixels the variance is
    off by 8e-5 of its value, enough to move 0.1 % of the pixels by a level. Summed by rows it is off by 1e-6. This
    takes more passes over the tensor, so it stands only where the resolution is full: +1 to 3 % of a run.
    """

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach()[:, None, None])  # [C, 1, 1]
        self.bias = nn.Parameter(norm.bias.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        centred = x - _rowwise_mean(x)
        variance = _rowwise_mean(centred * centred)
        return centred * (self.weight / torch.sqrt(variance + self.eps)) + self.bias


def _rowwise_mean(x: Tensor) -> Tensor:
    return x.mean(3, keepdim=True).mean(2, keepdim=True)


class FoldedBlock(nn.Module):
    """A residual block of two stages. Shape: ``[N, C, H, W]``, kept; float."""

    def __init__(self, first: Stage, second: Stage) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.second(self.first(x)))


class FoldedNet(nn.Module):
    """What a TransformNet computes in evaluation mode, before the clamp to 0..255.

    Shape: float ``[N, 3, H, W]``, RGB, 0..255, H and W multiples of 4 from 8 px -> the same shape.
    """

    def __init__(self, config: TransformNetConfig, layers: list[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.layers:
            x = layer(x)
        return scale_output(self.config, x)


def fold(net: TransformNet) -> FoldedNet:
    """All rewrites of this file applied to a copy; ``net`` stays as it is."""
    with _float64(net) as exact:
        config = exact.config
        first, *strided = cast("list[ConvNormReLU]", list(exact.encoder))
        blocks = cast("list[ResidualBlock]", list(exact.blocks))
        upsamplings = cast("list[Upsample]", list(exact.decoder))
        layers: list[nn.Module] = [
            scaled_first(config, first),
            *(plain(layer) for layer in strided),
            *(FoldedBlock(plain(block.first), plain(block.second)) for block in blocks),
            *(subpixel(layer) for layer in upsamplings),
            paired_head(exact.head),
        ]
        for stage in (layers[0], layers[-2], layers[-1]):  # those at full resolution
            precise_norm(cast("Stage", stage))
        dtype = next(net.parameters()).dtype
        return FoldedNet(config, layers).to(dtype).eval()


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


def scaled_first(config: TransformNetConfig, layer: ConvNormReLU) -> Stage:
    """``conv(w, s*x + o) = conv(s*w, x) + o*sum(w)``, and the constant cancels in the instance norm that follows.

    Reflected padding commutes with the scaling; a padding of zeros *after* it is one of ``-o/s`` before it.
    """
    stage = plain(layer)
    padding = layer.conv.kernel_size[0] // 2
    return Stage(
        layer.conv.weight * config.input_scale,
        pads=(padding, padding),
        mode=stage.mode,
        pad_value=-config.input_offset / config.input_scale,
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
    """Conv k, stride 1, to C channels ≡ conv k+1, stride 2, to 4C channels, depth-to-space.

    Window a of the wide convolution starts at 2a; phase p of its output is y[2a+p], whose taps are the kernel shifted
    by p. CPU kernels work in blocks of 8 or 16 output channels: 3 channels leave most of such a block empty.
    """
    weight = layer.conv.weight
    phases = [F.pad(weight, (q, 1 - q, p, 1 - p)) for p in (0, 1) for q in (0, 1)]
    stage = plain(layer)
    padding = layer.conv.kernel_size[0] // 2
    return Stage(
        _interleave(phases),
        pads=(padding, padding),
        mode=stage.mode,
        bias=None if layer.conv.bias is None else layer.conv.bias.repeat_interleave(4),
        stride=2,
        depth_to_space=True,
        norm=layer.norm,
        relu=layer.relu,
    )


def precise_norm(stage: Stage) -> None:
    """Replaces an instance norm by the same function with means that stay precise over millions of pixels."""
    if isinstance(stage.norm, nn.InstanceNorm2d):
        stage.norm = RowwiseNorm(stage.norm)


def _interleave(phases: list[Tensor]) -> Tensor:
    """Four kernels ``[C, C_in, k, k]`` by (row, column) phase -> ``[4C, C_in, k, k]``, as pixel_shuffle reads them."""
    return torch.stack(phases, 1).flatten(0, 1).contiguous()


def _pad_mode(padding: str) -> PadMode:
    return "reflect" if padding == "reflect" else "constant"
