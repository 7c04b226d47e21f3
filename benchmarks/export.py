"""One net on everything that people run such nets with, beside the graph that nst-export makes of it.

    python benchmarks/export.py --ckpt engines/la_muse.pth [--sizes 256x256,512x512,680x1024,1080x1920] [--runs 7]
    python benchmarks/export.py --ckpt engines/la_muse.pth --rewrites [--sizes 512x512]

Rows: PyTorch eager, torch.compile and bf16 autocast (channels_last); ``naive``, what torch.onnx.export makes of the
very same uint8-to-uint8 net, and ``nst``, what nst-export makes of it, both on ONNX Runtime and on OpenVINO (f32,
bf16); and the ``half`` preset with random weights, which change no time. Every row is a process of its own; they take
turns on the same photograph; medians are reported. ``floor`` is how many times longer a row takes than its arithmetic
alone would at the speed of the largest matrix products on this machine, measured in the same run. PSNR is against
PyTorch eager.

``--rewrites`` times the graph with all rewrites of nst_deploy/export/fold.py, with each alone, and with all but one.
``--cpu-time`` counts processor time instead of wall time: with ``--threads 1`` a busy machine hardly disturbs it.

Writes benchmarks/results/export.json, or export_rewrites.json, or ``--out``; export_plot.py draws the first.
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
from pathlib import Path

import machine
import numpy as np
from lanes import Clock, Lane, LaneProcess, Pixels
from PIL import Image

# Every lane's process imports this file: torch, which only some need, would count as memory of all of them.
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PHOTO = ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"
DEFAULT_SIZES = ((256, 256), (512, 512), (680, 1024), (1080, 1920))
MACS_PER_PIXEL = 133_000  # of the base net after the rewrites
HALF_MACS_PER_PIXEL = 37_800
Row = dict[str, float | str | None]


def main() -> None:
    arguments = _arguments()
    threads = arguments.threads
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        groups = _save(arguments, folder)
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        peak = machine.matrix_peak(threads, clock)
        sizes = {}
        for height, width in arguments.sizes:
            rows: dict[str, Row] = {}
            image = np.asarray(Image.open(PHOTO).convert("RGB").resize((width, height)))[None].copy()
            with LaneProcess(groups[0][0], folder, threads, clock) as first:
                reference, _ = first.prepare(image)
            for lanes in groups:
                group = _measure(lanes, folder, image, reference, threads=threads, clock=clock, runs=arguments.runs)
                _add_ratios(group, height * width, peak)
                _show(f"{width}x{height}", group)
                rows |= group
            sizes[f"{height}x{width}"] = rows
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine.describe(),
        "threads": threads,
        "runs": arguments.runs,
        "clock": "processor time" if arguments.cpu_time else "wall time",
        "matrix_peak": peak,
        "sizes": sizes,
    }
    target = arguments.out or RESULTS / ("export_rewrites.json" if arguments.rewrites else "export.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(f"matrix peak: {peak}")


def _save(arguments: argparse.Namespace, folder: Path) -> list[list[Lane]]:
    """Writes the models; returns the groups of lanes that take turns."""
    from export_models import save_models, save_rewrites

    groups = (save_rewrites if arguments.rewrites else save_models)(arguments.ckpt, folder)
    only = arguments.only or [""]
    return [[lane for lane in group if any(word in lane.name for word in only)] for group in groups]


def _measure(
    lanes: Sequence[Lane], folder: Path, image: Pixels, reference: Pixels, *, threads: int, clock: Clock, runs: int
) -> dict[str, Row]:
    """Opens all lanes, lets them take turns, closes them."""
    rows: dict[str, Row] = {}
    samples: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    with ExitStack() as stack:
        processes = [stack.enter_context(LaneProcess(lane, folder, threads, clock)) for lane in lanes]
        for process in processes:
            styled, mib = process.prepare(image)
            own_weights = "half" not in process.lane.name
            rows[process.lane.name] = {"peak_mib": mib, "psnr_db": _psnr(reference, styled) if own_weights else None}
        for _ in range(runs):
            for process in processes:
                samples[process.lane.name].append(process.seconds())
    for lane in lanes:
        rows[lane.name] |= {
            "seconds": statistics.median(samples[lane.name]),
            "fastest_seconds": min(samples[lane.name]),
            "precision": lane.precision,
        }
    return rows


def _add_ratios(rows: dict[str, Row], pixels: int, peak: dict[str, dict[str, float | str | int]]) -> None:
    first = next(iter(rows.values()))["seconds"]
    for name, row in rows.items():
        macs = HALF_MACS_PER_PIXEL if "half" in name else MACS_PER_PIXEL
        floor = 2 * macs * pixels / (float(peak[str(row["precision"])]["gflops"]) * 1e9)
        row["over_floor"] = float(row["seconds"]) / floor  # type: ignore[arg-type]
        row["speedup"] = float(first) / float(row["seconds"])  # type: ignore[arg-type]


def _show(title: str, rows: dict[str, Row]) -> None:
    first = next(iter(rows))
    print(f"{title:36} {'ms':>8} {'fastest':>8} {'x ' + first.split()[0]:>10} {'floor':>6} {'MiB':>6} {'PSNR':>6}")
    for name, row in rows.items():
        psnr = "" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        print(
            f"{name:36} {float(row['seconds']) * 1e3:8.1f} {float(row['fastest_seconds']) * 1e3:8.1f} "  # type: ignore[arg-type]
            f"{row['speedup']:10.2f} {row['over_floor']:6.2f} {row['peak_mib']:6.0f} {psnr:>6}"
        )


def _psnr(first: Pixels, second: Pixels) -> float | None:
    """dB; None when equal."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return None if error == 0 else 10 * float(np.log10(255**2 / error))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--sizes", type=_sizes, default=DEFAULT_SIZES, metavar="HxW,…")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only rows whose name holds one of these")
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--rewrites", action="store_true", help="what each rewrite gives")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser.parse_args()


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(h), int(w)) for h, w in (size.split("x") for size in text.split(",")))


if __name__ == "__main__":
    main()
