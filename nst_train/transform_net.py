"""The image transform network: one feed-forward net per style.

Johnson, Alahi & Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016, with
instance normalisation after Ulyanov, Vedaldi & Lempitsky 2016 ("Instance Normalization: The Missing Ingredient").
"""

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.errors import PictureTooSmallError

Padding = Literal["reflect", "zero", "same"]
Upsampling = Literal["resize", "transpose"]
Output = Literal["tanh", "linear"]

MAX_WIDTH, MAX_BLOCKS = 1024, 64  # far beyond any sensible net; what lies above is a damaged or hostile file
MIN_SIZE = 5  # px; a 9x9 kernel reflects 4 px, and a reflection must be shorter than the picture


@dataclass(frozen=True)
class TransformNetConfig:
    """Everything that shapes a TransformNet. The defaults are the ``base`` preset.

    Attributes:
        widths: channels after the 9x9 convolution and after each of the two stride-2 convolutions.
        blocks: residual blocks at a quarter of the resolution.
        padding: ``reflect``; ``zero``; or ``same``, TensorFlow's SAME, whose zeros depend on the size.
        upsampling: ``resize``, nearest x2 and a 3x3 convolution; or ``transpose``, the fractionally-strided
            convolution of the paper.
        norm_eps: epsilon of every instance norm.
        final_norm: whether the last convolution has an instance norm too (it has a bias otherwise).
        output: ``tanh``, ``tanh(x) * output_scale + output_offset``; or ``linear``, the last layer as it is.
        output_scale, output_offset: levels of 0..255, for ``tanh``.
        input_scale, input_offset: the first convolution sees ``image * input_scale + input_offset``.
    """

    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: int = 5
    padding: Padding = "reflect"
    upsampling: Upsampling = "resize"
    norm_eps: float = 1e-5
    final_norm: bool = False
    output: Output = "tanh"
    output_scale: float = 127.5
    output_offset: float = 127.5
    input_scale: float = 1 / 127.5
    input_offset: float = -1.0

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a field that no net can have; the message names it.
        """
        widths = self.widths
        if len(widths) != 3 or not all(_is_whole(width, 1, MAX_WIDTH) for width in widths):
            raise ValueError(f"widths={widths!r}, expected three whole numbers 1..{MAX_WIDTH}")
        if not _is_whole(self.blocks, 0, MAX_BLOCKS):
            raise ValueError(f"blocks={self.blocks!r}, expected a whole number 0..{MAX_BLOCKS}")
        for name, kind in (("padding", Padding), ("upsampling", Upsampling), ("output", Output)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}, expected one of {', '.join(get_args(kind))}")
        for name in ("norm_eps", "output_scale", "output_offset", "input_scale", "input_offset"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name}={value!r}, expected a finite number")
        if self.norm_eps <= 0 or self.input_scale == 0:
            raise ValueError(f"norm_eps={self.norm_eps!r}, input_scale={self.input_scale!r}, expected > 0 and not 0")


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def reflect(x: Tensor, width: int) -> Tensor:
    """``[N, C, H, W]`` -> ``[N, C, H + 2 width, W + 2 width]``, mirrored at the border pixels' centres."""
    return F.pad(x, (width,) * 4, mode="reflect")


PRESETS = {"base": TransformNetConfig(), "half": TransformNetConfig(widths=(16, 32, 64))}


