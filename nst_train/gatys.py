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

from nst_common.atomic_file import CannotWriteError, atomic_write
from nst_common.errors import UserError
from nst_common.outputs import refuse_losses
from nst_common.progress import Progress
from nst_train.config import Device
from nst_train.data import load_style
from nst_train.distributed import join_processes
from nst_train.errors import ConfigError
from nst_train.objective import ObjectiveConfig, ObjectiveValue, PerceptualObjective
from nst_train.options import LARGEST_SEED, add_options, check_ranges, from_namespace, option
from nst_train.pictures import check_folder, check_suffix, load_picture, save_picture, to_image
from nst_train.pixel_descent import DescentConfig, StepReport, descend, explain_out_of_memory, white_noise

Start = Literal["content", "style", "noise"]

TRACE_FIELDS = ("iteration", "evaluations", *ObjectiveValue._fields)
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
    seed: int = option("of the noise", 0, at_least=0, at_most=LARGEST_SEED)
    vgg_weights: Path | None = option(
        "VGG state dict (.pth or .safetensors) instead of torchvision's download", None, metavar="FILE"
    )
    device: Device = option("auto takes the GPU where there is one", "auto")
    overwrite: bool = option("replace files that exist", False)
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


def save_trace(path: Path, reports: Sequence[StepReport], *, overwrite: bool = True) -> None:
    """Writes the objective of every iteration, atomically, as CSV or (suffix .json) as a list of objects.

    Args:
        overwrite: without it a file at ``path`` is an error, also one that appeared a moment ago.

    Raises:
        CannotWriteError: an unwritable place, a full disk, or a file that must not be replaced.
    """
    rows = [{name: getattr(report, name) for name in TRACE_FIELDS} for report in reports]
    with atomic_write(path, overwrite=overwrite) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".json":
            json.dump(rows, file, indent=1)
            file.write("\n")
        else:
            writer = csv.DictWriter(file, TRACE_FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class _Files:
    """What one stylisation leaves on the disk: the picture, those on the way to it, the trace."""

    def __init__(self, config: GatysConfig) -> None:
        self._config = config
        self._reports: list[StepReport] = []  # without pictures: one per iteration would fill the memory
        self._latest: StepReport | None = None
        self._written: set[Path] = set()  # by us, so that we may replace it

    def refuse(self) -> None:
        """Refuses, before the work, places that cannot be written to and files that would be lost."""
        config = self._config
        results = [config.out] if config.trace is None else [config.out, config.trace]
        for path in results:
            check_folder(path)
        refuse_losses(
            [*results, *self._already_on_the_way()],
            inputs=(config.style, config.content, config.vgg_weights),
            overwrite=config.overwrite,
        )

    def _already_on_the_way(self) -> Iterator[Path]:
        """Pictures of iterations that would be replaced; looked for in the folder, as millions may be due."""
        out, every = self._config.out, self._config.every
        for path in sorted(out.parent.iterdir()) if every else ():
            number = path.name.removeprefix(f"{out.stem}_").removesuffix(out.suffix)
            due = number.isdecimal() and int(number) in range(0, self._config.descent.iterations + 1, every)
            if due and path == self._on_the_way(int(number)):
                yield path

    def take(self, report: StepReport) -> None:
        """Writes what is due after this iteration."""
        self._reports.append(report._replace(image=report.image.new_empty(0)))
        self._latest = report
        due = self._config.every and report.iteration % self._config.every == 0
        if due:
            self._save_picture(self._on_the_way(report.iteration), report)
        if report.iteration == self._config.descent.iterations:
            self._save_picture(self._config.out, report)
            self._save_trace()
        elif due:
            self._save_trace()

    def keep(self) -> str:
        """Writes what there is of an optimisation that ends early. Says where; nothing before the first iteration."""
        if self._latest is None or not self._latest.iteration:
            return ""
        self._save_picture(self._config.out, self._latest)
        self._save_trace()
        return f"{self._config.out} is the picture after iteration {self._latest.iteration}"

    def _on_the_way(self, iteration: int) -> Path:
        out, digits = self._config.out, len(str(self._config.descent.iterations))
        return out.with_name(f"{out.stem}_{iteration:0{digits}d}{out.suffix}")

    def _save_picture(self, path: Path, report: StepReport) -> None:
        save_picture(path, to_image(report.image), overwrite=self._may_replace(path))
        self._written.add(path)

    def _save_trace(self) -> None:
        if (path := self._config.trace) is not None:
            save_trace(path, self._reports, overwrite=self._may_replace(path))
            self._written.add(path)

    def _may_replace(self, path: Path) -> bool:
        return self._config.overwrite or path in self._written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``nst-train gatys``."""
    add_options(parser, GatysConfig)


def run(arguments: argparse.Namespace) -> int:
    """``nst-train gatys``: shows progress on stderr and names the written picture on stdout.

    An optimisation that ends early, by a signal or an error, leaves the picture of its last iteration and the trace.

    Raises:
        UserError: everything that ``stylize`` raises, files that would be lost, and places that cannot be written to.
    """
    config = from_namespace(GatysConfig, arguments)
    files = _Files(config)
    files.refuse()
    try:
        with Progress(config.descent.iterations, "iterations") as progress:
            for report in stylize(config):
                if report.iteration:
                    progress.advance(1, _note(report))
                files.take(report)
    except (KeyboardInterrupt, SystemExit):
        if kept := files.keep():
            sys.stderr.write(f"Stopped; {kept}\n")
        raise
    except CannotWriteError:
        raise  # the next attempt would fail like this one
    except UserError as error:
        if kept := files.keep():
            raise UserError(f"{error.problem}; {kept}", error.remedy) from error
        raise
    sys.stdout.write(f"{config.out}\n")
    return 0


def _note(report: StepReport) -> str:
    terms: dict[str, Any] = {name: getattr(report, name) for name in ("total", "content", "style")}
    return ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
