"""One net on an NVIDIA GPU with everything that people run such nets with: parity, ms per picture, how near the floor.

    python benchmarks/gpu.py --ckpt engines/la_muse.pth [--sizes 512x512,680x1024,1080x1920,2160x3840] [--runs 100]

Rows: PyTorch eager in FP32 and FP16 (cudnn.benchmark, channels_last) and torch.compile's max-autotune; ONNX Runtime's
CUDA provider, TensorRT and TensorRT-RTX, each with ``naive``, what torch.onnx.export makes of the very same
uint8-to-uint8 net, and with ``nst``, what nst-export makes of it, with and without a CUDA graph; rows with a ``=`` have
an option of the CUDA provider in place of nst's choice (``--skip =`` leaves them out). Every row has a process of its
own, warmed up, timed by CUDA events; what is not installed or does not run says why and stops no other. The rows of a
size take turns in rounds, so that all see the same clocks and temperatures; torch.compile alone, which takes minutes to
get ready, comes when all sizes have been measured, and has its rounds for itself.

``ms`` is the median for one picture from device memory to device memory, ``p95`` what 95 % stay below, ``call`` how
long the processor is held, ``copies`` the time with both copies through the host. ``best`` is the least time for one
picture of several at once, which torch.compile is not asked for. ``floor`` is how many times longer a row takes than
the convolutions of nst's graph would at the speed of this GPU's memory and of its largest FP16 products, measured in
the same run (see graph_cost.py). PSNR is against PyTorch eager in FP32, which rounds to TF32 where PyTorch does so by
default. ONNX Runtime waits for the end of every run, so its ``call`` is all of it.

Writes benchmarks/results/gpu.json, again after every group of rows, so that an interruption loses no more than one.
``--minutes`` ends it in time; ``--prepare DIR``, on any machine, makes the graphs beforehand for ``--models DIR``.
"""

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import gpu_lanes
import machine
import numpy as np
from gpu_lanes import LANES, Bench, GpuLane, Task
from gpu_workers import Answer, Apart, Worker, run_apart
from PIL import Image

from nst_common.atomic_file import atomic_write
from nst_deploy.bench.measure import compare
from nst_deploy.runtime.gpu_probe import why_no_gpu

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
PHOTO = ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"
DEFAULT_SIZES = ((512, 512), (680, 1024), (1080, 1920), (2160, 3840))
BATCHES = (1, 2, 4, 8)
ROUNDS = 5  # turns of each row at one size
PATIENCE = 300.0  # s for one answer of a row
REFERENCE = LANES[0]
TIME_OVER = "the time was over"
Size = tuple[int, int]  # H, W in px
Row = dict[str, Any]
Rows = dict[str, Row]  # by the lane's name

# What the rows are worth, as ratios of ``ms`` in one run: name, divided, by.
RATIOS = (
    ("nst over eager fp32", "eager pytorch fp32", "{engine} nst fp16 cuda-graph"),
    ("nst over torch.compile", "compile pytorch fp16", "{engine} nst fp16 cuda-graph"),
    ("nst over naive", "{engine} naive fp16", "{engine} nst fp16"),
)


def main() -> None:
    arguments = _arguments()
    if arguments.prepare is not None:
        prepare(arguments.ckpt, arguments.prepare, arguments.sizes)
        return
    why_not = why_no_gpu()
    if why_not is not None:
        sys.exit(f"benchmarks/gpu.py: error: it needs an NVIDIA GPU: {why_not}")
    signal.signal(signal.SIGTERM, _stop)
    budget = Budget(60 * arguments.minutes)
    settings = Settings(arguments.runs, arguments.batches, budget, arguments.patience, arguments.compile_patience)
    lanes = gpu_lanes.only(LANES, arguments.only, arguments.skip)
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": describe(), "sizes": {}}
    if arguments.note:
        result["note"] = arguments.note
    with tempfile.TemporaryDirectory(dir=arguments.work) as work, _workers(lanes, arguments.compile_mode) as workers:
        result["peaks"] = run_apart(gpu_lanes.peaks, patience=settings.budget.left(PATIENCE))
        if "not_run" in result["peaks"]:
            sys.exit(f"benchmarks/gpu.py: error: the GPU could not be measured: {result['peaks']['not_run']}")
        folder, costs = models(arguments, Path(work))
        result["machine"] |= versions()
        progress(f"ready after {settings.budget.spent():.0f} s")
        bench = Benchmark(folder, Path(work), workers, settings)
        try:
            for late in (False, True):
                for size in arguments.sizes:
                    bench.measure(size, late=late)
                    report(bench, size, floor_ms(costs[size], result["peaks"]), result)
                    write(arguments.json, result)
        finally:
            write(arguments.json, result)
            progress(f"done after {settings.budget.spent():.0f} s")


