"""nst-bench: every back end on this machine, side by side."""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from nst_common import package_version
from nst_common.atomic_file import atomic_write, prepare_folder
from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UsageError
from nst_common.progress import Progress
from nst_deploy.bench.machine import describe_machine
from nst_deploy.bench.measure import count_runs, measure
from nst_deploy.bench.plot import draw_plot, save_plot
from nst_deploy.bench.report import advice, as_json, recommend, table
from nst_deploy.bench.ways import COMPUTED, Computed, find_ways
from nst_deploy.contract import MIN_SIZE, ModelContract
from nst_deploy.images import load_picture
from nst_deploy.plan_sidecar import FLAVORS
from nst_deploy.runtime.backend import MAX_THREADS, likely_device, read_contract
from nst_deploy.runtime.gpu_probe import why_no_gpu
from nst_deploy.runtime.int8_engine import SUFFIX as INT8_SUFFIX
from nst_deploy.runtime.plan_checks import is_plan
from nst_deploy.runtime.trt import MODULES
from nst_deploy.styles import DEFAULT_STYLE, find_engine

PROG = "nst-bench"
SIZES = ((256, 256), (512, 512), (680, 1024), (1080, 1920))  # (H, W) in px
RUNS, MAX_RUNS = 10, 10_000
PHOTO = Path(__file__).parent / "export" / "photographs" / "coffee.jpg"  # public domain; its folder names the source

DESCRIPTION = """\
Runs one style on every back end, precision and size of this machine, taking turns, each in a process of its own, and
says what to choose. Where there is a GPU, FP16 engines and plans that lie beside the engine run too, with and without
CUDA graphs. Pixels are always compared with those of the float32 engine."""


@dataclass(frozen=True)
class BenchOptions:
    """What one run was asked for; see ``nst-bench --help``. Sizes are (H, W) in px."""

    engine: str
    ckpt: Path | None
    picture: Path
    size: tuple[tuple[int, int], ...] | None
    precision: Computed | None
    runs: int
    threads: int | None
    json: Path | None
    plot: Path | None


class ExportCommandError(Exception):
    """nst-export failed, and has already said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(PROG, _work, argv)


def _work(argv: Sequence[str]) -> int:
    options = BenchOptions(**vars(_parser().parse_args(argv)))
    for path in (options.json, options.plot):
        if path is not None:
            prepare_folder(path.parent)
    photo = Image.fromarray(load_picture(options.picture).rgb)
    with ExitStack() as stack:
        try:
            engine = _export(options.ckpt, stack) if options.ckpt else find_engine(options.engine)
        except ExportCommandError as error:
            return error.exit_code
        contract = read_contract(engine)
        sizes, ways = _sizes(options.size, contract), find_ways(engine, contract)
        for note in ways.notes:
            sys.stderr.write(f"{note}\n")
        automatic = likely_device(engine)
        with Progress(count_runs(len(sizes), len(ways.ways), options.runs), "runs") as progress:
            measurement = measure(
                ways,
                contract,
                photo,
                sizes,
                runs=options.runs,
                threads=options.threads,
                advance=progress.advance,
            )
    sys.stdout.write(table(measurement) + "\n")
    if not measurement.rows:
        remedy = "Above stands why" if is_plan(engine) else "Install one: pip install 'nst[cpu]'"
        sys.stderr.write(f"{PROG}: error: no back end could run this engine. {remedy}\n")
        return 1
    recommendation = recommend(measurement.rows, options.precision or contract.precision)
    sys.stdout.write(advice(recommendation, automatic) + "\n")
    if options.json is not None:
        _write_json(options.json, as_json(measurement, recommendation, _about(argv, options, contract)))
    if options.plot is not None:
        machine = describe_machine()
        title = f"{contract.style}, megapixels per second on {machine['cpu']}, {machine['cores']} cores"
        save_plot(options.plot, draw_plot(measurement.rows, title))
    return 0


def _export(ckpt: Path, stack: ExitStack) -> Path:
    """Engines made for this run by nst-export; the float32 one, beside which lie the others."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nst-bench-")))
    sys.stderr.write(f"exporting {ckpt}\n")
    exported = _run_export(ckpt, folder, "--format", "onnx", "--precision", "fp32,int8")
    if exported.returncode:
        sys.stderr.write(exported.stderr)
        raise ExportCommandError(exported.returncode)
    (engine,) = (path for path in folder.glob("*.onnx") if not path.name.endswith(INT8_SUFFIX))
    for options in _gpu_exports() if why_no_gpu() is None else ():
        made = _run_export(ckpt, folder, *options)
        if made.returncode:  # the rest is measured without it
            sys.stderr.write(f"nst-export {' '.join(options)}: {made.stderr.strip().splitlines()[-1]}\n")
    return engine


