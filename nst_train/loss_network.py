"""The loss network: a frozen VGG whose activations say what a picture shows and in which style.

Johnson, Alahi & Fei-Fei 2016, section 3.2; layers are named as there: ``relu3_3`` is the ReLU behind the third
convolution of the third block.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.errors import PictureTooSmallError, UnknownLayerError
from nst_train.vgg_weights import Architecture, convolutions, load_vgg_weights

Pooling = Literal["max", "average"]
Padding = Literal["zeros", "replicate"]


class LossNetwork(nn.Module):
    """VGG-16 or VGG-19 without classifier, cut after the deepest layer asked for; frozen, always in evaluation mode.

    Float ``[N, 3, H, W]``, RGB, 0..255 -> a dict from layer name to float ``[N, C, h, w]`` with
    ``h = H // 2**(block - 1)``; under autocast the activations come in its dtype.

    Args:
        architecture: ``vgg16`` or ``vgg19``.
        layers: the layers to return, in any order.
        weights: a state dict with torchvision's names, which may stop behind the deepest layer; None for the weights
            that torchvision publishes.
        pooling: ``max``, as the network was trained, or ``average``, which Gatys, Ecker & Bethge 2016 prefer.

    Attributes:
        layers: the names asked for, from shallow to deep.
        minimum_size: px; the least H and W that leave the deepest layer one row and one column.

    Raises:
        UnknownLayerError: a name that the architecture does not have.
        LayerNotInWeightsError, VggWeightsNotFoundError, VggWeightsUnreadableError, VggWeightsMismatchError,
        VggDownloadError: see load_vgg_weights.
    """

    mean: Tensor  # [3, 1, 1], of pixels in 0..1
    std: Tensor  # [3, 1, 1]

    def __init__(
        self,
        architecture: Architecture,
        layers: Collection[str],
        *,
        weights: Path | None = None,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__()
        self.layers = in_order(architecture, layers)
        self.pooling: Pooling = pooling
        every = convolutions(architecture)
        count = max((i + 1 for i, conv in enumerate(every) if conv.layer in self.layers), default=0)
        self._specs = every[:count]
        self.minimum_size = minimum_size(self.layers)
        self._minimum_sizes = {layer: minimum_size([layer]) for layer in self.layers}
        loaded = load_vgg_weights(architecture, self._specs, weights)
        self.register_buffer("mean", torch.tensor(loaded.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(loaded.std).view(3, 1, 1))
        self.convs = nn.ModuleList()
        for spec in self._specs:
            conv = nn.Conv2d(spec.c_in, spec.c_out, 3, padding=1, device="meta")  # no random numbers are drawn
            state = {kind: loaded.tensors[f"{spec.key}.{kind}"] for kind in ("weight", "bias")}
            conv.load_state_dict(state, assign=True)
            self.convs.append(conv)
        self.requires_grad_(False)
        self.eval()

    def forward(
        self, image: Tensor, layers: Collection[str] | None = None, *, padding: Padding = "zeros"
    ) -> dict[str, Tensor]:
        """The activations of ``layers`` (of all that the network was built for when None); nothing deeper is computed.

        Args:
            image, layers: see above.
            padding: what every convolution sees beyond the border: ``zeros``, as the network was trained, or
                ``replicate``, the nearest activation. Zeros reach 6 px into relu3_4, most of a picture that is small
                there, and a picture that is optimised against them grows a grey frame.

        Raises:
            PictureTooSmallError: H or W is below what the deepest of ``layers`` needs.
        """
        wanted = self.layers if layers is None else [layer for layer in self.layers if layer in layers]
        height, width = image.shape[-2:]
        least = self._minimum_sizes[wanted[-1]] if wanted else 1
        if min(height, width) < least:
            raise PictureTooSmallError(height, width, least)
        activations: dict[str, Tensor] = {}
        x = (image.to(self.mean.dtype) / 255.0 - self.mean) / self.std  # the net's own dtype, also under autocast
        block = 1
        for spec, conv in zip(self._specs, cast("Iterable[nn.Conv2d]", self.convs), strict=True):
            if len(activations) == len(wanted):
                break
            if spec.block != block:
                x, block = self._pool(x), spec.block  # [N, C, h // 2, w // 2]
            x = conv(x) if padding == "zeros" else F.conv2d(_replicated(x), conv.weight, conv.bias)
            x = F.relu(x, inplace=True)  # [N, spec.c_out, h, w]
            if spec.layer in wanted:
                activations[spec.layer] = x
        return activations

    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if self.pooling == "max" else F.avg_pool2d(x, 2)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: a loss network is never trained."""
        del mode
        return super().train(False)


def _replicated(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` -> ``[N, C, H + 2, W + 2]``, in the same memory format.

    Put together from slices: ``F.pad`` leaves channels_last, and torch.compile is wrong about its backward.
    """
    x = torch.cat((x[:, :, :1], x, x[:, :, -1:]), dim=2)
    return torch.cat((x[..., :1], x, x[..., -1:]), dim=3)


def in_order(architecture: Architecture, layers: Collection[str]) -> tuple[str, ...]:
    """``layers`` from shallow to deep, each once.

    Raises:
        UnknownLayerError: a name that the architecture does not have.
    """
    known = [conv.layer for conv in convolutions(architecture)]
    for layer in layers:
        if layer not in known:
            raise UnknownLayerError(layer, architecture, known)
    return tuple(layer for layer in known if layer in layers)


def minimum_size(layers: Collection[str]) -> int:
    """Least height and width in px of a picture that the deepest of ``layers`` can see."""
    deepest_block = max((int(layer.removeprefix("relu").split("_")[0]) for layer in layers), default=1)
    return 1 << (deepest_block - 1)  # every block but the first begins with a pooling that halves