class Budget:
    """Time that may be spent, s; none is too much where it is 0."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._started = seconds, time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self._started

    def left(self, most: float) -> float:
        """Of ``most``, what is left, not below 0."""
        return max(0.0, min(most, self._seconds - self.spent())) if self._seconds else most


@dataclasses.dataclass(frozen=True)
class Settings:
    """
    Attributes:
        runs: timed ones of each row and batch.
        batches: pictures at once.
        patience: s for one answer of a row.
        compile_patience: the same for torch.compile, to get ready at one size.
    """

    runs: int = 100
    batches: tuple[int, ...] = BATCHES
    budget: Budget = dataclasses.field(default_factory=lambda: Budget(0))
    patience: float = PATIENCE
    compile_patience: float = 1800.0


class Benchmark:
    """Rows by size, measured group after group.

    Args:
        folder: where the models lie.
        work: for the pictures.
    """

    def __init__(self, folder: Path, work: Path, workers: Mapping[GpuLane, Worker], settings: Settings) -> None:
        self._folder, self._work, self._workers, self._settings = folder, work, workers, settings
        self._references: dict[Size, np.ndarray] = {}
        self.rows: dict[Size, Rows] = {}

    def measure(self, size: Size, *, late: bool) -> None:
        """The rows of one size that are late ones, or those that are not."""
        rows = self.rows.setdefault(size, {})
        ready = [lane for lane in self._workers if lane.late == late and self._prepare(lane, size, rows)]
        samples = self._rounds(ready, rows)
        for lane in ready:
            if samples[lane]["device"]:
                rows[lane.name] |= summary(samples[lane], self._settings.batches[0])
                if not late:
                    self._many(lane, rows[lane.name])
            self._ask(lane, "release")

    def _prepare(self, lane: GpuLane, size: Size, rows: Rows) -> bool:
        """Whether it can be timed now."""
        name, (height, width) = lane.name, size
        image, styled = self._work / f"image.{height}x{width}.npy", self._work / "styled.npy"
        if not image.exists():
            np.save(image, np.asarray(Image.open(PHOTO).convert("RGB").resize((width, height)))[None])
        styled.unlink(missing_ok=True)
        model = self._folder / lane.file(size, 1)
        if (missing := gpu_lanes.why_missing(model)) and not model.exists():
            rows[name] = {"not_run": missing}
            return False
        task = Task(str(self._folder), str(image), str(styled), size, self._settings.batches)
        row = rows[name] = self._ask(lane, "prepare", task)
        if "not_run" in row:
            progress(f"{width}x{height} {name}: not run: {row['not_run']}")
            return False
        progress(f"{width}x{height} {name}: ready in {row['ready_s']:.1f} s")
        pixels = np.load(styled)
        if lane == REFERENCE:
            self._references[size] = pixels
        if size in self._references:
            parity = compare(self._references[size], pixels, name)
            row |= {"psnr_db": parity.psnr_db, "max_levels": parity.max_levels, "identical": parity.identical}
        return True

    def _rounds(self, lanes: Sequence[GpuLane], rows: Rows) -> dict[GpuLane, dict[str, list[float]]]:
        """Samples of rows that take turns; one that fails on the way keeps those that it has, and says why."""
        samples: dict[GpuLane, dict[str, list[float]]] = {
            lane: {"device": [], "called": [], "copied": []} for lane in lanes
        }
        each = max(1, -(-self._settings.runs // ROUNDS))
        running = list(lanes)
        for _ in range(ROUNDS):
            for lane in tuple(running):
                answer = self._ask(lane, "time", each)
                if "not_run" in answer:
                    running.remove(lane)
                    rows[lane.name]["stopped" if samples[lane]["device"] else "not_run"] = answer["not_run"]
                    continue
                for kind, seconds in answer.items():
                    samples[lane][kind] += seconds
        return samples

    def _many(self, lane: GpuLane, row: Row) -> None:
        """The best of several pictures at once, in ms for each."""
        row["batches"] = {str(self._settings.batches[0]): row["ms"]}
        if len(self._settings.batches) > 1:
            answer = self._ask(lane, "many", self._settings.runs)
            found = answer.get("batches", {"beyond": answer.get("not_run")})
            row["batches"] |= {n: 1e3 * s if isinstance(s, float) else s for n, s in found.items()}
        timed = {batch: ms for batch, ms in row["batches"].items() if isinstance(ms, float)}
        row["best_batch"] = int(min(timed, key=lambda batch: timed[batch]))
        row["best_ms"] = timed[str(row["best_batch"])]

    def _ask(self, lane: GpuLane, method: str, *details: object) -> Answer:
        settings = self._settings
        most = settings.compile_patience if lane.late and method == "prepare" else settings.patience
        patience = settings.budget.left(most)
        if patience <= 0:
            return {"not_run": TIME_OVER}
        return self._workers[lane].ask(method, *details, patience=patience)


def summary(samples: Mapping[str, Sequence[float]], count: int) -> Row:
    """Figures in ms for each of ``count`` pictures at once."""
    device, called, copied = (1e3 * np.array(samples[kind]) / count for kind in ("device", "called", "copied"))
    ms = float(np.median(device))
    return {
        "ms": ms,
        "p95_ms": float(np.percentile(device, 95)),
        "call_ms": float(np.median(called)),
        "with_copies_ms": float(np.median(copied)),
        "with_copies_p95_ms": float(np.percentile(copied, 95)),
        "runs": len(device),
        "best_batch": count,
        "best_ms": ms,
    }


def report(bench: Benchmark, size: Size, floor: float, result: dict[str, Any]) -> None:
    """Puts the rows of a size into the result and prints them."""
    rows = bench.rows[size]
    add_ratios(rows, floor)
    result["sizes"]["{}x{}".format(*size)] = {"floor_ms": floor, "ratios": ratios(rows), "rows": rows}
    print("\n".join(table(size, rows)), flush=True)


def prepare(ckpt: Path, folder: Path, sizes: Sequence[Size]) -> None:
    """Writes the graphs, which need no GPU, and what they cost."""
    from gpu_models import save_graphs, write_costs

    folder.mkdir(parents=True, exist_ok=True)
    write_costs(folder, save_graphs(ckpt, folder, sizes))
    progress(f"graphs for {len(sizes)} sizes are in {folder}")


def models(arguments: argparse.Namespace, work: Path) -> tuple[Path, dict[Size, Any]]:
    """The folder with every model, and what nst's graph costs at least at each size."""
    from gpu_models import missing_plans, read_costs, save_graphs, save_plans, save_weights

    if arguments.models is None:
        folder, costs = work, save_graphs(arguments.ckpt, work, arguments.sizes)
    else:
        folder, costs = arguments.models, read_costs(arguments.models)
        if unknown := set(arguments.sizes) - set(costs):
            missing = ",".join("{}x{}".format(*size) for size in sorted(unknown))
            sys.exit(
                f"benchmarks/gpu.py: error: {folder} was not prepared for {missing}. Run --prepare with these sizes"
            )
    save_weights(arguments.ckpt, folder)
    # A library can also end the process, on a GPU that it does not know.
    answer = run_apart(save_plans, folder, arguments.batches[-1], patience=PATIENCE)
    for plan in missing_plans(folder, arguments.batches[-1]):
        plan.with_name(plan.name + ".missing").write_text(answer.get("not_run", "it was not built"))
    return folder, costs


