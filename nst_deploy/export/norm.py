"""Instance norm in forms that stay precise over millions of pixels, and that need no pixel order.

ONNX Runtime's CPU kernel adds up a whole channel in eight float32 accumulators: at 2 megapixels the variance is off by
8e-5 of its value, enough to move 0.1 % of the pixels by a level. Summed by rows it is off by 1e-6. The square of a
row's L2 norm is its sum of squares, and no engine stores the squares for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowwiseNorm(nn.Module):
    """Instance norm whose sums are taken over rows first, then over their sums: ``[N, C, H, W]``, kept; float."""

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach()[:, None, None])  # [C, 1, 1]
        self.bias = nn.Parameter(norm.bias.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(3, keepdim=True).mean(2, keepdim=True)  # [N, C, 1, 1]
        mean_square = _row_squares(x).mean(2, keepdim=True) / x.shape[3]
        scale, shift = _affine(mean, mean_square, self.weight, self.bias, self.eps)
        return x * scale + shift


class PhaseNorm(nn.Module):
    """RowwiseNorm and ReLU of a picture that lies in its four phases, before depth-to-space.

    ``PhaseNorm(x) = pixel_unshuffle(relu(RowwiseNorm(pixel_shuffle(x))))``: sums do not care for the order of pixels.

    Shape: ``[N, 4C, h, w]``, channels as pixel_shuffle reads them, kept; float.

    Args:
        margin: px on every side of the shuffled picture that do not belong to it, 0 or 1; no sum counts them.
    """

    first: Tensor
    last: Tensor
    join: Tensor

    def __init__(self, norm: nn.InstanceNorm2d, margin: int) -> None:
        super().__init__()
        self.eps, self.margin = norm.eps, margin
        self.weight = nn.Parameter(norm.weight.detach().repeat_interleave(4)[:, None, None])  # [4C, 1, 1]
        self.bias = nn.Parameter(norm.bias.detach().repeat_interleave(4)[:, None, None])
        # The mean of the four phases for each of them, as a 1x1 convolution: a reshape would make OpenVINO leave its
        # channels-last order, which costs two passes over the whole picture.
        blocks = torch.kron(torch.eye(norm.num_features), torch.full((4, 4), 0.25)).to(norm.weight.dtype)
        self.register_buffer("join", blocks[:, :, None, None])  # [4C, 4C, 1, 1]
        # With a margin phase 0 of an axis begins outside the picture, and phase 1 ends outside.
        phase = torch.arange(4).repeat(norm.num_features)  # 2 * row phase + column phase
        first = torch.stack([phase < 2, phase % 2 == 0]).to(norm.weight.dtype)
        self.register_buffer("first", first[:, :, None, None])  # [2, 4C, 1, 1], 1 where the first entry is outside
        self.register_buffer("last", 1 - first[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        means, squares = x.mean(3, keepdim=True), _row_squares(x) / width  # [N, 4C, h, 1]
        if self.margin:
            outside = self._outside(x[..., :1], x[..., -1:], axis=1)
            means = (means - outside / width) * (width / (width - 1))
            squares = (squares - outside * outside / width) * (width / (width - 1))
        mean, mean_square = self._mean(means, height), self._mean(squares, height)
        scale, shift = _affine(mean, mean_square, self.weight, self.bias, self.eps)
        return F.relu(x * scale + shift)

    def _mean(self, rows: Tensor, height: int) -> Tensor:
        """Means of rows ``[N, 4C, h, 1]`` -> their channel's mean for each phase, ``[N, 4C, 1, 1]``."""
        mean = rows.mean(2, keepdim=True)
        if self.margin:
            outside = self._outside(rows[:, :, :1], rows[:, :, -1:], axis=0)
            mean = (mean - outside / height) * (height / (height - 1))
        return F.conv2d(mean, self.join)

    def _outside(self, first: Tensor, last: Tensor, axis: int) -> Tensor:
        return first * self.first[axis] + last * self.last[axis]


def _row_squares(x: Tensor) -> Tensor:
    """Sum of the squares of each row: ``[N, C, H, W]`` -> ``[N, C, H, 1]``."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=3, keepdim=True)
    return norms * norms


def _affine(mean: Tensor, mean_square: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``(x - mean) / sqrt(variance + eps) * weight + bias = x * scale + shift``."""
    variance = F.relu(mean_square - mean * mean)  # rounding must not make it negative
    scale = weight / torch.sqrt(variance + eps)
    return scale, bias - mean * scale
