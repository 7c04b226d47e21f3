"""How many iterations of the slow optimisation a trained net's single pass equals (Johnson et al. 2016, section 4.1).

For every held-out photograph the objective of the net's output is placed on the trace of L-BFGS, which starts from the
photograph and minimises the very objective that the net was trained on: same layers, weights, painting and VGG; strong
Wolfe line search, pixels clamped to 0..255 in every iteration. An iteration is one L-BFGS iteration: one search
direction with its line search, mostly a single evaluation of the objective. The figure is the first iteration whose
objective is no higher than the net's; the optimisation stops there, or at ``--iterations``, and then the figure is a
lower bound and marked as one. A style's ``lbfgs_iterations`` is the median over its photographs.

    python benchmarks/quality.py --ckpt la_muse.pth wave.pth --style la_muse.jpg wave.jpg --photos photographs/

Photographs that are finished are kept in the results file after each one, so an interrupted run continues where it was.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UsageError
from nst_common.progress import Progress
from nst_train.checkpoints import Checkpoint, file_sha256, load_checkpoint
from nst_train.config import TrainConfig
from nst_train.data import find_pictures, load_style
from nst_train.distributed import join_processes
from nst_train.errors import StyleUnreadableError
from nst_train.objective import ObjectiveConfig, ObjectiveValue, PerceptualObjective
from nst_train.pictures import load_picture, save_picture, to_image
from nst_train.pixel_descent import DescentConfig, StepReport, descend

RESULTS = Path(__file__).parent / "results" / "quality.json"
TERMS = ObjectiveValue._fields


@dataclass(frozen=True)
class Contest:
    """One net against L-BFGS: everything that the result depends on."""

    checkpoint: Checkpoint
    style: Path
    style_size: tuple[int, ...]
    objective: ObjectiveConfig
    vgg_weights: Path | None
    size: int
    descent: DescentConfig

    def settings(self) -> dict[str, Any]:
        """For the results file: entries with other settings are measured anew."""
        return {
            "checkpoint_sha256": self.checkpoint.sha256,
            "style": self.style.name,
            "style_sha256": file_sha256(self.style),
            "style_size": list(self.style_size),
            "vgg_sha256": file_sha256(self.vgg_weights) if self.vgg_weights else None,
            "objective": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self.objective).items()
            },
            "size": self.size,
            "history": self.descent.history,
            "max_iterations": self.descent.iterations,
        }


def contest_from(ckpt: Path, style: Path, arguments: argparse.Namespace) -> Contest:
    """The net of ``ckpt`` against L-BFGS with the painting ``style``.

    The objective and the painting's sizes come from the checkpoint's record, or are training's defaults.

    Raises:
        UserError: the checkpoint cannot be read, or the painting is not the one that it was trained on.
    """
    checkpoint = load_checkpoint(ckpt)
    refuse_another_painting(checkpoint, style)
    record: Mapping[str, Any] = checkpoint.record.get("config", {})
    objective: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.get("objective", {}).items()
    }
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return Contest(
        checkpoint=checkpoint,
        style=style,
        style_size=tuple(record.get("style_size", defaults["style_size"])),
        objective=ObjectiveConfig(**objective),
        vgg_weights=arguments.vgg_weights,
        size=arguments.size,
        descent=DescentConfig(iterations=arguments.iterations),
    )


def refuse_another_painting(checkpoint: Checkpoint, style: Path) -> None:
    """Against another painting than its own a net would lose a contest that it never trained for.

    Raises:
        StyleUnreadableError: no such file, or a folder.
        UsageError: the checkpoint's record names another file's SHA-256; a record without one is believed.
    """
    if not style.is_file():
        raise StyleUnreadableError(style, "it is a folder" if style.is_dir() else "no such file")
    trained_on = checkpoint.record.get("inputs", {}).get("style")
    if trained_on and file_sha256(style) != trained_on:
        name = checkpoint.record.get("config", {}).get("style", "another file")
        raise UsageError(
            f"{style} is not the painting that {checkpoint.style} was trained on: that was {name} with the SHA-256 "
            f"{trained_on[:12]}…",
            "Give that very file with --style",
        )


def held_out(given: Sequence[Path], checkpoint: Checkpoint) -> list[Path]:
    """The files given; of a folder those that the net's recipe kept out of its training.

    Raises:
        UsageError: a folder holds none of those, so that nothing says what the net has not seen.
    """
    excluded = set(checkpoint.record.get("config", {}).get("exclude", ()))
    found: list[Path] = [path for path in given if not path.is_dir()]
    for folder in (path for path in given if path.is_dir()):
        kept = [path for path in find_pictures([folder]) if path.name in excluded]
        if not kept:
            raise UsageError(
                f"{folder} has none of the {len(excluded)} photographs that the net's training excluded",
                "Name the files one by one with --photos",
            )
        found += kept
    return found


def square_photograph(path: Path, size: int) -> Tensor:
    """The middle of a photograph: float32 ``[1, 3, size, size]``, RGB, 0..255."""
    whole = to_image(load_picture(path, "--photos"))
    levels = torch.frombuffer(
        bytearray(ImageOps.fit(whole, (size, size), Image.Resampling.LANCZOS).tobytes()), dtype=torch.uint8
    )
    return levels.view(size, size, 3).permute(2, 0, 1)[None].float()


def measure(contest: Contest, photograph: Path, objective: PerceptualObjective, device: torch.device) -> dict[str, Any]:
    """The net's objective, and the trace of L-BFGS until it is no higher."""
    content = square_photograph(photograph, contest.size).to(device)
    targets = objective.targets(content)
    with torch.no_grad():
        styled = contest.checkpoint.build().to(device)(content)
        net = dict(zip(TERMS, (float(term) for term in _terms(objective, styled, targets)), strict=True))
    trace: list[StepReport] = []
    with Progress(contest.descent.iterations, "iterations") as progress:
        for report in descend(content, lambda pixels: objective(pixels, targets), contest.descent):
            trace.append(report._replace(image=content.new_empty(0)))
            if report.iteration:
                progress.advance(1, f"{photograph.name}: {report.total:.4g}, the net {net['total']:.4g}")
            if report.total <= net["total"]:
                break
    last = trace[-1]
    return {
        "lbfgs_iterations": last.iteration,
        "reached": last.total <= net["total"],
        "evaluations": last.evaluations,
        "net": net,
        "lbfgs": {term: getattr(last, term) for term in TERMS},
        "trace": [round(report.total, 6) for report in trace],
    }


