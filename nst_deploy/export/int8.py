"""INT8 engines for CPUs: the large convolutions multiply 8-bit activations by 8-bit weights, all else stays in floats.

Activations are rounded to 256 levels of one range per convolution, calibrated on photographs; weights to 127 levels of
one range per output channel. Value 0 is a level of both, so that padding and what ReLU cuts off stay exact. Trained
nets keep 40 to 46 dB so. The picture itself costs nothing: it consists of 256 levels already.

A convolution whose output is read more than once, by the sums of a norm and by what they scale, must have nothing to
be multiplied by afterwards: OpenVINO 2026.4 moves such a factor behind one reader and applies it a second time for the
others. Instance norm does not care for the scale of its input, so these convolutions give plain integers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.fold import fold
from nst_deploy.export.norm import PhaseNorm, RowwiseNorm
from nst_deploy.export.parity import Pixels
from nst_deploy.export.phase_head import PhaseHead
from nst_deploy.export.stage import Centre, FoldedNet, Levels, Stage
from nst_train.transform_net import TransformNet

ACTIVATION_STEPS = 255  # between the levels of uint8
# Of either sign. CPUs without VNNI add two products in 16 bits, and 2 * 255 * 63 is the most that these hold.
WEIGHT_STEPS = 63
CENTRE = 128  # levels: what the middle of the range is rounded to, so that distances from it are whole
# Share of an activation's values beyond each end of its range. With none, single bright values far out make every step
# coarse: 5 dB less; with 1e-4 it is 1 dB less.
CUT_OFF = 3e-5


@dataclass(frozen=True)
class Site:
    """How one convolution is quantised.

    Attributes:
        step: between neighbouring levels of its activations.
        zero: the level of value 0, 0..255.
        weight_step: between neighbouring levels of its weights; None has one of its own for each output channel.
        whole: its output counts in ``step * weight_step``.
    """

    step: float
    zero: int
    weight_step: float | None = None

    @property
    def whole(self) -> bool:
        return self.weight_step is not None


def fold_to_int8(net: TransformNet, pictures: Sequence[Pixels]) -> tuple[FoldedNet, dict[str, Site]]:
    """The folded net in float32, ready to be quantised, and how.

    Args:
        pictures: uint8 ``[H, W, 3]``, RGB, on which the ranges are calibrated.

    Returns:
        The net, and by the name of its weight within the net how each convolution is quantised.
    """
    folded = fold(net, rounded=True)
    first = _centre_on_a_level(folded)
    layers = dict(_convolutions(folded))
    ranges = calibrate(folded, list(layers.values()), pictures)
    whole = dict(_read_by_many(folded))
    sites = {}
    for name, layer in layers.items():
        step, zero = (1.0, CENTRE) if layer is first else _levels(*ranges[layer])
        weight_step = None
        if layer in whole:
            weight_step = _scale_to_whole(layer, whole[layer], step)
        sites[name] = Site(step, zero, weight_step)
    return folded, sites


@torch.inference_mode()
def calibrate(
    folded: FoldedNet, layers: Sequence[nn.Module], pictures: Sequence[Pixels]
) -> dict[nn.Module, tuple[float, float]]:
    """Lowest and highest value that each layer is given, but for CUT_OFF of them at each end; 0 is always between."""
    ranges = dict.fromkeys(layers, (0.0, 0.0))

    def watch(layer: nn.Module) -> Any:
        def record(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            values = given[0].flatten()
            count = max(1, round(CUT_OFF * values.numel()))
            low, high = (values.topk(count, largest=largest).values[-1].item() for largest in (False, True))
            ranges[layer] = (min(ranges[layer][0], low), max(ranges[layer][1], high))

        return layer.register_forward_pre_hook(record)

    handles = [watch(layer) for layer in layers]
    try:
        for picture in pictures:
            DeployableNet(folded)(torch.from_numpy(picture.copy())[None])
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def _centre_on_a_level(folded: FoldedNet) -> Stage:
    """Shifts what the first stage is given by half a level: a constant, which its norm takes out again."""
    centre, first = cast("tuple[Centre, Stage]", tuple(folded.layers[:2]))
    if first.mode == "constant":
        # The convolution's own zeros lie in the middle of the range, which is no longer 0.
        width, first.conv.padding = max(first.pads[0], cast("int", first.conv.padding[0])), (0, 0)
        first.pads = (width, width)
        first.pad_value += centre.middle - CENTRE
    centre.middle = CENTRE
    return first


def _convolutions(folded: FoldedNet) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions worth it, by the names of their weights, in the order in which they run.

    Not the strips along the border of the head, nor a head whose output a norm reads: too small, and read by many.
    """
    for name, module in folded.named_modules():
        if isinstance(module, Stage):
            yield f"{name}.conv.weight", module
        elif isinstance(module, PhaseHead) and isinstance(module.tail, Levels):
            yield f"{name}.phases", module


def _read_by_many(folded: FoldedNet) -> Iterator[tuple[Stage, RowwiseNorm | PhaseNorm]]:
    """Stages whose norm is one of ours, which reads its input several times."""
    layers = list(folded.layers)
    for layer, following in zip(layers, [*layers[1:], nn.Identity()], strict=True):
        if isinstance(layer, Stage):
            norm = following if isinstance(following, PhaseNorm) else layer.norm
            if isinstance(norm, RowwiseNorm | PhaseNorm):
                yield layer, norm


def _levels(low: float, high: float) -> tuple[float, int]:
    """Step, and the level of 0, of 256 levels from low <= 0 to high >= 0."""
    step = (high - low) / ACTIVATION_STEPS or 1.0  # where nothing ever came through
    return step, round(-low / step)


def _scale_to_whole(stage: Stage, norm: RowwiseNorm | PhaseNorm, step: float) -> float:
    """Scales a stage so that what it computes from whole levels is whole, and its norm accordingly: see scale_norms.

    Returns the step of its weights before, which is 1 / ``step`` afterwards.
    """
    weight_step = stage.conv.weight.abs().max().item() / WEIGHT_STEPS or 1.0
    scale = 1 / (step * weight_step)
    stage.conv.weight.data *= scale
    norm.eps *= scale**2
    return weight_step
