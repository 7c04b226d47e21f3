"""What training and the slow optimisation minimise: content, style and total variation, normalised in this one place.

The loss functions keep the papers' divisors, so their values depend on how large a network's activations happen to
be. Here each is divided by its target's own size, so that a weight means the same with every VGG and at every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nst_train.errors import StyleTooSmallError
from nst_train.loss_network import LossNetwork, Pooling, minimum_size
from nst_train.losses import content_loss, gram_matrix, style_loss, total_variation
from nst_train.options import check_ranges, option
from nst_train.vgg_weights import Architecture


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
    content_weight: float = option("weight of the normalised content term", 1.0, metavar="W", at_least=0)
    style_weight: float = option("weight of the normalised style term", 4.0, metavar="W", at_least=0)
    total_variation_weight: float = option(
        "weight of the total variation, per squared level of 0..255", 2e-6, metavar="W", at_least=0
    )
    pooling: Pooling = option("in the loss network: max as it was trained, or average as Gatys et al. prefer", "max")

    def __post_init__(self) -> None:
        check_ranges(self)


class ObjectiveValue(NamedTuple):
    """Scalars in float32 or better, each the mean over the batch.

    Attributes:
        content, style: normalised, before their weights: 0 at the target, 1 where no activation is left.
        total_variation: in squared levels of 0..255, before its weight.
        total: the weighted sum, which is minimised.
    """

    content: Tensor
    style: Tensor
    total_variation: Tensor
    total: Tensor


class PerceptualObjective(nn.Module):
    """The distance of a picture from a content picture's activations and a style's Gram matrices.

    Content, for each picture: ``Σ(φ(ŷ) − φ(y))² / Σφ(y)²``, averaged over ``content_layers``. Style, for each picture:
    ``‖G(ŷ) − G(s)‖² / ‖G(s)‖²``, averaged over ``style_layers`` and over ``styles``. Then the mean over the batch: two
    halves of a batch average to the whole.

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
        self._gram_names: dict[str, list[str]] = {layer: [] for layer in config.style_layers}
        for number, style in enumerate(styles if config.style_layers else ()):
            for layer, gram in self._style_grams(style.detach().cpu().float()).items():
                name = f"gram_{layer}_{number}"
                self.register_buffer(name, gram, persistent=False)  # [1, C, C]
                self._gram_names[layer].append(name)

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
            PictureTooSmallError: H or W below what the deepest layer needs.
        """
        config = self.config
        activations = self.loss_network(output)
        nothing = torch.zeros((), device=output.device)
        content = [_relative_content(activations[layer], targets[layer]) for layer in config.content_layers]
        style = [self._relative_style(layer, gram_matrix(activations[layer])) for layer in config.style_layers]
        content_term = torch.stack(content).mean() if content else nothing
        style_term = torch.stack(style).mean() if style else nothing
        variation = total_variation(output)
        total = (
            config.content_weight * content_term
            + config.style_weight * style_term
            + config.total_variation_weight * variation
        )
        return ObjectiveValue(content_term, style_term, variation, total)

    @torch.no_grad()
    def _style_grams(self, style: Tensor) -> dict[str, Tensor]:
        height, width = style.shape[-2:]
        deepest = [layer for layer in self.loss_network.layers if layer in self.config.style_layers][-1]
        if min(height, width) < minimum_size([deepest]):
            raise StyleTooSmallError(height, width, deepest, minimum_size([deepest]))
        activations = self.loss_network(style, self.config.style_layers)
        return {layer: gram_matrix(activation) for layer, activation in activations.items()}

    def _relative_style(self, layer: str, output: Tensor) -> Tensor:
        """Scalar; ``output`` holds the pictures' Gram matrices, ``[N, C, C]``."""
        terms = []
        for name in self._gram_names[layer]:
            target = self.get_buffer(name)
            terms.append(style_loss(output, target) / _not_zero(style_loss(torch.zeros_like(target), target)))
        return torch.stack(terms).mean()


def _relative_content(output: Tensor, target: Tensor) -> Tensor:
    """Scalar; each picture's distance is divided by the size of its own target before the mean over N."""
    distance = content_loss(output, target, reduction="none")  # [N]
    size = content_loss(torch.zeros_like(target), target, reduction="none")  # [N]
    return (distance / _not_zero(size)).mean()


def _not_zero(size: Tensor) -> Tensor:
    # Activations that are all exactly zero have no size to compare with: their distance stays as it is.
    return torch.where(size > 0, size, torch.ones_like(size))
