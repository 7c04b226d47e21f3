"""``nst-train visualize``: what the layers of the loss network see, as the sheets that the papers print.

Feature maps; pictures reconstructed from the activations of one layer (Gatys, Ecker & Bethge 2016, figure 1; Johnson et
al. 2016, figure 3; after Mahendran & Vedaldi 2015); textures reconstructed from the Gram matrices of growing sets of
layers (Gatys et al. 2016, figure 1; Johnson et al. 2016, figure 4).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from nst_common.atomic_file import prepare_folder
from nst_common.outputs import refuse_losses
from nst_common.progress import Progress
from nst_train.config import Device
from nst_train.contact_sheet import Row, Tile, draw_sheet
from nst_train.distributed import join_processes
from nst_train.errors import ConfigError
from nst_train.loss_network import LossNetwork, Pooling, in_order
from nst_train.objective import ObjectiveConfig, PerceptualObjective
from nst_train.options import LARGEST_SEED, add_options, check_ranges, from_namespace, option
from nst_train.pictures import load_picture, save_picture, to_image
from nst_train.pixel_descent import DescentConfig, StepReport, descend, explain_out_of_memory, white_noise
from nst_train.vgg_weights import Architecture, convolutions, deepest_layer

Sheet = Literal["features", "content", "style"]

FEATURE_TILE = 128  # px; height of a feature map on the sheet


@dataclass(frozen=True)
class VisualizeConfig:
    """Everything that shapes the sheets.

    Raises:
        ConfigError: a value that cannot be meant; it names the option.
    """

    content: Path | None = option("photograph: draws its feature maps and its reconstructions", None, metavar="FILE")
    style: Path | None = option("painting: draws its texture's reconstructions", None, metavar="FILE")
    out: Path = option(
        "folder for the sheets, NAME_features.png, NAME_content.png, NAME_style.png; made where it is missing",
        Path(),
        metavar="DIR",
    )
    sheets: tuple[Sheet, ...] = option(
        "features, content, style, or some of them; none means all that the pictures allow", (), metavar="SHEET"
    )
    layers: tuple[str, ...] = option(
        "layers to look at; none means the first of each block that the weights reach", (), metavar="LAYER"
    )
    maps: int = option("feature maps per layer, those that vary most", 8, metavar="N", at_least=1)
    size: int = option("shrink the pictures to this longer side, px", 256, metavar="PX", at_least=1)
    seed: int = option("of the noise that every reconstruction begins with", 0, at_least=0, at_most=LARGEST_SEED)
    smoothness: float = option(
        "weight of the total variation in reconstructions, per squared level of 0..255", 5e-6, metavar="W", at_least=0
    )
    vgg_weights: Path | None = option(
        "VGG state dict (.pth or .safetensors) instead of torchvision's download", None, metavar="FILE"
    )
    architecture: Architecture = option("loss network", ObjectiveConfig.architecture)
    pooling: Pooling = option("in the loss network", ObjectiveConfig.pooling)
    device: Device = option("auto takes the GPU where there is one", "auto")
    overwrite: bool = option("replace sheets that exist", False)
    descent: DescentConfig = field(default=DescentConfig(iterations=200))

    def __post_init__(self) -> None:
        check_ranges(self)
        for sheet in self.sheets:
            if sheet not in SHEETS:
                raise ConfigError("--sheets", f"no sheet {sheet!r}", f"Name one or more of {', '.join(SHEETS)}")
        if self.content is None and self.style is None:
            raise ConfigError(
                "--content", "no picture given", "Give a photograph with --content, a painting with --style or both"
            )
        for sheet in self.sheets:
            if self._source(sheet) is None:
                needed = "--style" if sheet == "style" else "--content"
                raise ConfigError("--sheets", f"the {sheet} sheet needs {needed}", f"Give a picture with {needed}")

    def _source(self, sheet: Sheet) -> Path | None:
        return self.style if sheet == "style" else self.content

    def work(self) -> dict[Sheet, Path]:
        """The sheets to draw, each with its picture."""
        wanted = self.sheets or SHEETS
        return {sheet: path for sheet in wanted if (path := self._source(sheet)) is not None}


SHEETS: tuple[Sheet, ...] = ("features", "content", "style")


def layers_to_see(config: VisualizeConfig) -> tuple[str, ...]:
    """The layers asked for, from shallow to deep; by default the first of every block that the weights reach.

    Raises:
        UserError: an unknown layer, or weights that cannot be used.
    """
    if config.layers:
        return in_order(config.architecture, config.layers)
    names = [conv.layer for conv in convolutions(config.architecture)]
    reached = names[: names.index(deepest_layer(config.architecture, config.vgg_weights)) + 1]
    return tuple(name for name in reached if name.endswith("_1"))


def feature_sheet(config: VisualizeConfig, picture: Tensor, name: str) -> Image.Image:
    """A row of feature maps for each layer: those channels whose activations vary most over the picture.

    Args:
        config: layers, network and number of maps.
        picture: float ``[1, 3, H, W]``, RGB, 0..255.
        name: of the picture, for the title.
    """
    network = LossNetwork(
        config.architecture, layers_to_see(config), weights=config.vgg_weights, pooling=config.pooling
    )
    with torch.no_grad(), explain_out_of_memory(picture):
        activations = network(picture)
    rows = [Row("", [Tile(to_image(picture), name)])]
    for layer, features in activations.items():
        maps = features[0]  # [C, h, w]
        tiles = [
            Tile(_map_image(maps[channel]), f"channel {channel}") for channel in strongest_channels(maps, config.maps)
        ]
        rows.append(Row(f"{layer}: {len(maps)} channels of {maps.shape[2]}x{maps.shape[1]} px", tiles))
    subtitle = (
        f"{_network_name(config)}; the {config.maps} channels of each layer that vary most, each from 0 (black) to its "
        "99th percentile (white)"
    )
    shape = (round(FEATURE_TILE * picture.shape[-1] / picture.shape[-2]), FEATURE_TILE)
    return draw_sheet(f"Feature maps of {name}", rows, subtitle=subtitle, tile_size=shape)


def strongest_channels(maps: Tensor, count: int) -> list[int]:
    """Up to ``count`` channels of ``[C, h, w]``, those first that vary most inside the picture."""
    spread = _inside(maps).std(dim=(1, 2), correction=0)  # [C]
    return spread.argsort(descending=True, stable=True)[:count].tolist()


def reconstruction_sheet(
    config: VisualizeConfig,
    sheet: Literal["content", "style"],
    picture: Tensor,
    name: str,
    watch: Callable[[StepReport], None] = lambda report: None,
) -> Image.Image:
    """The picture, and what is left of it in each layer (``content``) or in growing sets of layers (``style``).

    Args:
        config: layers, network and optimizer.
        sheet: which of the two.
        picture: float ``[1, 3, H, W]``, RGB, 0..255.
        name: of the picture, for its label.
        watch: called with every report of every reconstruction.

    Raises:
        UserError: as ``descend`` and LossNetwork.
    """
    tiles = [Tile(to_image(picture), name, "original")]
    with join_processes(config.device) as process, explain_out_of_memory(picture):
        for label, objective_config in reconstructions(config, sheet):
            styles = [picture] if sheet == "style" else []
            objective = PerceptualObjective(objective_config, styles, vgg_weights=config.vgg_weights)
            objective.to(process.device).to(memory_format=torch.channels_last)
            last = _reconstruct(config, objective, picture.to(process.device), watch)
            distance = last.style if sheet == "style" else last.content
            tiles.append(Tile(to_image(last.image), label, f"relative distance {distance:.2g}"))
    what = "Content" if sheet == "content" else "Style"
    how = "L-BFGS" if config.descent.optimizer == "lbfgs" else "Adam"
    subtitle = (
        f"{_network_name(config)}; each from white noise by {config.descent.iterations} iterations of {how}; "
        f"weight of the total variation {config.smoothness:g}"
    )
    return draw_sheet(f"{what} reconstructions of {name}", [Row("", tiles)], subtitle=subtitle)


def reconstructions(
    config: VisualizeConfig, sheet: Literal["content", "style"]
) -> Iterator[tuple[str, ObjectiveConfig]]:
    """Label and objective of each reconstruction: one layer each, or for style the first, the first two, …"""
    layers = layers_to_see(config)
    for count, layer in enumerate(layers, start=1):
        objective = ObjectiveConfig(
            architecture=config.architecture,
            content_layers=(layer,) if sheet == "content" else (),
            style_layers=layers[:count] if sheet == "style" else (),
            content_weight=1.0,
            style_weight=1.0,
            total_variation_weight=config.smoothness,
            grid_weight=0.0,  # a lattice that a layer cannot see is a part of the answer
            pooling=config.pooling,
        )
        yield layer if sheet == "content" or count == 1 else f"+ {layer}", objective


def _reconstruct(
    config: VisualizeConfig, objective: PerceptualObjective, picture: Tensor, watch: Callable[[StepReport], None]
) -> StepReport:
    targets = objective.targets(picture)
    noise = white_noise(picture.shape, config.seed).to(picture.device)
    for report in descend(noise, lambda pixels: objective(pixels, targets), config.descent):
        watch(report)
    return report


def _inside(maps: Tensor) -> Tensor:
    """``[..., h, w]`` without an eighth on each side, where some channels answer to the zero padding alone."""
    height, width = maps.shape[-2:]
    down, right = height // 8, width // 8
    return maps[..., down : height - down, right : width - right]


def _map_image(activation: Tensor) -> Image.Image:
    """``[h, w]``, not negative -> grey; an activation that is 0 everywhere stays black."""
    inside = _inside(activation).flatten()
    white = inside.quantile(0.99)  # a single bright pixel would leave the rest in the dark
    if white == 0:
        white = inside.max().clamp_min(torch.finfo(inside.dtype).tiny)
    levels = activation / white * 255.0
    return to_image(levels.expand(3, -1, -1))


def _network_name(config: VisualizeConfig) -> str:
    return f"{config.architecture.upper().replace('VGG', 'VGG-')}, {config.pooling} pooling"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``nst-train visualize``."""
    add_options(parser, VisualizeConfig)


