"""What a benchmark ran on: a description, and how fast large matrix products get there."""

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy")
FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)  # what nets gain from
SIZES = (1024, 2048, 3072)  # rows and columns of the square matrices
SECONDS = 1.0  # of measuring for each library and size


def describe() -> dict[str, str | int]:
    """CPU, what it has for nets, cores, system and the versions of what was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cpu = {"cpu": cpu_name(), "cpu_features": " ".join(cpu_features())}
    return {**cpu, "system": platform.platform(), "python": platform.python_version(), **versions}


def cpu_name() -> str:
    """Name, family, model and logical cores."""
    fields = _cpuinfo()
    if not fields:
        return platform.processor()
    names = fields.get("model name", ["unknown CPU"])
    family, model = fields.get("cpu family", ["?"])[0], fields.get("model", ["?"])[0]
    return f"{names[0]} (family {family}, model {model}), {len(names)} logical cores"


def cpu_features() -> list[str]:
    """Those of FEATURES that the CPU has; none where the system does not say."""
    flags = _cpuinfo().get("flags", [""])[0].split()
    return [feature for feature in FEATURES if feature in flags]


def _cpuinfo() -> dict[str, list[str]]:
    info = Path("/proc/cpuinfo")
    fields: dict[str, list[str]] = {}
    for line in info.read_text().splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), []).append(value.strip())
    return fields


def matrix_peak(
    threads: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float | str | int]]:
    """The best of every library and size, for f32 and bf16: GFLOP/s, counting 2 n^3 operations for each product.

    Args:
        clock: seconds; time.process_time does not count what other processes take.
    """
    import torch

    torch.set_num_threads(threads)
    best: dict[str, dict[str, float | str | int]] = {}
    for size in SIZES:
        for precision in ("f32", "bf16"):
            for library, multiply in _products(size, precision, threads):
                rate = 2 * size**3 / _median_seconds(multiply, clock) / 1e9
                if rate > best.get(precision, {"gflops": 0.0})["gflops"]:  # type: ignore[operator]
                    best[precision] = {"gflops": rate, "library": library, "size": size}
    return best


def _products(size: int, precision: str, threads: int) -> list[tuple[str, Callable[[], object]]]:
    import torch

    a = torch.rand(size, size, dtype=torch.float32 if precision == "f32" else torch.bfloat16)
    b = torch.rand_like(a)
    products: list[tuple[str, Callable[[], object]]] = [("torch", lambda: a @ b)]
    if precision == "f32":
        x, y = a.numpy(), b.numpy()
        products.append(("numpy", lambda: x @ y))
    products.append(("openvino", _openvino_product(size, precision, threads)))
    return products


def _openvino_product(size: int, precision: str, threads: int) -> Callable[[], object]:
    """The second matrix is a constant, as the weights of a layer are; the product is reduced inside, so that what is
    timed is not the copy of the result."""
    import openvino as ov
    from openvino import opset13

    rows = opset13.parameter([size, size], np.float32)
    weights = opset13.constant(np.random.default_rng(0).random((size, size), dtype=np.float32))
    product = opset13.reduce_max(opset13.matmul(rows, weights, False, False), np.array([1]))
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(ov.Model([product], [rows]), "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.random.default_rng(1).random((size, size), dtype=np.float32)))
    return request.infer


def _median_seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    work()
    samples: list[float] = []
    while sum(samples) < SECONDS or len(samples) < 3:
        started = clock()
        work()
        samples.append(clock() - started)
    return statistics.median(samples)
