"""The last convolution, computed on a picture that lies in phases: the largest tensors are never put in pixel order."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_deploy.export.stage import PadMode

REACH = 4  # px that the 9x9 kernel sees to each side
BLOCK = 4  # px along each side of what one window of the wide kernel computes


class PhaseHead(nn.Module):
    """``tail(head(crop(pixel_shuffle(x))))`` without the shuffle of ``x``.

    A convolution of k taps and stride 2 after depth-to-space is one of k/2 taps and stride 1 before it, on the four
    phases as channels: ``sum_m v[m] y[2a+m] = sum_d sum_p v[2d+p] y[2(a+d)+p]``. Computing 4 px at once, the head has
    12 taps and stride 4, hence 6 taps and stride 2 on the phases; its 48 channels fill whole blocks of CPU kernels,
    where 3 would leave them almost empty.

    What lies within 4 px of the border needs the padding, which phases cannot express: these strips are put in pixel
    order, padded and convolved on their own, and joined with the rest as finished pictures of 3 channels.

    Shape: ``[N, 4C, h, w]`` -> ``[N, 3, 2h - 2 margin, 2w - 2 margin]``, float, both a multiple of 4.

    Args:
        weight, bias: of the head, ``[3, C, 9, 9]`` and ``[3]``.
        mode: how the head pads; zeros without a margin need no strips.
        margin: px on every side of the shuffled picture that do not belong to it, 0 or 1.
        tail: what follows, value by value: in phases it runs in the same pass as the convolution.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        mode: PadMode,
        margin: int,
        tail: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.mode: PadMode = mode
        self.margin, self.tail = margin, tail
        self.phases = nn.Parameter(F.pixel_unshuffle(wide_kernel(weight, BLOCK), 2))  # [48, 4C, 6, 6]
        self.bias = None if bias is None else nn.Parameter(bias.repeat_interleave(BLOCK**2))
        self.strips = mode != "constant" or margin != 0
        if self.strips:
            self.pairs = nn.Parameter(wide_kernel(weight, 2))  # [12, C, 10, 10]
            self.pairs_bias = None if bias is None else nn.Parameter(bias.repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        # Windows start 2 phases (4 px) before the picture; with a margin at an odd phase, hence one phase earlier.
        pixels = self._pixels(F.conv2d(x, self.phases, self.bias, stride=2, padding=2 + self.margin), BLOCK)
        return self._with_borders(x, pixels) if self.strips else pixels

    def _with_borders(self, x: Tensor, pixels: Tensor) -> Tensor:
        strip = REACH + self.margin  # phases of which the picture has 2 * REACH px
        top = self._border(x[:, :, :strip], (REACH, REACH, REACH, 0))  # [N, 3, 4, W]
        bottom = self._border(x[:, :, -strip:], (REACH, REACH, 0, REACH))
        left = self._border(x[..., :strip], (REACH, 0, REACH, REACH))  # [N, 3, H, 4]
        right = self._border(x[..., -strip:], (0, REACH, REACH, REACH))
        before, behind = REACH + 3 * self.margin, REACH + self.margin
        middle = [left[:, :, REACH:-REACH], pixels[..., before:-behind, before:-behind], right[:, :, REACH:-REACH]]
        return torch.cat([top, torch.cat(middle, 3), bottom], 2)

    def _border(self, phases: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
        strip = F.pixel_shuffle(phases, 2)
        if self.margin:
            strip = strip[..., 1:-1, 1:-1]
        strip = F.pad(strip, pads, mode=self.mode)
        return self._pixels(F.conv2d(strip, self.pairs, self.pairs_bias, stride=2), 2)

    def _pixels(self, x: Tensor, block: int) -> Tensor:
        return F.pixel_shuffle(self.tail(x), block)


def wide_kernel(weight: Tensor, block: int) -> Tensor:
    """Conv k, stride 1, to C channels ≡ conv k+b-1, stride b, to b*b*C channels, depth-to-space.

    Window a of the wide convolution starts at b*a; phase p of its output is y[b*a+p], whose taps are the kernel
    shifted by p. CPU kernels work in blocks of 8 or 16 output channels: 3 channels leave most of such a block empty.

    Shape: ``[C, C_in, k, k]`` -> ``[C b b, C_in, k + b - 1, k + b - 1]``, channels as pixel_shuffle reads them.
    """
    last = block - 1
    phases = [F.pad(weight, (q, last - q, p, last - p)) for p in range(block) for q in range(block)]
    return torch.stack(phases, 1).flatten(0, 1).contiguous()