def run(arguments: argparse.Namespace) -> int:
    """``nst-train visualize``: shows progress on stderr and names each written sheet on stdout.

    Raises:
        UserError: pictures, weights or places that cannot be used; sheets that exist; divergence.
    """
    config = from_namespace(VisualizeConfig, arguments)
    work = {config.out / f"{path.stem}_{sheet}.png": (sheet, path) for sheet, path in config.work().items()}
    pictures = {
        path: load_picture(path, "--style" if sheet == "style" else "--content", long_side=config.size)
        for sheet, path in work.values()
    }
    refuse_losses(work, inputs=(config.content, config.style, config.vgg_weights), overwrite=config.overwrite)
    slow = sum(sheet != "features" for sheet, _ in work.values()) * len(layers_to_see(config))
    prepare_folder(config.out)
    with Progress(slow * config.descent.iterations, "iterations") as progress:
        for target, (sheet, path) in work.items():
            if sheet == "features":
                image = feature_sheet(config, pictures[path], path.name)
            else:
                image = reconstruction_sheet(config, sheet, pictures[path], path.name, _advance(progress))
            save_picture(target, image, overwrite=config.overwrite)
            sys.stdout.write(f"{target}\n")
    return 0


def _advance(progress: Progress) -> Callable[[StepReport], None]:
    return lambda report: progress.advance(1, f"objective {report.total:.3g}") if report.iteration else None
