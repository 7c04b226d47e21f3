"""Are INT8 engines worth it? Speed and fidelity of the bundled ones on OpenVINO, and what each convolution costs.

    python benchmarks/int8.py --pictures DIR_OR_IMG... [--styles la_muse ...] [--layers]
    python benchmarks/int8.py --pictures DIR_OR_IMG... [--timed la_muse la_muse_half] [--sizes 512x512,680x1024]

Fidelity is that of the uint8 output against the float32 engine's on ``--pictures``, which no range was calibrated on,
longest side at most 512 px. The lanes of benchmarks/lanes.py take turns for the times: f32, bf16, INT8 with the rest in
f32 (``--precision int8``) and in bf16; weights change no time, so one style of each width will do. ``--cpu-time`` with
``--threads 1`` is hardly disturbed by a busy machine. ``--layers`` also exports engines/STYLE.pth with one convolution
in 8 bits at a time.

Writes benchmarks/results/int8.json; what a run does not measure stays there as it was, as long as the style's weights
are the same.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import machine
import numpy as np
from lanes import Clock, Lane, LaneProcess, Pixels, Run, open_lane
from PIL import Image

from nst_deploy.runtime.backend import read_contract
from nst_deploy.styles import bundled_styles

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "int8.json"
STYLES = ROOT / "nst_deploy" / "styles"
PHOTO = ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"
LONGEST_SIDE = 512  # px of the pictures that fidelity is measured on


def main() -> None:
    arguments = _arguments()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    pictures = _pictures(arguments.pictures)
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"styles": {}}
    about = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine.describe(),
        "threads": arguments.threads,
        "clock": "processor time" if arguments.cpu_time else "wall time",
    }
    for style in arguments.styles:
        sha256 = read_contract(STYLES / f"{style}.onnx").checkpoint_sha256
        row: dict[str, Any] = {
            "checkpoint_sha256": sha256,
            "fidelity": _fidelity(style, pictures, arguments.threads),
        }
        if arguments.layers:
            row["layers_db"] = _layers(style, pictures, arguments.threads)
        if style in arguments.timed:
            sizes = {}
            for height, width in arguments.sizes:
                rows = _times(style, (height, width), threads=arguments.threads, clock=clock, runs=arguments.runs)
                sizes[f"{height}x{width}"] = rows
            row["times"] = about | {"runs": arguments.runs, "sizes": sizes}
        _show(style, row)
        known = result["styles"].get(style, {})
        result["styles"][style] = (known if known.get("checkpoint_sha256") == sha256 else {}) | row
    result |= about | {"pictures": [name for name, _ in pictures]}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def _engines(style: str) -> dict[str, Lane]:
    """Every way to run a style on OpenVINO; the first is what the others are compared with."""
    fp32, int8 = f"{style}.onnx", f"{style}.int8.onnx"
    return {
        "f32": Lane("openvino", "f32", fp32),
        "bf16": Lane("openvino", "bf16", fp32),
        "int8": Lane("openvino", "f32", int8),
        "int8, rest bf16": Lane("openvino", "bf16", int8),
    }


def _fidelity(style: str, pictures: Sequence[tuple[str, Pixels]], threads: int) -> dict[str, dict[str, Any]]:
    (_, exact), *others = ((name, open_lane(lane, STYLES, threads)) for name, lane in _engines(style).items())
    expected = {name: exact(image).copy() for name, image in pictures}
    return {name: _compare(run, expected, pictures) for name, run in others}


def _layers(style: str, pictures: Sequence[tuple[str, Pixels]], threads: int) -> dict[str, float]:
    """PSNR in dB with one convolution in 8 bits, by the name of its weight in the folded net."""
    import onnx

    from nst_deploy.contract import ModelContract
    from nst_deploy.export.deployable import DeployableNet
    from nst_deploy.export.int8 import fold_to_int8
    from nst_deploy.export.onnx_export import to_onnx
    from nst_deploy.export.parity import bundled_photographs
    from nst_deploy.export.quantize import quantize
    from nst_train.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(ROOT / "engines" / f"{style}.pth")
    exact = open_lane(_engines(style)["f32"], STYLES, threads)
    expected = {name: exact(image).copy() for name, image in pictures}
    folded, sites = fold_to_int8(checkpoint.build(), bundled_photographs())
    plain = to_onnx(DeployableNet(folded), ModelContract(style, "int8", checkpoint.sha256, "", 0))
    decibels = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, site in sites.items():
            model = onnx.ModelProto()
            model.CopyFrom(plain)
            quantize(model, {f"net.{name}": site})
            onnx.save_model(model, str(Path(folder) / "layer.onnx"))
            run = open_lane(Lane("openvino", "f32", "layer.onnx"), Path(folder), threads)
            decibels[name] = _compare(run, expected, pictures)["psnr_db"]
    return decibels


def _compare(run: Run, expected: Mapping[str, Pixels], pictures: Sequence[tuple[str, Pixels]]) -> dict[str, Any]:
    """PSNR over all values, the worst picture's, and the largest difference in levels."""
    errors, levels = {}, 0
    for name, image in pictures:
        difference = np.abs(run(image).astype(np.int16) - expected[name])
        errors[name] = float(np.square(difference, dtype=np.float64).mean())
        levels = max(levels, int(difference.max()))
    sizes = [image.size for _, image in pictures]
    worst = max(errors, key=lambda name: errors[name])
    return {
        "psnr_db": _decibels(float(np.average(list(errors.values()), weights=sizes))),
        "worst_psnr_db": _decibels(errors[worst]),
        "worst_picture": worst,
        "max_levels": levels,
    }


