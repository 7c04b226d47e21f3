"""One net on an NVIDIA GPU with everything that people run such nets with: parity, ms per picture, how near the floor.

    python benchmarks/gpu.py --ckpt engines/la_muse.pth [--sizes 512x512,680x1024,1080x1920,2160x3840] [--runs 100]

Rows: PyTorch eager in FP32 and FP16 (cudnn.benchmark, channels_last) and torch.compile's max-autotune; ONNX Runtime's
CUDA provider, TensorRT and TensorRT-RTX, each with ``naive``, what torch.onnx.export makes of the very same
uint8-to-uint8 net, and with ``nst``, what nst-export makes of it, with and without a CUDA graph. Every row is a process
of its own, warmed up, timed by CUDA events; what is not installed or does not run says why and stops no other.

``ms`` is the median for one picture from device memory to device memory, ``p95`` what 95 % stay below, ``call`` how
long the processor is held, ``copies`` the time with both copies through the host. ``best`` is the least time for one
picture of several at once. ``floor`` is how many times longer a row takes than the convolutions of nst's graph would at
the speed of this GPU's memory and of its largest FP16 products, measured in the same run (see graph_cost.py). PSNR is
against PyTorch eager in FP32. ONNX Runtime's captured graph takes its pictures from the host, and both copies count.

Writes benchmarks/results/gpu.json, also after an interruption, with what was measured until then.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_lanes
import machine
import numpy as np
from gpu_lanes import LANES, GpuLane, Task, measure_apart
from PIL import Image

from nst_common.atomic_file import atomic_write
from nst_deploy.bench.measure import compare
from nst_deploy.runtime.gpu_probe import why_no_gpu

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
PHOTO = ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"
DEFAULT_SIZES = ((512, 512), (680, 1024), (1080, 1920), (2160, 3840))
BATCHES = (1, 2, 4, 8)
REFERENCE = LANES[0]
Row = dict[str, Any]
Rows = dict[str, Row]  # by the lane's name
Measure = Callable[[Task], Row]

# What the rows are worth, as ratios of ``ms`` in one run: name, divided, by.
RATIOS = (
    ("nst over eager fp32", "eager pytorch fp32", "{engine} nst fp16 cuda-graph"),
    ("nst over torch.compile", "compile pytorch fp16", "{engine} nst fp16 cuda-graph"),
    ("nst over naive", "{engine} naive fp16", "{engine} nst fp16"),
)


def main() -> None:
    arguments = _arguments()
    reason = why_no_gpu()
    if reason is not None:
        sys.exit(f"benchmarks/gpu.py: error: it needs an NVIDIA GPU: {reason}")
    from gpu_models import save_graphs, save_plans

    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": describe(), "sizes": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        folder = Path(work)
        costs = save_graphs(arguments.ckpt, folder, arguments.sizes)
        save_plans(folder, BATCHES[-1])
        result["peaks"] = gpu_lanes.run_apart(gpu_lanes.peaks)  # the memory it takes is free again afterwards
        if "not_run" in result["peaks"]:
            sys.exit(f"benchmarks/gpu.py: error: the GPU could not be measured: {result['peaks']['not_run']}")
        result["tf32"] = tf32_state()
        try:
            for size in arguments.sizes:
                rows = measure_size(size, folder, gpu_lanes.only(LANES, arguments.only), arguments.runs)
                floor = floor_ms(costs[size], result["peaks"])
                add_ratios(rows, floor)
                result["sizes"]["{}x{}".format(*size)] = {"floor_ms": floor, "ratios": ratios(rows), "rows": rows}
                print("\n".join(table(size, rows)))
        finally:
            write(arguments.json, result)


def measure_size(
    size: tuple[int, int],
    folder: Path,
    lanes: Sequence[GpuLane],
    runs: int,
    *,
    batches: tuple[int, ...] = BATCHES,
    device: str = "cuda",
    measure: Measure = measure_apart,
) -> Rows:
    """Every lane at one size, the reference first."""
    height, width = size
    image = np.asarray(Image.open(PHOTO).convert("RGB").resize((width, height)))[None]
    np.save(folder / "image.npy", image)
    rows: Rows = {}
    reference: np.ndarray | None = None
    for number, lane in enumerate(dict.fromkeys((REFERENCE, *lanes))):
        styled = folder / f"styled{number}.npy"
        styled.unlink(missing_ok=True)
        task = Task(lane, str(folder), str(folder / "image.npy"), str(styled), size, batches, runs, device)
        row = rows[lane.name] = measure(task)
        if "not_run" in row:
            continue
        pixels = np.load(styled)
        reference = pixels if lane == REFERENCE else reference
        if reference is not None:
            parity = compare(reference, pixels, lane.name)
            row |= {"psnr_db": parity.psnr_db, "max_levels": parity.max_levels, "identical": parity.identical}
    return rows


def floor_ms(costs: Sequence[Any], peaks: dict[str, float]) -> float:
    """See the module's text."""
    from graph_cost import floor_seconds

    return 1e3 * floor_seconds(list(costs), peaks["fp16_operations_per_second"], peaks["bytes_per_second"])