class ConvNormReLU(nn.Module):
    """Padding, convolution, and where asked for instance norm and ReLU.

    A bias before an instance norm cancels, so there is one only where no norm follows.

    Shape: ``[N, C_in, H, W]`` -> ``[N, C_out, ceil(H / stride), ceil(W / stride)]``, float.
    """

    def __init__(
        self,
        config: TransformNetConfig,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        norm: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.padding: Padding = config.padding
        self.reflect = reflect  # an attribute: training puts a faster form there
        self.relu = relu
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, bias=not norm)
        self.norm = nn.InstanceNorm2d(c_out, eps=config.norm_eps, affine=True) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = cast("Tensor", self.norm(self.conv(self._pad(x))))
        return F.relu(x) if self.relu else x

    def _pad(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if self.padding == "same":
            height, width = x.shape[-2:]
            return F.pad(x, (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride)))
        return self.reflect(x, kernel // 2) if self.padding == "reflect" else F.pad(x, (kernel // 2,) * 4)


class Upsample(nn.Module):
    """Back to the size that the encoder had before its stride-2 convolution; then instance norm and ReLU.

    Shape: ``[N, C_in, ceil(H / 2), ceil(W / 2)]`` -> ``[N, C_out, H, W]``, float, with ``size = (H, W)``.
    """

    def __init__(self, config: TransformNetConfig, c_in: int, c_out: int) -> None:
        super().__init__()
        self.padding: Padding = config.padding
        self.reflect = reflect
        self.upsampling: Upsampling = config.upsampling
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if self.upsampling == "transpose":
            self.conv = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, bias=False)
        else:
            self.conv = nn.Conv2d(c_in, c_out, 3, bias=False)
        self.norm = nn.InstanceNorm2d(c_out, eps=config.norm_eps, affine=True)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = self._transpose(x, size) if self.upsampling == "transpose" else self._resize(x, size)
        return F.relu(self.norm(x))

    def _resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]
        # At stride 1 TensorFlow's SAME is one zero on each side.
        x = self.reflect(x, 1) if self.padding == "reflect" else F.pad(x, (1, 1, 1, 1))
        return cast("Tensor", self.conv(x))

    def _transpose(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The gradient of the encoder's convolution: its left and top padding is what is cropped here."""
        height, width = size
        top, left = (same_padding(height, 3, 2)[0], same_padding(width, 3, 2)[0]) if self.padding == "same" else (1, 1)
        # One row and column of zeros more: with a padding of 1 an even size ends where no input reaches.
        x = F.pad(cast("Tensor", self.conv(x)), (0, 1, 0, 1))
        cropped: Tensor = x[..., top : top + height, left : left + width]
        return cropped


class ResidualBlock(nn.Module):
    """``x + norm(conv(relu(norm(conv(x)))))``, no ReLU after the sum. Shape: ``[N, C, H, W]``, kept; float."""

    def __init__(self, config: TransformNetConfig, channels: int) -> None:
        super().__init__()
        self.first = ConvNormReLU(config, channels, channels, 3)
        self.second = ConvNormReLU(config, channels, channels, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x))
        return x + residual


class TransformNet(nn.Module):
    """Float ``[N, 3, H, W]``, RGB, 0..255 -> the same shape and range, at the size it is given (from 5 px).

    In training mode the output is not clamped, so that gradients reach values beyond 0..255.

    Raises:
        PictureTooSmallError: H or W below ``MIN_SIZE``.
    """

    def __init__(self, config: TransformNetConfig) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = config.widths
        self.encoder = nn.ModuleList(
            [
                ConvNormReLU(config, 3, full, 9),
                ConvNormReLU(config, full, half, 3, stride=2),
                ConvNormReLU(config, half, quarter, 3, stride=2),
            ]
        )
        self.blocks = nn.ModuleList([ResidualBlock(config, quarter) for _ in range(config.blocks)])
        self.decoder = nn.ModuleList([Upsample(config, quarter, half), Upsample(config, half, full)])
        self.head = ConvNormReLU(config, full, 3, 9, norm=config.final_norm, relu=False)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIZE:
            raise PictureTooSmallError(height, width, MIN_SIZE)
        x = scale_input(self.config, image)
        sizes: list[tuple[int, int]] = []  # on the way down, so that odd sizes come back on the way up
        for layer in self.encoder:
            sizes.append((x.shape[-2], x.shape[-1]))
            x = layer(x)  # [N, widths[i], H / 2**i, W / 2**i]
        for block in self.blocks:
            x = block(x)  # [N, widths[2], H / 4, W / 4]
        for layer, size in zip(self.decoder, reversed(sizes[1:]), strict=True):
            x = layer(x, size)
        styled = scale_output(self.config, self.head(x))
        return styled if self.training else styled.clamp(0.0, 255.0)


def scale_input(config: TransformNetConfig, image: Tensor) -> Tensor:
    """0..255 -> what the first convolution was trained on."""
    return image * config.input_scale + config.input_offset


def scale_output(config: TransformNetConfig, x: Tensor) -> Tensor:
    """The last convolution's output -> levels, nominally 0..255 but not clamped."""
    if x.dtype == torch.bfloat16:  # from autocast; its steps near 255 would be a whole level
        x = x.float()
    return torch.tanh(x) * config.output_scale + config.output_offset if config.output == "tanh" else x


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis under TensorFlow's SAME: output ``ceil(size / stride)``, the odd zero last."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