def _decibels(squared_error: float) -> float:
    return float(10 * np.log10(255**2 / max(squared_error, 1e-9)))


def _times(style: str, size: tuple[int, int], *, threads: int, clock: Clock, runs: int) -> dict[str, dict[str, float]]:
    height, width = size
    image = np.asarray(Image.open(PHOTO).convert("RGB").resize((width, height)))[None].copy()
    lanes = _engines(style)
    samples: dict[str, list[float]] = {name: [] for name in lanes}
    rows: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(LaneProcess(lane, STYLES, threads, clock)) for name, lane in lanes.items()
        }
        for name, process in processes.items():
            rows[name] = {"peak_mib": process.prepare(image)[1]}
        for _ in range(runs):
            for name, process in processes.items():
                samples[name].append(process.seconds())
    for name, row in rows.items():
        row["seconds"] = statistics.median(samples[name])
        row["fastest_seconds"] = min(samples[name])
    for row in rows.values():
        row["speedup_over_bf16"] = rows["bf16"]["seconds"] / row["seconds"]
        row["speedup_over_f32"] = rows["f32"]["seconds"] / row["seconds"]
    return rows


def _show(style: str, row: Mapping[str, Any]) -> None:
    for name, fidelity in row["fidelity"].items():
        print(
            f"{style:20} {name:16} {fidelity['psnr_db']:5.1f} dB, worst {fidelity['worst_psnr_db']:5.1f} dB "
            f"({fidelity['worst_picture']}), up to {fidelity['max_levels']} levels"
        )
    for name, decibels in row.get("layers_db", {}).items():
        print(f"{style:20} {name:36} {decibels:5.1f} dB")
    for size, rows in row.get("times", {}).get("sizes", {}).items():
        for name, entry in rows.items():
            print(
                f"{style:20} {size:>10} {name:16} {entry['seconds'] * 1e3:7.1f} ms, "
                f"{entry['speedup_over_bf16']:.2f}x bf16, {entry['speedup_over_f32']:.2f}x f32, "
                f"{entry['peak_mib']:.0f} MiB"
            )
    sys.stdout.flush()


def _pictures(paths: Sequence[Path]) -> list[tuple[str, Pixels]]:
    files = [file for path in paths for file in (sorted(path.glob("*.jpg")) if path.is_dir() else [path])]
    pictures = []
    for file in files:
        photo = Image.open(file).convert("RGB")
        photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        pictures.append((file.name, np.asarray(photo)[None].copy()))
    return pictures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, metavar="DIR_OR_IMG")
    parser.add_argument("--styles", nargs="+", default=list(bundled_styles()), choices=list(bundled_styles()))
    parser.add_argument("--sizes", type=_sizes, default=((512, 512), (680, 1024)), metavar="HxW,…")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--layers", action="store_true", help="what each convolution costs")
    parser.add_argument(
        "--timed",
        nargs="*",
        default=["la_muse", "la_muse_half"],
        choices=list(bundled_styles()),
        metavar="STYLE",
        help="whose times are measured too (default: %(default)s)",
    )
    return parser.parse_args()


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(h), int(w)) for h, w in (size.split("x") for size in text.split(",")))


if __name__ == "__main__":
    main()
