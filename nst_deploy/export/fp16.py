"""FP16 graphs for GPUs: every weight and activation in half precision, safe at any size.

Half precision ends at 65504, and squares of values beyond 256 leave it: what an instance norm sees must be kept near 1.
Instance norm allows that, for it does not care for the scale of its input:
``norm(s x, eps s^2) = norm(x, eps)``, so every convolution before a norm is scaled by a power of two, which rounds
nothing. Behind a norm of n pixels no value can exceed ``|weight| sqrt(n) + |bias|``, at 8K 5760 weights.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.fold import Rewrite, fold
from nst_deploy.export.parity import Pixels, Run
from nst_deploy.export.stage import FoldedNet, Stage
from nst_train.transform_net import TransformNet

NormPrecision = Literal["fp16", "fp32"]
NORM_PRECISIONS: tuple[NormPrecision, ...] = get_args(NormPrecision)

# GPUs have one kernel for an instance norm and shuffle pixels at the speed of their memory: what keeps a CPU's sums
# precise and its pixels in phases would only take the norms apart for them.
REWRITES: tuple[Rewrite, ...] = ("centred_first", "subpixel", "paired_head")


def fold_to_half(
    net: TransformNet, pictures: Sequence[Pixels], norm_precision: NormPrecision = "fp16"
) -> tuple[FoldedNet, tuple[float, ...]]:
    """The folded net in half precision. Its last step, levels from the last convolution, runs in float32.

    Args:
        pictures: uint8 ``[H, W, 3]``, RGB, on which the scales are calibrated.
        norm_precision: ``fp16`` reads and writes norms in half precision and relies on the engine to sum in float32, as
            cuDNN and TensorRT do; ``fp32`` casts before and after each norm.

    Returns:
        The net, and the scale of each convolution that a norm follows, in their order.
    """
    folded = fold(net, REWRITES, rounded=True)
    scales = calibrate(folded, pictures)
    scale_norms(folded, scales)
    folded.half()
    for stage in _normed(folded):
        if norm_precision == "fp32":
            stage.norm = _Float32Norm(stage.norm.float())
    folded.layers[-1] = nn.Sequential(_ToFloat32(), folded.layers[-1])
    return folded, scales


@torch.inference_mode()
def calibrate(folded: FoldedNet, pictures: Sequence[Pixels]) -> tuple[float, ...]:
    """For each convolution before a norm, the power of two that brings its strongest channel to an RMS of 0.5 to 1."""
    stages = _normed(folded)
    strongest = dict.fromkeys(stages, 0.0)

    def watch(stage: Stage) -> Any:
        def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            rms = output.square().mean((0, 2, 3)).max().sqrt().item()
            strongest[stage] = max(strongest[stage], rms)

        return stage.conv.register_forward_hook(record)

    handles = [watch(stage) for stage in stages]
    try:
        for picture in pictures:
            DeployableNet(folded)(torch.from_numpy(picture.copy())[None])
    finally:
        for handle in handles:
            handle.remove()
    # A channel that is zero on every picture keeps its scale.
    return tuple(2.0 ** -math.ceil(math.log2(rms)) if rms > 0 else 1.0 for rms in strongest.values())


def scale_norms(folded: FoldedNet, scales: Sequence[float]) -> None:
    """Multiplies each convolution before a norm by its scale, and the norm's epsilon by the square: nothing changes."""
    for stage, scale in zip(_normed(folded), scales, strict=True):
        stage.conv.weight.data *= scale
        cast("nn.InstanceNorm2d", stage.norm).eps *= scale**2


def emulated_run(half: FoldedNet, storage: "HalfStorage | None" = None) -> Run:
    """A half-precision net as a GPU runs it, on the CPU: uint8 ``[N, H, W, 3]`` -> the same.

    Every stored value is rounded to FP16, and so is every square inside a norm; sums are float32. ONNX Runtime's CPU
    kernels run norms in float32 altogether and would not show an overflow there.

    Args:
        storage: what emulates it; None for one of its own. Give one to look at what is stored.
    """
    deployable = DeployableNet(half, torch.float16).eval()
    storage = storage or HalfStorage()

    def run(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with torch.inference_mode(), storage:
            styled: NDArray[np.uint8] = deployable(torch.from_numpy(images.copy())).numpy()
        return styled

    return run


class HalfStorage(TorchFunctionMode):
    """Whatever reads half-precision tensors computes in float32 and is rounded once, when it is stored."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reads_half = any(_is_half(value) for value in (*args, *kwargs.values()))
        # Attributes and questions for a shape are no computation; widening a picture of 4K for them takes its time.
        is_attribute = getattr(func, "__name__", "") == "__get__"
        if not reads_half or is_attribute or func in _CASTS or func in _QUESTIONS:
            return func(*args, **kwargs)
        if func is F.instance_norm:
            return _half_instance_norm(*args, **kwargs)
        wide_args, wide_kwargs = tree_map(_widened, (args, kwargs))
        return tree_map(_stored, func(*wide_args, **wide_kwargs))


_CASTS = (Tensor.float, Tensor.half, Tensor.to)
_QUESTIONS = (Tensor.dim, Tensor.size)


def _half_instance_norm(x: Tensor, *_: object, weight: Tensor, bias: Tensor, eps: float, **__: object) -> Tensor:
    centred = (x.float() - x.mean((2, 3), dtype=torch.float32, keepdim=True)).half()
    squares = centred.square()  # rounded to half as it is stored: infinite beyond 256
    variance = squares.mean((2, 3), dtype=torch.float32, keepdim=True)
    scale = weight.float()[:, None, None] / torch.sqrt(variance + eps)
    return (centred.float() * scale + bias.float()[:, None, None]).half()


def _is_half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _widened(value: Any) -> Any:
    return value.float() if _is_half(value) else value


def _stored(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _normed(folded: FoldedNet) -> list[Stage]:
    """The stages whose convolution a norm follows, in the order in which they run."""
    stages = [module for module in folded.modules() if isinstance(module, Stage)]
    return [stage for stage in stages if not isinstance(stage.norm, nn.Identity)]


class _ToFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class _Float32Norm(nn.Module):
    """A norm of half-precision values in float32."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(x.float())).half()