def _terms(objective: PerceptualObjective, picture: Tensor, targets: Mapping[str, Tensor]) -> Sequence[Tensor]:
    value: Sequence[Tensor] = objective(picture, targets)
    return value


def summarize(entry: dict[str, Any]) -> dict[str, Any]:
    """The style's medians, in front of its photographs."""
    photos: list[dict[str, Any]] = list(entry["photos"].values())
    median = statistics.median(photo["lbfgs_iterations"] for photo in photos)
    return {
        "lbfgs_iterations": median,
        "is_lower_bound": any(not photo["reached"] and photo["lbfgs_iterations"] <= median for photo in photos),
        "photographs": len(photos),
        **{term: statistics.median(photo["net"][term] for photo in photos) for term in TERMS},
        "content_picture_total": statistics.median(photo["trace"][0] for photo in photos),
        "settings": entry["settings"],
        "photos": entry["photos"],
    }


def run_contest(contest: Contest, photographs: Sequence[Path], out: Path) -> dict[str, Any]:
    """Measures what the results file does not hold yet, and writes it after every photograph."""
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    name, settings = contest.checkpoint.style, contest.settings()
    entry: dict[str, Any] = results.get(name, {})
    known = entry["photos"] if entry.get("settings") == settings else {}
    names = [photograph.name for photograph in photographs]
    entry = {"settings": settings, "photos": {photo: known[photo] for photo in names if photo in known}}
    with _whole_float32(), join_processes() as process:
        styles = load_style(contest.style, contest.style_size)
        objective = PerceptualObjective(contest.objective, styles, vgg_weights=contest.vgg_weights).to(process.device)
        objective.to(memory_format=torch.channels_last)
        for photograph in photographs:
            if photograph.name not in entry["photos"]:
                entry["photos"][photograph.name] = measure(contest, photograph, objective, process.device)
            entry = results[name] = summarize(entry)
            save_results(out, results)
    return entry


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Convolutions on a GPU without TF32's 10 bits: the figure is where two objectives of nearly equal size cross."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def save_results(out: Path, results: Mapping[str, Any]) -> None:
    """The results file, and beside it each style's plot."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as partial:
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, entry in results.items():
        save_picture(out.with_name(f"{out.stem}_{name}.png"), draw_plot(name, entry))


# --- the plot --------------------------------------------------------------------------------------------------------

PLOT = (960, 540)  # px
FRAME = (90, 70, 930, 470)  # px; left, top, right, bottom
RATIOS = (0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50)
INK, PALE, CURVE, MARK = (20, 20, 20), (215, 215, 215), (120, 150, 200), (200, 60, 40)


def draw_plot(name: str, entry: Mapping[str, Any]) -> Image.Image:
    """Each photograph's L-BFGS trace in units of the net's objective; a mark where it comes down to 1."""
    traces = {
        photo: [total / values["net"]["total"] for total in values["trace"]]
        for photo, values in entry["photos"].items()
    }
    longest = max(len(trace) - 1 for trace in traces.values()) or 1
    highest = math.log(max(max(trace) for trace in traces.values()))
    lowest = math.log(min(0.9, *(min(trace) for trace in traces.values())))
    plot = Image.new("RGB", PLOT, (255, 255, 255))
    draw = ImageDraw.Draw(plot)
    left, top, right, bottom = FRAME

    def place(iteration: float, ratio: float) -> tuple[float, float]:
        across = left + (right - left) * iteration / longest
        return across, bottom - (bottom - top) * (math.log(ratio) - lowest) / (highest - lowest)

    font, small = ImageFont.load_default(18), ImageFont.load_default(14)
    more = "at least " if entry["is_lower_bound"] else ""
    title = f"{name}: one pass equals {more}{entry['lbfgs_iterations']:g} L-BFGS iterations (median)"
    draw.text((left, 20), title, INK, font)
    for iteration in range(0, longest + 1, math.ceil(longest / 8)):
        x, _ = place(iteration, 1)
        draw.line((x, top, x, bottom), PALE)
        draw.text((x, bottom + 8), f"{iteration}", INK, small, anchor="ma")
    for ratio in (ratio for ratio in RATIOS if lowest <= math.log(ratio) <= highest):
        _, y = place(0, ratio)
        draw.line((left, y, right, y), MARK if ratio == 1 else PALE, 2 if ratio == 1 else 1)
        draw.text((left - 8, y), f"{ratio:g}", INK, small, anchor="rm")
    for trace in traces.values():
        draw.line([place(i, ratio) for i, ratio in enumerate(trace)], CURVE, 2)
        x, y = place(len(trace) - 1, trace[-1])
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), MARK)
    draw.text((left, PLOT[1] - 36), "L-BFGS iterations from the photograph", INK, small)
    draw.text((left, 46), "objective, in units of the feed-forward net's", INK, small)
    return plot


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run_command("quality.py", _run, argv)


def _run(argv: Sequence[str]) -> int:
    parser = ArgumentParser(prog="quality.py", description="How many L-BFGS iterations one pass of a net equals.")
    parser.add_argument("--ckpt", type=Path, nargs="+", required=True, metavar="FILE", help="trained nets")
    parser.add_argument("--style", type=Path, nargs="+", required=True, metavar="FILE", help="the painting of each")
    parser.add_argument(
        "--photos",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="photographs never trained on: files, or folders that hold those of the recipe's exclude",
    )
    parser.add_argument("--vgg-weights", type=Path, metavar="FILE", help="instead of torchvision's download")
    parser.add_argument("--iterations", type=int, default=300, metavar="N", help="give up after (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=256, metavar="PX", help="side of the squares (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE.json", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    if len(arguments.ckpt) != len(arguments.style):
        problem = f"{len(arguments.ckpt)} nets and {len(arguments.style)} paintings given"
        raise UsageError(problem, "Give --style one painting for each net, in the same order")
    pairs = zip(arguments.ckpt, arguments.style, strict=True)
    contests = [contest_from(ckpt, style, arguments) for ckpt, style in pairs]
    photographs = [held_out(arguments.photos, contest.checkpoint) for contest in contests]
    for contest, photos in zip(contests, photographs, strict=True):
        entry = run_contest(contest, photos, arguments.out)
        iterations = f"{entry['lbfgs_iterations']:g} L-BFGS iterations"
        print(f"{contest.checkpoint.style}: {iterations}, median of {entry['photographs']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
