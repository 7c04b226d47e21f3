"""The sections of benchmarks/README.md, each from one file of benchmarks/results/."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markdown import table
from steps import STEPS, with_data
from targets import EAGER, Rows, Sizes, Target, targets

Results = Mapping[str, Mapping[str, Any]]  # by the file's name, without its suffix
Section = Callable[[Results], str]
NOT_MEASURED = "not measured"
GPU_COMMAND = "python benchmarks/gpu.py --ckpt engines/la_muse.pth"
ORT = "onnxruntime f32"
ENGINES = {ORT: "ONNX Runtime f32", "openvino f32": "OpenVINO f32", "openvino bf16": "OpenVINO bf16"}


def wide(size: str) -> str:
    """``HxW`` as people write it: 1024×680."""
    height, width = size.split("x")
    return f"{width}×{height}"


def about(result: Mapping[str, Any]) -> str:
    """The command, and what it ran on."""
    machine = result["machine"]
    versions = [
        f"{name} {machine[name]}"
        for name in ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cudnn")
        if name in machine
    ]
    features = [machine["cpu_features"]] if machine.get("cpu_features") else []
    cpu = [machine["cpu"]] if "cpu" in machine else []
    where = ", ".join([*cpu, *features, *machine.get("gpus", ()), *versions])
    how = [
        f"{result[key]} {noun}" for key, noun in (("threads", "threads"), ("runs", "runs")) if result.get(key, 0) > 1
    ]
    how += [result["clock"]] if "clock" in result else []
    said = f"`{with_data(result['command'])}` on {where}" if "command" in result else f"Measured on {where}"
    return "; ".join([said, ", ".join(how)] if how else [said]) + "."


def section(title: str, name: str, text: Callable[[Mapping[str, Any]], str]) -> Section:
    """One that says so where its result is missing."""

    def make(results: Results) -> str:
        if name in results:
            return f"## {title}\n\n{text(results[name])}\n"
        shown = next((step.shown for step in STEPS if step.name == name), GPU_COMMAND)
        return f"## {title}\n\nNot measured. `{shown}` does.\n"

    return make


# --- the targets -----------------------------------------------------------------------------------------------------


def targets_section(results: Results) -> str:
    """What was to be reached, what was; ``not measured`` where the result is missing."""
    export = results.get("export")
    found = targets(export["sizes"] if export else {})
    body = table(
        ("", "at least", "aim", "measured", ""),
        [(t.name, *_limits(t), _values(t), t.verdict) for t in found],
    )
    reached = sum(t.verdict.startswith("reached") for t in found)
    where = (
        f"{reached} of {len(found)} reached. `la_muse`'s weights, medians of one run in which all rows take turns. "
        f"{about(export)} The floor is the time that 133 000 multiplications and additions for each pixel take at the "
        f"speed of this machine's largest bf16 matrix products ({_peaks(export)})."
        if export
        else "Not measured."
    )
    return f"## What it is to reach\n\n{body}\n\n{where}\n"


def _limits(target: Target) -> tuple[str, str]:
    sign = "" if target.more_is_better else "≤ "
    return sign + target.show(target.least), sign + target.show(target.aim)


def _values(target: Target) -> str:
    if not target.values:
        return ""
    return ", ".join(f"{target.show(value)} ({_place(place)})" for place, value in target.values.items())


def _place(place: str) -> str:
    return ENGINES.get(place) or wide(place)


def _peaks(export: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {peak['gflops']:.0f} GFLOP/s" for name, peak in export["matrix_peak"].items())


# --- every row -------------------------------------------------------------------------------------------------------


def rows_section(export: Mapping[str, Any]) -> str:
    sizes: Sizes = export["sizes"]
    names = list(dict.fromkeys(name for rows in sizes.values() for name in rows))
    parts = [
        ("Milliseconds for one picture", lambda row, rows: f"{1e3 * row['seconds']:.0f}{_faster(row, rows)}"),
        ("Peak memory of the process, MiB", lambda row, _: f"{row['peak_mib']:.0f}"),
        ("Times the floor", lambda row, _: _number(row["over_floor"], ".2f")),
        ("PSNR against PyTorch eager, dB", lambda row, _: _number(row["psnr_db"], ".1f")),
    ]
    tables = [
        f"{title}:\n\n"
        + table(
            ("", *map(wide, sizes)),
            [(name, *(show(rows[name], rows) if name in rows else "" for rows in sizes.values())) for name in names],
        )
        for title, show in parts
    ]
    note = (
        "`naive` is what `torch.onnx.export` makes of the same net, `nst` what `nst-export` does. In brackets: times "
        f"as fast as PyTorch eager.{_runs(sizes)}\n\n![Speed of every way to run the net](results/export.png)"
    )
    return "\n\n".join([note, *tables])


def _runs(sizes: Sizes) -> str:
    counts = sorted({row["runs"] for rows in sizes.values() for row in rows.values() if "runs" in row})
    return f" Medians of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} runs." if counts else ""


def _faster(row: Mapping[str, Any], rows: Rows) -> str:
    return f" ({rows[EAGER]['seconds'] / row['seconds']:.2f}×)" if EAGER in rows else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


# --- rewrites --------------------------------------------------------------------------------------------------------


def rewrites_section(result: Mapping[str, Any]) -> str:
    """For each engine: what a rewrite gains by itself, and what is lost without it."""
    parts = []
    for size, rows in result["sizes"].items():
        names = [name.removeprefix("only ").removesuffix(f" {ORT}") for name in rows if _is_only(name)]
        body = [
            ("none: plain modules, exported as uint8", *(_gain(rows, "naive", "none", e) for e in ENGINES)),
            ("**all**", *(_gain(rows, "naive", "all", e) for e in ENGINES)),
            *((f"`{name}`", *(_alone_and_last(rows, name, e) for e in ENGINES)) for name in names),
        ]
        parts.append(f"{wide(size)}:\n\n" + table(("", *ENGINES.values()), body))
    note = (
        "Less time than the plain export takes; for a rewrite, less than without any when it is the only one, and less "
        "than with all others when it is the last (`phase_head` brings `subpixel` along and takes `paired_head`'s "
        "place). The rewrites are described in `nst_deploy/export/fold.py`."
    )
    return "\n\n".join([note, *parts, about(result)])


def _is_only(name: str) -> bool:
    return name.startswith("only ") and name.endswith(f" {ORT}")


def _gain(rows: Rows, before: str, after: str, engine: str) -> str:
    slow, fast = rows.get(f"{before} {engine}"), rows.get(f"{after} {engine}")
    return f"{100 * (1 - fast['seconds'] / slow['seconds']):+.1f} %" if slow and fast else ""


def _alone_and_last(rows: Rows, name: str, engine: str) -> str:
    alone, last = _gain(rows, "none", f"only {name}", engine), _gain(rows, f"all but {name}", "all", engine)
    return f"{alone} alone, {last} last" if alone and last else ""


# --- precisions ------------------------------------------------------------------------------------------------------


def int8_section(result: Mapping[str, Any]) -> str:
    fidelity = table(
        ("style", "bf16", "INT8", "its worst picture", "INT8, rest bf16"),
        [
            (f"`{style}`", *(f"{value:.1f} dB" for value in _decibels(row["fidelity"])))
            for style, row in result["styles"].items()
        ],
    )
    times = [row["times"] for row in result["styles"].values() if "times" in row]
    note = (
        f"Fidelity against the float32 engine on {len(result['pictures'])} photographs that no range was calibrated "
        "on; `nst-infer --precision int8` leaves the rest in float32."
    )
    if not times:
        return "\n\n".join([note, fidelity, f"Speed: {NOT_MEASURED}.", about(result)])
    lanes = ("f32", "bf16", "int8", "int8, rest bf16")
    speed = table(
        ("style, size", *(f"{lane}, ms" for lane in lanes), "INT8 / bf16", "INT8 / f32"),
        [
            (
                f"`{style}`, {wide(size)}",
                *(f"{1e3 * rows[lane]['seconds']:.0f}" for lane in lanes),
                f"{rows['int8']['speedup_over_bf16']:.2f}×",
                f"{rows['int8']['speedup_over_f32']:.2f}×",
            )
            for style, row in result["styles"].items()
            for size, rows in row.get("times", {}).get("sizes", {}).items()
        ],
    )
    return "\n\n".join([note, fidelity, speed, f"Fidelity: {about(result)} Speed: {about(times[0])}"])


def _decibels(fidelity: Mapping[str, Mapping[str, float]]) -> Sequence[float]:
    int8 = fidelity["int8"]
    return (
        fidelity["bf16"]["psnr_db"],
        int8["psnr_db"],
        int8["worst_psnr_db"],
        fidelity["int8, rest bf16"]["psnr_db"],
    )


def fp16_section(result: Mapping[str, Any]) -> str:
    note = (
        f"FP16 engines at {wide(result['size'])}, as a GPU runs them, emulated: every stored activation and every "
        "square inside a norm rounded to FP16, sums in FP32. Wanted: everything finite, at least 55 dB. The square of "
        "a value above 256 would not be."
    )
    body = table(
        ("net", "PSNR", "largest difference", "finite", "largest before a square"),
        [
            (
                f"`{row.get('checkpoint', row['style'])}`",
                "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB",
                f"{row['max_levels']} of 255",
                "yes" if row["all_finite"] else "**no**",
                _number(row.get("largest_before_a_square"), ".0f"),
            )
            for row in result["styles"]
        ],
    )
    return "\n\n".join([note, body, about(result)])


# --- training and quality --------------------------------------------------------------------------------------------


def training_section(results: Results) -> str:
    """Side by side on a CPU, and what is known of a GPU."""
    on_cpu = section("Training", "training", _training_on_cpu)(results)
    on_gpu = _training_on_gpu(results["training_gpu"]) if "training_gpu" in results else "Not measured on a GPU."
    return f"{on_cpu}\n{on_gpu}\n"


def _training_on_gpu(result: Mapping[str, Any]) -> str:
    body = table(
        ("on a GPU", "ms per step", "pictures/s", "first step after, s"),
        [
            (
                name,
                f"{lane['ms_per_step']:.1f}",
                f"{1e3 * result['batch'] / lane['ms_per_step']:.0f}",
                f"{lane['first_step_s']:.1f}",
            )
            for name, lane in result["lanes"].items()
        ],
    )
    whole = result["whole"]
    seconds = f"{min(whole['seconds'].values()):.0f} to {max(whole['seconds'].values()):.0f} s"
    crops = f"{result['batch']} crops of {result['crop']}×{result['crop']}"
    note = f"{whole['steps']} steps of {crops} take {seconds}, from the command to the checkpoint. {result['note']}"
    return "\n\n".join([body, note, about(result)])


def _training_on_cpu(result: Mapping[str, Any]) -> str:
    crop = result["crop"]
    body = table(
        ("", "s per step", "pictures/s", "peak MiB"),
        [
            (name, f"{lane['seconds_per_step']:.2f}", f"{lane['images_per_second']:.2f}", f"{lane['peak_mib']:.0f}")
            for name, lane in result["lanes"].items()
        ],
    )
    note = (
        f"One step of {result['batch']} crops of {crop}×{crop}. `examples` is pytorch/examples' script, `nst` and "
        "`nst_fp32` train the same net on the same VGG-16 layers, `nst_default` the objective that ships."
    )
    if "speedup_over_examples" in result:
        note += f" nst is **{result['speedup_over_examples']:.2f}×** as fast as the examples."
    return "\n\n".join([note, body, about(result)])


def quality_section(result: Mapping[str, Any]) -> str:
    note = (
        "How many iterations of L-BFGS on the same objective, from the photograph, one pass of the net equals: the "
        "median of photographs that training never saw."
    )
    body = table(
        ("style", "iterations", "photographs", "objective", "of the photograph itself"),
        [
            (
                f"`{style}`",
                f"{'at least ' if row['is_lower_bound'] else ''}{row['lbfgs_iterations']:g}",
                str(row["photographs"]),
                f"{row['total']:.4g}",
                f"{row['content_picture_total']:.4g}",
            )
            for style, row in result.items()
        ],
    )
    shown = next(step.shown for step in STEPS if step.name == "quality")
    return "\n\n".join([note, body, f"`{shown}`, and so on; no time is measured, so no machine is named."])


# --- whole programs --------------------------------------------------------------------------------------------------


def cold_start_section(result: Mapping[str, Any]) -> str:
    seconds, memory = result["wall_seconds"], result["peak_mib"]
    body = table(
        ("", "seconds", "peak MiB"),
        [
            *((f"`{name}`", f"{seconds[name]:.2f}", f"{memory[name]:.0f}") for name in seconds),
            ("nst / PyTorch", f"{result['wall_ratio']:.2f}", f"{result['memory_ratio']:.2f}"),
        ],
    )
    size = result["size"]
    note = f"From the command to the written {size}×{size} picture, the start of Python included."
    return "\n\n".join([note, body, about(result)])


def cpp_rows(result: Mapping[str, Any]) -> str:
    """The table alone."""
    overhead, stream, seconds = result["overhead"], result["stream"], result["compilation_seconds"]
    return table(
        ("", ""),
        [
            (
                "`run` beside a bare `infer()` of OpenVINO",
                f"{100 * overhead['overhead']:+.1f} %; with gaps between the rows "
                f"{100 * overhead['overhead_with_gaps']:+.1f} %",
            ),
            ("`stream` beside a Python loop over the same engine, frames/s", f"{stream['ratio']:.2f}×"),
            (
                "compiling the core of the headers; with OpenVINO's",
                f"{seconds['core']:.1f} s; {seconds['openvino']:.1f} s",
            ),
        ],
    )


def cpp_section(result: Mapping[str, Any]) -> str:
    height, width = result["size"]
    return f"`{result['engine']}`, {width}×{height}, OpenVINO f32.\n\n{cpp_rows(result)}\n\n{about(result)}"


# --- GPUs ------------------------------------------------------------------------------------------------------------


ORT_SOURCE = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core"
# Written by hand: what is known of the sources, and no figure of ours.
NEXT = f"""\
What to try next on a GPU, for ONNX Runtime's CUDA provider (1.20 and later), by its source and our graph:

