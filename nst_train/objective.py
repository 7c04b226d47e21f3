"""What training and the slow optimisation minimise: content, style, total variation and lattice, normalised here alone.

The loss functions keep the papers' divisors, so their values depend on how large a network's activations happen to
be. Here each is divided by its target's own size, so that a weight means the same with every VGG and at every layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.errors import PictureTooSmallError, StyleTooSmallError
from nst_train.grid_pattern import PERIOD, grid_loss
from nst_train.loss_network import LossNetwork, Padding, Pooling, minimum_size
from nst_train.losses import content_loss, gram_matrix, style_loss, total_variation
from nst_train.options import check_ranges, option
from nst_train.vgg_weights import Architecture

OCTAVE_PADDING: Padding = "replicate"  # pictures are small there, and mostly border


@dataclass(frozen=True)
class ObjectiveConfig:
    """Everything that shapes the objective, apart from the weights' file and the style.

    Raises:
        ConfigError: a negative weight.
    """

    architecture: Architecture = option("loss network", "vgg19")
    content_layers: tuple[str, ...] = option(
        "layers whose activations are compared with the content's; none leaves the content out",
        ("relu3_3",),
        metavar="LAYER",
    )
    style_layers: tuple[str, ...] = option(
        "layers whose Gram matrices are compared with the style's; none leaves the style out",
        ("relu1_1", "relu2_1", "relu3_1", "relu3_4"),
        metavar="LAYER",
    )
    style_octaves: int = option(
        "sizes at which output and style are compared: 1 as they are, 2 also at half their size, …: larger strokes",
        1,
        metavar="N",
        at_least=1,
        at_most=6,
    )
    content_weight: float = option("weight of the normalised content term", 1.0, metavar="W", at_least=0)
    style_weight: float = option("weight of the normalised style term", 4.0, metavar="W", at_least=0)
    total_variation_weight: float = option(
        "weight of the total variation, per squared level of 0..255", 2e-6, metavar="W", at_least=0
    )
    grid_weight: float = option(
        "weight of what all blocks of 4x4 px have in common, per squared level of 0..255", 1e-2, metavar="W", at_least=0
    )
    pooling: Pooling = option("in the loss network: max as it was trained, or average as Gatys et al. prefer", "max")

    def __post_init__(self) -> None:
        check_ranges(self)


class ObjectiveValue(NamedTuple):
    """Scalars in float32 or better, each the mean over the batch.

    Attributes:
        content, style: normalised, before their weights: 0 at the target, 1 where no activation is left.
        total_variation: in squared levels of 0..255, before its weight.
        grid: in squared levels, before its weight; see ``grid_loss``.
        total: the weighted sum, which is minimised.
    """

    content: Tensor
    style: Tensor
    total_variation: Tensor
    grid: Tensor
    total: Tensor


class PerceptualObjective(nn.Module):
    """The distance of a picture from a content picture's activations and a style's Gram matrices.

    Content, for each picture: ``Σ(φ(ŷ) − φ(y))² / Σφ(y)²``, averaged over ``content_layers``. Style, for each picture:
    ``‖G(ŷ) − G(s)‖² / ‖G(s)‖²``, averaged over ``style_layers``, ``styles`` and ``style_octaves``. Then the mean over
    the batch: two halves of a batch average to the whole.

    In octave k (0, 1, …) output and style are both shrunk by ``2**k``, so that the same layers see strokes that are
    ``2**k`` times as large (Gram matrices on an image pyramid: Snelgrove 2017, "High-Resolution Multi-Scale Neural
    Texture Synthesis"). An octave costs a quarter of the one before; from the second on, the VGG replicates borders.

    It has no trainable parameters. Gram matrices and norms are computed in float32 under autocast too.

    Args:
        config: layers and weights.
        styles: float ``[1, 3, h, w]``, RGB, 0..255; one for each size of the style, on any device (the activations
            are computed on the CPU, where the module is born). Unused, and may be empty, without ``style_layers``.
        vgg_weights: see LossNetwork.

    Raises:
        StyleTooSmallError: a style below what the deepest style layer can take.
        ValueError: style layers without a style.
        UserError: everything LossNetwork raises.
    """

    def __init__(self, config: ObjectiveConfig, styles: Sequence[Tensor], *, vgg_weights: Path | None = None) -> None:
        super().__init__()
        self.config = config
        if config.style_layers and not styles:
            raise ValueError("style layers need at least one style picture")
        layers = {*config.content_layers, *config.style_layers}
        self.loss_network = LossNetwork(config.architecture, layers, weights=vgg_weights, pooling=config.pooling)
        self._styles = len(styles)
        self._style_minimum = minimum_size(config.style_layers) << (config.style_octaves - 1)  # px
        for number, style in enumerate(styles if config.style_layers else ()):
            self._check_style_size(*style.shape[-2:])
            for octave, shrunk in enumerate(_octaves(style.detach().cpu().float(), config.style_octaves)):
                for layer, gram in self._style_grams(shrunk, OCTAVE_PADDING if octave else "zeros").items():
                    self.register_buffer(_gram_name(octave, layer, number), gram, persistent=False)  # [1, C, C]

    @torch.no_grad()
    def targets(self, content: Tensor) -> dict[str, Tensor]:
        """The content's activations, for ``forward``; the network runs no deeper than the last content layer.

        Args:
            content: float ``[N, 3, H, W]``, RGB, 0..255.

        Returns:
            Content layer -> ``[N, C, h, w]``, without gradient.

        Raises:
            PictureTooSmallError: H or W below what the deepest content layer needs.
        """
        if not self.config.content_layers:
            return {}
        activations: dict[str, Tensor] = self.loss_network(content, self.config.content_layers)
        return activations

    def forward(self, output: Tensor, targets: Mapping[str, Tensor]) -> ObjectiveValue:
        """Compares ``output`` with the content behind ``targets`` and with the styles.

        Args:
            output: float ``[N, 3, H, W]``, RGB, nominally 0..255; as large as the content was.
            targets: what ``targets`` returned for the same N pictures.

        Raises:
            PictureTooSmallError: H or W below what the deepest layer needs, in the last octave for the style's.
        """
        config = self.config
        if config.style_layers and min(output.shape[-2:]) < self._style_minimum:
            raise PictureTooSmallError(output.shape[-2], output.shape[-1], self._style_minimum)
        activations = self.loss_network(output)
        nothing = torch.zeros((), device=output.device)
        content = [_relative_content(activations[layer], targets[layer]) for layer in config.content_layers]
        style = self._style_terms(output, activations) if config.style_layers else []
        content_term = torch.stack(content).mean() if content else nothing
        style_term = torch.stack(style).mean() if style else nothing
        variation = total_variation(output)
        grid = grid_loss(output) if min(output.shape[-2:]) >= PERIOD else nothing
        total = (
            config.content_weight * content_term
            + config.style_weight * style_term
            + config.total_variation_weight * variation
            + config.grid_weight * grid
        )
        return ObjectiveValue(content_term, style_term, variation, grid, total)

    def _check_style_size(self, height: int, width: int) -> None:
        if min(height, width) < self._style_minimum:
            deepest = [layer for layer in self.loss_network.layers if layer in self.config.style_layers][-1]
            raise StyleTooSmallError(height, width, deepest, self._style_minimum)

    @torch.no_grad()
    def _style_grams(self, style: Tensor, padding: Padding) -> dict[str, Tensor]:
        activations = self.loss_network(style, self.config.style_layers, padding=padding)
        return {layer: gram_matrix(activation) for layer, activation in activations.items()}

    def _style_terms(self, output: Tensor, activations: Mapping[str, Tensor]) -> list[Tensor]:
        """A scalar for each octave and layer; ``activations`` are those of ``output`` itself."""
        layers = self.config.style_layers
        terms = []
        for octave, shrunk in enumerate(_octaves(output, self.config.style_octaves)):
            seen = self.loss_network(shrunk, layers, padding=OCTAVE_PADDING) if octave else activations
            terms += [self._relative_style(octave, layer, gram_matrix(seen[layer])) for layer in layers]
        return terms

    def _relative_style(self, octave: int, layer: str, output: Tensor) -> Tensor:
        """Scalar; ``output`` holds the pictures' Gram matrices, ``[N, C, C]``."""
        terms = []
        for number in range(self._styles):
            target = self.get_buffer(_gram_name(octave, layer, number))
            terms.append(style_loss(output, target) / _not_zero(style_loss(torch.zeros_like(target), target)))
        return torch.stack(terms).mean()


def _gram_name(octave: int, layer: str, style: int) -> str:
    return f"gram_{octave}_{layer}_{style}"


def _octaves(picture: Tensor, count: int) -> Iterator[Tensor]:
    """``picture``, float ``[N, 3, H, W]``, and ``count - 1`` times one of half the size of the one before."""
    yield picture
    for _ in range(count - 1):
        picture = F.avg_pool2d(picture, 2)
        yield picture


def _relative_content(output: Tensor, target: Tensor) -> Tensor:
    """Scalar; each picture's distance is divided by the size of its own target before the mean over N."""
    distance = content_loss(output, target, reduction="none")  # [N]
    size = content_loss(torch.zeros_like(target), target, reduction="none")  # [N]
    return (distance / _not_zero(size)).mean()


def _not_zero(size: Tensor) -> Tensor:
    # Activations that are all exactly zero have no size to compare with: their distance stays as it is.
    return torch.where(size > 0, size, torch.ones_like(size))