def _run_export(ckpt: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """nst-export in a process of its own: torch stays out of this one."""
    command = ["-m", "nst_deploy.export.cli", "--ckpt", str(ckpt), "--out", str(folder), "--no-verify", *options]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


def _gpu_exports() -> list[tuple[str, ...]]:
    """Options of nst-export for what GPUs want: an FP16 engine, and a plan by each library that is installed."""
    flavors = [flavor for flavor in FLAVORS if find_spec(MODULES[flavor]) is not None]
    plans = [("--format", "plan", "--trt-flavor", flavor) for flavor in flavors]
    return [("--format", "onnx", "--precision", "fp16"), *plans]


def _sizes(asked: Sequence[tuple[int, int]] | None, contract: ModelContract) -> Sequence[tuple[int, int]]:
    static = contract.static_size
    if static is None:
        return asked or SIZES
    if asked is not None and set(asked) != {static}:
        only = f"{static[1]}x{static[0]}"
        raise UsageError(f"This engine was exported for {only} px only", f"Leave --size away, or give --size {only}")
    return [static]


def _about(argv: Sequence[str], options: BenchOptions, contract: ModelContract) -> dict[str, Any]:
    return {
        "command": " ".join([PROG, *argv]),
        "nst": package_version(),
        "style": contract.style,
        "engine_precision": contract.precision,
        "checkpoint_sha256": contract.checkpoint_sha256,
        "picture": options.picture.name,
        "threads": options.threads,
        "runs": options.runs,
        "machine": describe_machine(),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=PROG, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--engine", default=DEFAULT_STYLE, help="path of an engine, or name of a bundled style (default: %(default)s)"
    )
    source.add_argument("--ckpt", type=Path, metavar="FILE", help="a checkpoint, exported for this run; needs torch")
    default = ",".join(f"{width}x{height}" for height, width in SIZES)
    add("--size", type=_size_list, metavar="LIST", help=f"width x height in px, comma-separated (default: {default})")
    add(
        "--precision",
        choices=COMPUTED,
        help="the lowest that is recommended first (default: the engine's own); all are measured",
    )
    add("--runs", type=_runs, default=RUNS, metavar="N", help="timed runs of each (default: %(default)s)")
    add("--threads", type=_threads, metavar="N", help="CPU threads (default: every core)")
    add("--picture", type=Path, default=PHOTO, metavar="FILE", help="resized to every size (default: a bundled one)")
    add("--json", type=Path, metavar="FILE", help="write every figure here as well")
    add("--plot", type=Path, metavar="FILE.png", help="draw megapixels per second")
    add("--version", action="version", version=f"%(prog)s {package_version()}")
    return parser


def _size_list(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(dict.fromkeys(_size(part.strip()) for part in text.split(",")))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None or min(int(match[1]), int(match[2])) < MIN_SIZE:
        raise argparse.ArgumentTypeError(
            f"{text!r} given, expected width x height from {MIN_SIZE} px, such as 1024x680"
        )
    return int(match[2]), int(match[1])


def _runs(text: str) -> int:
    return _whole_number(text, MAX_RUNS)


def _threads(text: str) -> int:
    return _whole_number(text, MAX_THREADS)


def _whole_number(text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number, 1..{most}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
