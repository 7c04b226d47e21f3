"""``nst-train gatys``: one picture in one style by optimising its pixels (Gatys, Ecker & Bethge, CVPR 2016).

It minimises the very objective that training minimises, so its trace shows what a feed-forward net is worth. The
paper's own choice of layers is ``--content-layers relu4_2 --style-layers relu1_1 relu2_1 relu3_1 relu4_1 relu5_1
--pooling average``.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_common.progress import Progress
from nst_train.config import Device
from nst_train.data import load_style
from nst_train.distributed import join_processes
from nst_train.errors import ConfigError
from nst_train.objective import ObjectiveConfig, PerceptualObjective
from nst_train.options import add_options, check_ranges, from_namespace, option
from nst_train.pictures import check_folder, check_suffix, load_picture, save_picture, to_image
from nst_train.pixel_descent import DescentConfig, StepReport, descend, explain_out_of_memory, white_noise

Start = Literal["content", "style", "noise"]

TRACE_FIELDS = ("iteration", "evaluations", "content", "style", "total_variation", "grid", "total")
TRACE_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True)
class GatysConfig:
    """Everything that shapes one slow stylisation.

    Raises:
        ConfigError, SuffixError: a value that cannot be meant; it names the option.
    """

    style: Path = option("the painting", metavar="FILE")
    content: Path = option("the photograph", metavar="FILE")
    out: Path = option("the picture to write, .png, .jpg or .webp", Path("gatys.png"), metavar="FILE")
    trace: Path | None = option("write the objective of every iteration to this .csv or .json", None, metavar="FILE")
    every: int = option(
        "also keep the picture of every N-th iteration, beside --out; 0 keeps none", 0, metavar="N", at_least=0
    )
    size: int = option("shrink the photograph to this longer side, px", 512, metavar="PX", at_least=1)
    style_size: tuple[int, ...] = option(
        "long side of the painting, px; several sizes give strokes of several sizes",
        (512,),
        metavar="PX",
        at_least=1,
    )
    start: Start = option("what the optimisation begins with", "content")
    seed: int = option("of the noise", 0, at_least=0)
    vgg_weights: Path | None = option(
        "VGG state dict (.pth or .safetensors) instead of torchvision's download", None, metavar="FILE"
    )
    device: Device = option("auto takes the GPU where there is one", "auto")
    objective: ObjectiveConfig = field(default=ObjectiveConfig())
    descent: DescentConfig = field(default=DescentConfig())

    def __post_init__(self) -> None:
        check_ranges(self)
        check_suffix(self.out, "--out")
        if not self.style_size:
            raise ConfigError("--style-size", "no size given", "Give at least one, as --style-size 512")
        if self.trace is not None and self.trace.suffix.lower() not in TRACE_SUFFIXES:
            raise ConfigError(
                "--trace", f"{self.trace} has no known suffix", f"End it in {' or '.join(TRACE_SUFFIXES)}"
            )


def stylize(config: GatysConfig) -> Iterator[StepReport]:
    """Optimises the pixels; yields the start and the picture after each iteration, and writes nothing.

    Raises:
        UserError: pictures or weights that cannot be used, divergence, too little memory.
    """
    content = load_picture(config.content, "--content", long_side=config.size)
    styles = load_style(config.style, config.style_size)
    with join_processes(config.device) as process, explain_out_of_memory(content):
        objective = PerceptualObjective(config.objective, styles, vgg_weights=config.vgg_weights)
        objective.to(process.device).to(memory_format=torch.channels_last)
        targets = objective.targets(content.to(process.device))
        start = starting_picture(config.start, content, styles[0], config.seed).to(process.device)
        yield from descend(start, lambda pixels: objective(pixels, targets), config.descent)


def starting_picture(start: Start, content: Tensor, style: Tensor, seed: int) -> Tensor:
    """The photograph, the painting stretched to its size, or uniform noise over 0..255.

    Args:
        start: which of them.
        content, style: float ``[1, 3, H, W]`` and ``[1, 3, h, w]``, RGB, 0..255.
        seed: of the noise.

    Returns:
        float ``[1, 3, H, W]``, 0..255.
    """
    if start == "content":
        return content.clone()
    if start == "style":
        size = (content.shape[-2], content.shape[-1])
        return F.interpolate(style, size=size, mode="bilinear", antialias=True, align_corners=False)
    return white_noise(content.shape, seed)


def save_trace(path: Path, reports: Sequence[StepReport]) -> None:
    """Writes the objective of every iteration, atomically, as CSV or (suffix .json) as a list of objects.

    Raises:
        CannotWriteError: an unwritable place or a full disk.
    """
    rows = [{name: getattr(report, name) for name in TRACE_FIELDS} for report in reports]
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".json":
            json.dump(rows, file, indent=1)
            file.write("\n")
        else:
            writer = csv.DictWriter(file, TRACE_FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``nst-train gatys``."""
    add_options(parser, GatysConfig)


def run(arguments: argparse.Namespace) -> int:
    """``nst-train gatys``: shows progress on stderr and names the written picture on stdout.

    Raises:
        UserError: everything that ``stylize`` raises, and places that cannot be written to.
    """
    config = from_namespace(GatysConfig, arguments)
    for path in filter(None, (config.out, config.trace)):
        check_folder(path)
    reports: list[StepReport] = []
    with Progress(config.descent.iterations, "iterations") as progress:
        for report in stylize(config):
            # A picture per iteration would fill the memory; the trace needs only the numbers.
            reports.append(report._replace(image=report.image.new_empty(0)))
            if report.iteration:
                progress.advance(1, _note(report))
            last = report.iteration == config.descent.iterations
            if last or (config.every and report.iteration % config.every == 0):
                _save(config, report, reports, last=last)
    sys.stdout.write(f"{config.out}\n")
    return 0


def _save(config: GatysConfig, report: StepReport, reports: Sequence[StepReport], *, last: bool) -> None:
    image = to_image(report.image)
    if config.every and report.iteration % config.every == 0:
        digits = len(str(config.descent.iterations))
        name = f"{config.out.stem}_{report.iteration:0{digits}d}{config.out.suffix}"
        save_picture(config.out.with_name(name), image)
    if last:
        save_picture(config.out, image)
    if config.trace is not None:
        save_trace(config.trace, reports)


def _note(report: StepReport) -> str:
    terms: dict[str, Any] = {name: getattr(report, name) for name in ("total", "content", "style")}
    return ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