- **`use_tf32`.** With 0 its [`conv.cc`]({ORT_SOURCE}/providers/cuda/nn/conv.cc) deselects every Tensor Core kernel of \
cuDNN, also for FP16. nst now gives 0 to float32 engines alone; the row `use_tf32=0` shows what that is worth.
- **`prefer_nhwc`.** Tensor Cores want NHWC, and cuDNN converts around each convolution otherwise. With it \
[`Conv` and `DepthToSpace`]({ORT_SOURCE}/optimizer/layout_transformation/layout_transformation.cc) become NHWC, but \
not `InstanceNormalization`, through which the \
[optimizer]({ORT_SOURCE}/optimizer/transpose_optimization/onnx_transpose_optimization.cc) moves no `Transpose`: \
every norm of ours keeps a pair of them. Means and products written out would let NHWC through, but need sums of \
squares in float32.
- **`InstanceNormalization`.** For one picture it is cuDNN's \
[batch norm for training, spatial, NCHW]({ORT_SOURCE}/providers/cuda/nn/instance_norm.cc); by \
[its kernel's name](https://github.com/pytorch/pytorch/issues/38915) a block for each channel, which would leave most \
of the GPU idle at 32 channels. A profile would tell.
- **`cudnn_conv_algo_search`.** `EXHAUSTIVE`, the default, is cuDNN's heuristic B, `HEURISTIC` its A; neither times \
kernels, as PyTorch's `cudnn.benchmark` does.
- **The first and the last convolution** have 3 and 12 channels on one side, which leaves most of a Tensor Core idle; \
the floor takes them for full. Space-to-depth before the first might help every engine.
- Nothing to gain: `fuse_conv_bias` (one convolution of 16 has a bias), `use_ep_level_unified_stream` (the graph is a \
chain), and launches (a CUDA graph saves little)."""


def gpu_section(result: Mapping[str, Any]) -> str:
    """A table for each size, and what nst's graph is worth by ratios."""
    sizes = result["sizes"]
    ratios = table(
        ("", *map(wide, sizes)),
        [
            (name, *(_number(at["ratios"].get(name), ".2f") for at in sizes.values()))
            for name in dict.fromkeys(name for at in sizes.values() for name in at["ratios"])
        ],
    )
    tables = [f"{wide(size)}, floor {at['floor_ms']:.3f} ms:\n\n{_gpu_table(at['rows'])}" for size, at in sizes.items()]
    if any("not_run" in row for at in sizes.values() for row in at["rows"].values()):
        tables.append(_gpu_not_run(sizes))
    note = (
        "From device memory to device memory, by CUDA events; `call` is how long the processor is held, `best` the "
        "least for one picture of several at once, `floor` how many times the least that convolutions could take."
    )
    more = [result["note"]] if "note" in result else []
    return "\n\n".join([note, f"Times as fast:\n\n{ratios}", *tables, about(result), *more, NEXT])


def _gpu_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = (("ms", ".3f"), ("p95_ms", ".3f"), ("call_ms", ".3f"), ("with_copies_ms", ".3f"), ("best_ms", ".3f"))
    ratios = (("speedup", ".2f"), ("over_floor", ".2f"), ("psnr_db", ".1f"))
    headings = ("", "ms", "p95", "call", "with copies", "best", "× eager FP32", "floor", "PSNR, dB")
    return table(
        headings,
        [
            (name, *(_number(row.get(key), form) for key, form in (*columns, *ratios)))
            for name, row in rows.items()
            if "not_run" not in row
        ],
    )


def _gpu_not_run(sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """What the tables lack, by the reason; with the size where that is not all of them."""
    reasons: dict[str, dict[str, list[str]]] = {}  # reason -> row -> sizes
    for size, at in sizes.items():
        for name, row in at["rows"].items():
            if "not_run" in row:
                reasons.setdefault(row["not_run"], {}).setdefault(name, []).append(wide(size))
    lines = []
    for reason, rows in reasons.items():
        names = (f"`{name}`" + (f" at {', '.join(at)}" if len(at) < len(sizes) else "") for name, at in rows.items())
        lines.append(f"- {', '.join(names)}: {reason.rstrip('. ')}.")
    return "Not run:\n\n" + "\n".join(lines)


SECTIONS: tuple[Section, ...] = (
    targets_section,
    section("Every row", "export", rows_section),
    section("What each rewrite gives", "export_rewrites", rewrites_section),
    section("INT8", "int8", int8_section),
    section("FP16 at 4K", "fp16", fp16_section),
    section("NVIDIA GPUs", "gpu", gpu_section),
    section("A whole process, cold", "cold_start", cold_start_section),
    training_section,
    section("Quality of the styles", "quality", quality_section),
    section("C++", "cpp", cpp_section),
)