@contextmanager
def _workers(lanes: Sequence[GpuLane], mode: str) -> Iterator[dict[GpuLane, Worker]]:
    """One for each lane, started all at once; the reference is always there, and comes first."""
    workers: dict[GpuLane, Worker] = {
        lane: Apart(Bench, lane, "cuda", mode) for lane in dict.fromkeys((REFERENCE, *lanes))
    }
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def _stop(*_: object) -> NoReturn:
    raise SystemExit(143)  # so that what was measured is written, and no process stays behind


def progress(text: str) -> None:
    print(text, flush=True)


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


def versions() -> dict[str, Any]:
    """Of the libraries as they say themselves: wheels can shadow one another."""
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    found["cudnn"], found["tf32"] = torch.backends.cudnn.version(), tf32_state()
    for name in ("onnxruntime", "tensorrt", "tensorrt_rtx", "triton"):
        with suppress(ImportError):
            found[name] = import_module(name).__version__
    return found


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
    parser.add_argument("--batches", type=_batches, default=BATCHES, metavar="N,…", help="pictures at once")
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD", help="only rows whose name holds one of these")
    parser.add_argument("--skip", nargs="+", default=(), metavar="WORD", help="no rows whose name holds one of these")
    parser.add_argument("--minutes", type=float, default=0, help="begin nothing new after these (default: no limit)")
    parser.add_argument("--compile-mode", default="max-autotune", help="of torch.compile (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="S", help="for one answer of a row")
    parser.add_argument(
        "--compile-patience", type=float, default=1800, metavar="S", help="for torch.compile at one size"
    )
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="only make the graphs, for --models; needs no GPU")
    parser.add_argument("--models", type=Path, metavar="DIR", help="made by --prepare; plans are built there")
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE", help="where the figures go")
    parser.add_argument("--note", metavar="TEXT", help="what else to know of this run; the page says it")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for the models (default: the system's)")
    return parser.parse_args()


def _batches(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(h), int(w)) for h, w in (size.split("x") for size in text.split(",")))


if __name__ == "__main__":
    main()
