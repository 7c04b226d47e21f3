"""The parts that a folded net is made of."""

from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from nst_deploy.export.deployable import round_levels
from nst_train.transform_net import TransformNetConfig, scale_output

PadMode = Literal["reflect", "replicate", "constant"]
MIDDLE = 127.5  # of 0..255
Pads = tuple[int, int]  # before and after, the same for both axes


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


class Centre(nn.Module):
    """Levels of 0..255 -> their distance from the middle of the range, or from ``middle``; float, any shape."""

    def __init__(self, middle: float = MIDDLE) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, image: Tensor) -> Tensor:
        return image - self.middle


class FoldedBlock(nn.Module):
    """A residual block of two stages. Shape: ``[N, C, H, W]``, kept; float."""

    def __init__(self, first: Stage, second: Stage) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.second(self.first(x)))


class Levels(nn.Module):
    """The last convolution's output -> levels of 0..255: value by value, float, any shape.

    Args:
        rounded: clamp to 0..255 and round half to even too.
    """

    def __init__(self, config: TransformNetConfig, *, rounded: bool) -> None:
        super().__init__()
        self.config, self.rounded = config, rounded

    def forward(self, x: Tensor) -> Tensor:
        levels = scale_output(self.config, x)
        return round_levels(levels) if self.rounded else levels


class FoldedNet(nn.Module):
    """What a TransformNet computes in evaluation mode.

    Shape: float ``[N, 3, H, W]``, RGB, 0..255, H and W multiples of 4 from 8 px -> the same shape.

    Attributes:
        rounded: the result is clamped to 0..255 and rounded half to even; otherwise neither.
    """

    def __init__(self, layers: list[nn.Module], *, rounded: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.rounded = rounded

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.layers:
            x = layer(x)
        return x