def add_ratios(rows: Rows, floor: float) -> None:
    first = rows[REFERENCE.name].get("ms")
    for row in rows.values():
        if "ms" in row:
            row["over_floor"] = row["ms"] / floor
            row["speedup"] = first / row["ms"] if first else None
            row["p95_over_median"] = row["p95_ms"] / row["ms"]


def ratios(rows: Rows) -> dict[str, float]:
    """Those of RATIOS whose both rows ran."""
    found = {}
    for engine in ("onnxruntime", "tensorrt", "rtx"):
        for name, above, below in RATIOS:
            slow, fast = (rows.get(row.format(engine=engine), {}).get("ms") for row in (above, below))
            if slow and fast:
                found[f"{engine}: {name}"] = slow / fast
    return found


def table(size: tuple[int, int], rows: Rows) -> list[str]:
    """Lines for a terminal."""
    title = f"{size[1]}x{size[0]}"
    heads = ("ms", "p95", "call", "copies", "best", "speedup", "floor", "PSNR", "MiB")
    lines = [f"{title:32}" + "".join(f"{head:>9}" for head in heads)]
    for name, row in rows.items():
        if "not_run" in row:
            lines.append(f"{name:32} not run: {row['not_run']}")
            continue
        psnr = row.get("psnr_db")
        numbers = [row[key] for key in ("ms", "p95_ms", "call_ms", "with_copies_ms", "best_ms")]
        cells = [f"{number:.3f}" for number in numbers]
        cells += ["" if row["speedup"] is None else f"{row['speedup']:.2f}", f"{row['over_floor']:.2f}"]
        cells += ["equal" if psnr is None and row.get("max_levels") == 0 else "" if psnr is None else f"{psnr:.1f}"]
        cells += [f"{row['device_bytes'] / 2**20:.0f}"]
        lines.append(f"{name:32}" + "".join(f"{cell:>9}" for cell in cells))
    return lines


def tf32_state() -> dict[str, bool]:
    """Whether PyTorch rounds float32 to TF32, as it does by default in convolutions."""
    import torch

    return {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}


def describe() -> dict[str, Any]:
    """The machine and its GPU, as nvidia-smi calls it."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        shown = f"nvidia-smi: {error}"
    return {**machine.describe(), "gpus": shown.splitlines()}


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--sizes", type=_sizes, default=DEFAULT_SIZES, metavar="HxW,…")
    parser.add_argument("--runs", type=int, default=100, help="timed ones of each row (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD", help="only rows whose name holds one of these")
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE", help="where the figures go")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for the models (default: the system's)")
    return parser.parse_args()


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(h), int(w)) for h, w in (size.split("x") for size in text.split(",")))


if __name__ == "__main__":
    main()
