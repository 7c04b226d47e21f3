"""The figures that stand in pages written by hand: README.md and engines/cpp/README.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from markdown import table, wrapped
from sections import NOT_MEASURED, Results, about, cpp_rows, wide
from targets import EAGER, targets

SIZES = ("512x512", "680x1024", "1080x1920")  # HxW
COMPILED = "CUDA graph, `--compile`"  # of training_gpu.json's lanes
ROWS = {
    "PyTorch eager, f32": EAGER,
    "PyTorch `torch.compile`, f32": "pytorch compile f32",
    "plain export on OpenVINO, f32": "naive openvino f32",
    "nst on ONNX Runtime, f32": "nst onnxruntime f32",
    "nst on OpenVINO, f32": "nst openvino f32",
    "nst on OpenVINO, bf16": "nst openvino bf16",
    "nst on OpenVINO, INT8": "nst int8 openvino f32",
    "nst at half width on OpenVINO, bf16": "nst half openvino bf16",
}


def cold_start(results: Results) -> str:
    """A sentence: what a whole process takes."""
    result = results.get("cold_start")
    if result is None:
        return "(how it compares with a minimal PyTorch script is not measured yet)"
    time, memory = (f"{100 * result[key]:.0f} %" for key in ("wall_ratio", "memory_ratio"))
    size = result["size"]
    return (
        f"from the command to the finished {size}×{size} picture it\ntakes {time} of the time and {memory} of the "
        "memory that a minimal PyTorch script with the same weights takes"
    )


def readme(results: Results) -> str:
    """The main page's figures."""
    export = results.get("export")
    if export is None:
        return f"\n\nSpeed: {NOT_MEASURED}.\n\n"
    sizes = [size for size in SIZES if size in export["sizes"]]
    body = table(
        ("ms for one picture", *map(wide, sizes)),
        [
            (title, *(_milliseconds(export["sizes"][size], row) for size in sizes))
            for title, row in ROWS.items()
            if any(row in export["sizes"][size] for size in sizes)
        ],
    )
    found = targets(export["sizes"])
    reached = sum(target.verdict.startswith("reached") for target in found)
    return wrapped(
        f"\n\n{body}\n\n{about(export)} {reached} of the {len(found)} figures that nst is to reach are reached: "
        "[benchmarks/](benchmarks/README.md).\n\n"
    )


def gpu(results: Results) -> str:
    """The main page's sentence about speed on a GPU."""
    result = results.get("gpu", {"sizes": {}})
    naive, eager = (
        _range([at["ratios"][name] for at in result["sizes"].values() if name in at["ratios"]])
        for name in ("onnxruntime: nst over naive", "onnxruntime: nst over eager fp32")
    )
    if not (naive and eager):
        return "(the speed of ONNX Runtime on a GPU is not measured yet)"
    name = result["machine"]["gpus"][0].split(",")[0]
    return wrapped(
        f"\nOn one {name} and ONNX Runtime the exported graph in FP16 was {naive} times as fast as the plain export, "
        f"and {eager} times as fast as PyTorch eager in FP32.\n"
    )


def _range(values: Sequence[float]) -> str:
    """``0.78 to 0.92``; empty without any."""
    shown = sorted(f"{value:.2f}" for value in values)
    return " to ".join(dict.fromkeys((shown[0], shown[-1]))) if shown else ""


def training(results: Results) -> str:
    """The main page's sentence about training on a GPU."""
    result = results.get("training_gpu")
    if result is None:
        return "(how long that takes is not measured yet)"
    whole, lane = result["whole"], result["lanes"][COMPILED]
    gpu = result["machine"]["gpus"][0].split(",")[0]
    return wrapped(
        f"\nOn one {gpu} {whole['steps']} of them take {max(whole['seconds'].values()):.0f} s with `--compile` "
        f"({lane['ms_per_step']:.1f} ms each), after {lane['first_step_s']:.0f} s in which the first run compiles.\n"
    )


def cpp(results: Results) -> str:
    """engines/cpp/README.md's figures."""
    result = results.get("cpp")
    if result is None:
        return f"\n\n{NOT_MEASURED.capitalize()}.\n\n"
    height, width = result["size"]
    what = f"`{result['engine']}`, {width}×{height}, OpenVINO f32, medians of one run"
    return wrapped(f"\n\n{about(result)} {what}:\n\n{cpp_rows(result)}\n\n")


def _milliseconds(rows: Mapping[str, Mapping[str, Any]], name: str) -> str:
    if name not in rows:
        return ""
    seconds = rows[name]["seconds"]
    ratio = f" ({rows[EAGER]['seconds'] / seconds:.1f}×)" if EAGER in rows and name != EAGER else ""
    return f"{1e3 * seconds:.0f}{ratio}"
