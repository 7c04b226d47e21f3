"""One net on everything that people run such nets with, beside the graph that nst-export makes of it.

    python benchmarks/export.py --ckpt engines/la_muse.pth [--sizes 512x512,2160x3840] [--runs 7] [--seconds 240]
    python benchmarks/export.py --ckpt engines/la_muse.pth --rewrites [--sizes 512x512]

Rows: PyTorch eager, torch.compile and bf16 autocast (channels_last); ``naive``, what torch.onnx.export makes of the
very same uint8-to-uint8 net, and ``nst``, what nst-export makes of it, both on ONNX Runtime and on OpenVINO (f32,
bf16); nst's INT8 engine; and the ``half`` preset (``--half-ckpt``). Every row is a process of its own; they take turns
on the same photograph; medians are reported. From LARGE pixels on only nst's rows of the whole net run: all of them
would not fit into memory at once, nor into an hour. ``floor`` is how many times longer a row takes than its arithmetic
alone would at the speed of the largest matrix products on this machine, measured in the same run; INT8 rows have none.
PSNR is against PyTorch eager with the same weights.

``--rewrites`` times the graph with all rewrites of nst_deploy/export/fold.py, with each alone, and with all but one.
``--cpu-time`` counts processor time instead of wall time: with ``--threads 1`` a busy machine hardly disturbs it.

Writes benchmarks/results/export.json, or export_rewrites.json, or ``--out``, after each size; export_plot.py draws the
first.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from lanes import Clock, Lane, LaneProcess, Pixels
from PIL import Image

from nst_common.atomic_file import atomic_write

# Every lane's process imports this file: torch, which only some need, would count as memory of all of them.
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PHOTO = ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"
Size = tuple[int, int]  # H, W in px
DEFAULT_SIZES: tuple[Size, ...] = ((256, 256), (512, 512), (680, 1024), (1080, 1920), (2160, 3840))
REWRITE_SIZES: tuple[Size, ...] = ((512, 512),)
LARGE = 4_000_000  # px
MIN_ROUNDS = 3  # a median of fewer is none
EAGER = {False: Lane("eager", "f32", "pytorch.pt"), True: Lane("eager", "f32", "pytorch half.pt")}  # by is_half
MACS_PER_PIXEL = 133_000  # of the base net after the rewrites
HALF_MACS_PER_PIXEL = 37_800
SHOWN = (("over_floor", 2), ("psnr_db", 1))  # what may be missing, with its digits
Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    threads = arguments.threads
    target = arguments.out or RESULTS / ("export_rewrites.json" if arguments.rewrites else "export.json")
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        groups = _save(arguments, folder)
        sizes: dict[str, dict[str, Row]] = {}
        result = {
            "command": " ".join(["python", *sys.argv]),
            "machine": machine.describe(),
            "threads": threads,
            "clock": "processor time" if arguments.cpu_time else "wall time",
            "matrix_peak": machine.matrix_peak(threads, clock),
            "sizes": sizes,
        }
        turns = Turns(folder, threads, clock, arguments.runs, arguments.seconds)
        for size in arguments.sizes or (REWRITE_SIZES if arguments.rewrites else DEFAULT_SIZES):
            sizes["{}x{}".format(*size)] = _measure_size(size, _fitting(groups, size), turns, result["matrix_peak"])
            _write(target, result)
    print(f"matrix peak: {result['matrix_peak']}")


def _save(arguments: argparse.Namespace, folder: Path) -> list[list[Lane]]:
    """Writes the models; returns the groups of lanes that take turns."""
    from export_models import save_models, save_rewrites

    if arguments.rewrites:
        groups = save_rewrites(arguments.ckpt, folder)
    else:
        groups = save_models(arguments.ckpt, arguments.half_ckpt, folder)
    only = arguments.only or [""]
    return [[lane for lane in group if any(word in lane.name for word in only)] for group in groups]


def _fitting(groups: Sequence[Sequence[Lane]], size: Size) -> list[list[Lane]]:
    """The lanes that run at this size; no empty group."""
    large = size[0] * size[1] >= LARGE
    fitting = [[lane for lane in group if not large or _is_ours(lane)] for group in groups]
    return [group for group in fitting if group]


def _is_ours(lane: Lane) -> bool:
    return lane.name.startswith("nst ") and not is_half(lane.name)


def is_half(name: str) -> bool:
    """Whether a row is of the net of half the width."""
    return "half" in name


@dataclass(frozen=True)
class Turns:
    """How lanes take turns.

    Attributes:
        folder: of the models.
        runs: of each lane at most.
        seconds: after which no further round begins, once there were MIN_ROUNDS.
    """

    folder: Path
    threads: int
    clock: Clock
    runs: int
    seconds: float

    def open(self, lane: Lane) -> LaneProcess:
        return LaneProcess(lane, self.folder, self.threads, self.clock)

    def measure(self, lanes: Sequence[Lane], image: Pixels, references: dict[bool, Pixels]) -> dict[str, Row]:
        """Opens all lanes, lets them take turns, closes them.

        Args:
            references: what PSNR is against, by ``is_half``.
        """
        rows: dict[str, Row] = {}
        samples: dict[str, list[float]] = {lane.name: [] for lane in lanes}
        with ExitStack() as stack:
            processes = [stack.enter_context(self.open(lane)) for lane in lanes]
            for process in processes:
                styled, mib = process.prepare(image)
                name = process.lane.name
                rows[name] = {"peak_mib": mib, "psnr_db": _psnr(references[is_half(name)], styled)}
            began, rounds = time.perf_counter(), 0
            while rounds < self.runs and (rounds < MIN_ROUNDS or time.perf_counter() - began < self.seconds):
                for process in processes:
                    samples[process.lane.name].append(process.seconds())
                rounds += 1
        for lane in lanes:
            rows[lane.name] |= {
                "seconds": statistics.median(samples[lane.name]),
                "fastest_seconds": min(samples[lane.name]),
                "runs": rounds,
                "precision": lane.precision,
            }
        return rows


def _measure_size(size: Size, groups: Sequence[Sequence[Lane]], turns: Turns, peak: Any) -> dict[str, Row]:
    """Every row at one size; one group after the other."""
    height, width = size
    image = np.asarray(Image.open(PHOTO).convert("RGB").resize((width, height)))[None].copy()
    halves = {is_half(lane.name) for group in groups for lane in group}
    references: dict[bool, Pixels] = {}
    for half in halves:
        with turns.open(EAGER[half]) as eager:
            references[half], _ = eager.prepare(image)
    rows: dict[str, Row] = {}
    for lanes in groups:
        group = turns.measure(lanes, image, references)
        _add_ratios(group, height * width, peak)
        _show(f"{width}x{height}", group)
        rows |= group
    return rows


def _add_ratios(rows: dict[str, Row], pixels: int, peak: dict[str, dict[str, float]]) -> None:
    first = next(iter(rows.values()))["seconds"]
    for name, row in rows.items():
        macs = HALF_MACS_PER_PIXEL if is_half(name) else MACS_PER_PIXEL
        floor = 2 * macs * pixels / (peak[row["precision"]]["gflops"] * 1e9)
        # Nothing measures how fast 8-bit products get here, so nothing says how far from that a row is.
        row["over_floor"] = None if "int8" in name else row["seconds"] / floor
        row["speedup"] = first / row["seconds"]


def _show(title: str, rows: dict[str, Row]) -> None:
    first = next(iter(rows))
    print(f"{title:36} {'ms':>8} {'fastest':>8} {'x ' + first.split()[0]:>10} {'floor':>6} {'MiB':>6} {'PSNR':>6}")
    for name, row in rows.items():
        floor, psnr = ("" if row[key] is None else f"{row[key]:.{digits}f}" for key, digits in SHOWN)
        print(
            f"{name:36} {row['seconds'] * 1e3:8.1f} {row['fastest_seconds'] * 1e3:8.1f} "
            f"{row['speedup']:10.2f} {floor:>6} {row['peak_mib']:6.0f} {psnr:>6}"
        )
    sys.stdout.flush()


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")


def _psnr(first: Pixels, second: Pixels) -> float | None:
    """dB; None when equal."""
    error = float(np.square(first.astype(np.float32) - second).mean(dtype=np.float64))
    return None if error == 0 else 10 * float(np.log10(255**2 / error))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument(
        "--half-ckpt",
        type=Path,
        default=ROOT / "engines" / "la_muse_half.pth",
        help="a net of half the width (default: %(default)s)",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        metavar="HxW,…",
        help=f"(default: {_named(DEFAULT_SIZES)}; with --rewrites {_named(REWRITE_SIZES)})",
    )
    parser.add_argument("--runs", type=int, default=7, help="of each row at each size (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=240,
        help=f"at each size, after which no further round begins once there were {MIN_ROUNDS} (default: %(default)g)",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only rows whose name holds one of these")
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--rewrites", action="store_true", help="what each rewrite gives")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser.parse_args()


def _named(sizes: Sequence[Size]) -> str:
    return ",".join("{}x{}".format(*size) for size in sizes)


def _sizes(text: str) -> tuple[Size, ...]:
    return tuple((int(h), int(w)) for h, w in (size.split("x") for size in text.split(",")))


if __name__ == "__main__":
    main()
