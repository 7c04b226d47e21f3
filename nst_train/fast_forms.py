"""The same functions as PyTorch's, in forms that train faster with channels_last."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.transform_net import ConvNormReLU, Upsample, reflect

FEW = 4  # channels


class InstanceNorm(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` without running statistics that stays in channels_last.

    PyTorch's own copies its input to contiguous and its output is contiguous too, so that every convolution around it
    converts once more: three times the time. On a CPU, group norm with one channel per group is the same function and
    has a fast channels_last forward; its backward does not, so we bring our own. On a GPU the formula is written out,
    for torch.compile to fuse with what stands around it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        if x.device.type == "cpu":
            return cast("Tensor", _InstanceNorm.apply(x, self.weight, self.bias, self.eps))
        return written_out(x, self.weight, self.bias, self.eps)


def written_out(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same by its formula, with statistics in float32 or better; x float ``[N, C, H, W]``."""
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)  # [N, C, 1, 1]
    scale = torch.rsqrt(variance + eps) * weight[:, None, None]
    return ((values - mean) * scale + bias[:, None, None]).to(x.dtype)


class _InstanceNorm(torch.autograd.Function):
    """``(x − mean) · rstd · weight + bias`` per picture and channel; x float ``[N, C, H, W]``, channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        n, c, h, w = x.shape
        y, mean, rstd = torch.ops.aten.native_group_norm(x, weight, bias, n, c, h * w, c, eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        return cast("Tensor", y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With x̂ the normalised input: dx = weight · rstd · (g − mean(g) − x̂ · mean(g · x̂)), a line in x and g."""
        x, mean, rstd, weight = ctx.saved_tensors
        sums = torch.float64 if x.dtype == torch.float64 else torch.float32
        mean, rstd, count = mean.to(sums), rstd.to(sums), x.shape[2] * x.shape[3]  # [N, C]
        grad_sum = grad.sum((2, 3), dtype=sums)  # [N, C]
        product_sum = rstd * ((grad * x).sum((2, 3), dtype=sums) - mean * grad_sum)  # [N, C], Σ g · x̂
        of_grad = weight * rstd
        of_x = -of_grad * rstd * product_sum / count
        constant = -of_grad * grad_sum / count - of_x * mean
        of_grad, of_x, constant = (factor[:, :, None, None].to(x.dtype) for factor in (of_grad, of_x, constant))
        grad_x = torch.addcmul(torch.addcmul(constant, x, of_x), grad, of_grad)
        return grad_x, product_sum.sum(0), grad_sum.sum(0), None


class FewChannelsConv(nn.Conv2d):
    """``nn.Conv2d`` of stride 1 from or to a picture's three channels, computed for 2x2 pixels at once.

    Kernels on CPUs and GPUs work in blocks of 8 to 16 channels. A convolution with stride 2 to four times the channels,
    whose kernels are the given one at four offsets, and depth-to-space fill them: on a CPU half the time for the last
    layer. On a GPU the four channels' worth of a 2x2 block of the input become channels too, which leaves a convolution
    of stride 1 with a quarter of the taps.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.by_channels(x)
        return self.by_strides(x) if self.out_channels <= FEW else super().forward(x)

    def by_strides(self, x: Tensor) -> Tensor:
        """The same, as a CPU likes it."""
        if not self._fits(x):
            return super().forward(x)
        weight, bias = self._at_four_offsets()
        return F.pixel_shuffle(F.conv2d(self._padded(x), weight, bias, stride=2), 2)

    def by_channels(self, x: Tensor) -> Tensor:
        """The same, as a GPU likes it."""
        if not self._fits(x):
            return super().forward(x)
        weight, bias = self._at_four_offsets()
        blocks = F.pixel_unshuffle(self._padded(x), 2)  # [N, 4 C_in, h / 2, w / 2]
        return F.pixel_shuffle(F.conv2d(blocks, F.pixel_unshuffle(weight, 2), bias), 2)

    def _padded(self, x: Tensor) -> Tensor:
        down, right = cast("tuple[int, int]", self.padding)
        return F.pad(x, (right, right, down, down)) if down or right else x

    def _at_four_offsets(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``[4 C_out, C_in, k + 1, k + 1]`` and bias ``[4 C_out]``."""
        offsets = [F.pad(self.weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return torch.stack(offsets, 1).flatten(0, 1), bias

    def _fits(self, x: Tensor) -> bool:
        """Whether the kernel is odd and the output even along both axes."""
        padding = cast("tuple[int, int]", self.padding)
        sides = zip(x.shape[-2:], self.kernel_size, padding, strict=True)
        return all(kernel % 2 == 1 and (side + 2 * pad - kernel) % 2 == 1 for side, kernel, pad in sides)


def reflect_by_slices(x: Tensor, width: int) -> Tensor:
    """``transform_net.reflect``; what torch.compile makes of PyTorch's own scatters on the way back, one by one."""
    return reflect(x, width) if x.device.type == "cpu" else mirrored(x, width)


def mirrored(x: Tensor, width: int) -> Tensor:
    """The same, put together from slices."""
    x = torch.cat((x[:, :, 1 : width + 1].flip(2), x, x[:, :, -width - 1 : -1].flip(2)), dim=2)
    return torch.cat((x[..., 1 : width + 1].flip(3), x, x[..., -width - 1 : -1].flip(3)), dim=3)


def use_fast_forms(net: nn.Module) -> None:
    """Lets the layers of ``net`` that have a fast form use it, with the parameters that they have."""
    for module in net.modules():
        if type(module) is nn.InstanceNorm2d and module.affine and not module.track_running_stats:
            module.__class__ = InstanceNorm
        elif type(module) is nn.Conv2d and min(module.in_channels, module.out_channels) <= FEW and _is_plain(module):
            module.__class__ = FewChannelsConv
        elif isinstance(module, ConvNormReLU | Upsample):
            module.reflect = reflect_by_slices


def _is_plain(conv: nn.Conv2d) -> bool:
    zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return zeros and conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1


def self_product(psi: Tensor) -> Tensor:
    """``psi.mT @ psi``: float ``[N, P, C]`` -> symmetric ``[N, C, C]`` in float32 or better.

    bfloat16 is multiplied as such, summed by the hardware in float32 and rounded once at the end (relative 2**-9).
    """
    if psi.is_cuda:  # there autograd's own way costs little, and torch.compile sees through it
        product = psi.mT @ psi
        return product if product.dtype in (torch.float32, torch.float64) else product.float()
    return cast("Tensor", _SelfProduct.apply(psi))


class _SelfProduct(torch.autograd.Function):
    """Autograd would treat the factors as two matrices and multiply twice on the way back; once is enough."""

    @staticmethod
    def forward(ctx: Any, psi: Tensor) -> Tensor:
        ctx.save_for_backward(psi)
        product = psi.mT @ psi
        return product if product.dtype in (torch.float32, torch.float64) else product.float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (psi,) = ctx.saved_tensors
        return cast("Tensor", psi @ (grad + grad.mT).to(psi.dtype))
