"""What the C++ headers and programs cost beside what they stand on.

    python benchmarks/cpp.py [--engine FILE] [--size HxW] [--rounds 15] [--frames 8]

- overhead: nst::openvino::Stylizer::run against a bare infer() of OpenVINO, in one process, in turns;
- stream: frames through ``stream`` (pipes on both sides) against a Python loop over the same engine, in turns;
- compilation: the core of the headers, and one with its vendor's SDK.

Medians; the programs are built as their README says. Writes benchmarks/results/cpp.json.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

from nst_deploy.runtime.ov import OvBackend

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpp.json"
SOURCE = ROOT / "engines" / "cpp"
STREAM_ROUNDS = 3
COMPILED = {
    "core": "#include <nst/plan_file.hpp>\n#include <nst/stylizer.hpp>\n",
    "openvino": "#include <nst/openvino.hpp>\n",
}


def openvino_package() -> Path:
    """The folder of OpenVINO's CMake package; asked in a process of its own, for it imports much."""
    code = "from openvino.utils import get_cmake_path; print(get_cmake_path())"
    return Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def quietly(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def build(work: Path) -> tuple[Path, Path]:
    """The programs ``overhead`` and ``stream``, optimised."""
    find = f"-DOpenVINO_DIR={openvino_package()}"
    quietly("cmake", "-S", SOURCE, "--preset", "release", "-B", work / "programs", find)
    quietly("cmake", "--build", work / "programs", "--parallel")
    quietly("cmake", "--install", work / "programs", "--prefix", work / "sdk")
    prefix = f"-DCMAKE_PREFIX_PATH={work / 'sdk'}"
    quietly("cmake", "-S", ROOT / "benchmarks/cpp", "-B", work / "own", "-DCMAKE_BUILD_TYPE=Release", prefix, find)
    quietly("cmake", "--build", work / "own")
    return work / "own" / "overhead", work / "programs" / "programs" / "stream"


def measure_overhead(program: Path, engine: Path, size: tuple[int, int], rounds: int) -> dict[str, float]:
    """Seconds per frame, and the share that ``run`` adds; of each round, then the median."""
    shown = subprocess.run(
        [str(part) for part in (program, engine, *size, rounds)], capture_output=True, text=True, check=True
    ).stdout
    rows = [tuple(map(float, line.split())) for line in shown.splitlines()]
    return {
        "bare_seconds": statistics.median(bare for bare, _, _ in rows),
        "run_seconds": statistics.median(run for _, run, _ in rows),
        "run_with_gaps_seconds": statistics.median(gaps for _, _, gaps in rows),
        "overhead": statistics.median(run / bare - 1 for bare, run, _ in rows),
        "overhead_with_gaps": statistics.median(gaps / bare - 1 for bare, _, gaps in rows),
    }


def python_loop(backend: OvBackend, frames: np.ndarray) -> float:
    """Frames per second."""
    started = time.perf_counter()
    for frame in frames:
        backend.run(frame[None])
    return len(frames) / (time.perf_counter() - started)


def through_stream(program: Path, engine: Path, frames: np.ndarray) -> float:
    """Frames per second, as ``stream`` itself counts them from its first read to its last write."""
    size = "x".join(map(str, frames.shape[1:3]))
    command = [str(program), "--engine", str(engine), "--size", size, "--device", "openvino", "--verbose"]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=True)
    assert len(done.stdout) == frames.nbytes
    found = re.search(r"([\d.]+) frames/s", done.stderr.decode())
    assert found is not None
    return float(found.group(1))


def measure_stream(program: Path, engine: Path, size: tuple[int, int], count: int) -> dict[str, float]:
    frames = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    backend = OvBackend(engine)
    backend.run(frames[:1])
    rates = [(python_loop(backend, frames), through_stream(program, engine, frames)) for _ in range(STREAM_ROUNDS)]
    return {
        "python_frames_per_second": statistics.median(python for python, _ in rates),
        "stream_frames_per_second": statistics.median(stream for _, stream in rates),
        "ratio": statistics.median(stream / python for python, stream in rates),
    }


def measure_compilation(work: Path) -> dict[str, float]:
    """Seconds of c++ -O2 for a file that includes the header and nothing else."""
    vendor = openvino_package().parent / "include"
    seconds = {}
    for name, text in COMPILED.items():
        source = work / f"{name}.cpp"
        source.write_text(text)
        command = ["c++", "-std=c++17", "-O2", f"-I{SOURCE / 'include'}", f"-isystem{vendor}", "-c", source]
        started = time.perf_counter()
        quietly(*command, "-o", work / f"{name}.o")
        seconds[name] = time.perf_counter() - started
    return seconds


def parse_size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, default=ROOT / "nst_deploy" / "styles" / "starry_night.onnx")
    parser.add_argument("--size", type=parse_size, default=(512, 512), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--build", type=Path, metavar="DIR", help="keep what is built here, and use it again")
    arguments = parser.parse_args()
    work = arguments.build or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    try:
        overhead, stream = build(work)
        result = {
            "command": " ".join(["python", *sys.argv]),
            "engine": arguments.engine.stem,
            "size": list(arguments.size),
            "machine": describe(),
            "overhead": measure_overhead(overhead, arguments.engine, arguments.size, arguments.rounds),
            "stream": measure_stream(stream, arguments.engine, arguments.size, arguments.frames),
            "compilation_seconds": measure_compilation(work),
        }
    finally:
        if arguments.build is None:
            shutil.rmtree(work)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
