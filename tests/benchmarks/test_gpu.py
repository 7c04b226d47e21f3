"""The GPU benchmark as far as a machine without one can run it: its lanes, its counting, its report."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from nst_deploy.contract import ModelContract  # noqa: E402
from nst_deploy.export.deployable import DeployableNet  # noqa: E402
from nst_deploy.export.fold import fold  # noqa: E402
from nst_deploy.export.onnx_export import to_onnx  # noqa: E402
from nst_deploy.runtime.gpu_probe import why_no_gpu  # noqa: E402
from nst_train.transform_net import PRESETS, TransformNet, TransformNetConfig  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = (16, 24)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gpu.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The work folder, with a tiny net in it and nothing else."""
    config = TransformNetConfig(widths=(4, 4, 4), blocks=1)
    content = {"config": dataclasses.asdict(config), "state": TransformNet(config).state_dict()}
    torch.save(content, tmp_path / "pytorch.pt")
    return tmp_path


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU")
def test_without_a_gpu_it_is_one_line() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--ckpt", "no.pth"]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"benchmarks/gpu.py: error: it needs an NVIDIA GPU: {why_no_gpu()}\n"


# --- counting --------------------------------------------------------------------------------------------------------


def test_one_convolution_is_counted_as_the_formula_says(gpu: ModuleType) -> None:
    from graph_cost import count, floor_seconds
    from onnx import TensorProto, helper

    height, width = SIZE
    half, pixels = TensorProto.FLOAT16, [1, 3, height, width]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weight"], ["made"], pads=[2, 2, 2, 2]),
            helper.make_node("Relu", ["made"], ["styled"]),
        ],
        "one",
        [helper.make_tensor_value_info("image", half, ["n", *pixels[1:]])],
        [helper.make_tensor_value_info("styled", half, ["n", 8, height, width])],
        [helper.make_tensor("weight", half, [8, 3, 5, 5], np.zeros(600, np.float16))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for batch in (1, 3):
        (cost,) = count(model, batch)
        positions = batch * height * width
        assert cost.operations == 2 * positions * 8 * 3 * 5 * 5
        assert cost.moved == 2 * (positions * 3 + positions * 8 + 8 * 3 * 5 * 5)
        assert floor_seconds([cost], 1.0, 1e30) == cost.operations
        assert floor_seconds([cost, cost], 1e30, 2.0) == cost.moved


def test_the_base_net_has_the_arithmetic_that_is_known_of_it(gpu: ModuleType) -> None:
    from graph_cost import count

    size = (64, 96)
    net = fold(TransformNet(PRESETS["base"]), ("centred_first", "subpixel"), rounded=True)
    model = to_onnx(DeployableNet(net), ModelContract("x", "fp32", "", "0", 1, static_size=size))
    macs = sum(cost.operations for cost in count(model)) / 2 / (size[0] * size[1])
    # By hand, per pixel: 9x9x3x32; 3x3 at half and quarter size; ten 3x3x128x128 at a quarter; two upsamplings as 2x2
    # convolutions to four phases; 9x9x32x3. Crops and paddings add a few pixels.
    by_hand = 7776 + 18432 / 4 + 73728 / 16 + 10 * 147456 / 16 + 4 * 4 * 128 * 64 / 16 + 4 * 4 * 64 * 32 / 4 + 7776
    assert macs == pytest.approx(by_hand, rel=0.12)


# --- lanes -----------------------------------------------------------------------------------------------------------


def test_every_lane_has_a_name_and_a_file_of_its_own(gpu: ModuleType) -> None:
    names = [lane.name for lane in gpu.LANES]
    assert len(set(names)) == len(names) == 17
    files = {lane.file(SIZE, 1) for lane in gpu.LANES}
    assert files == {
        "pytorch.pt",
        "naive.fp16.onnx",
        "nst.fp16.onnx",
        "nst.fp16.16x24.onnx",
        *(f"{graph}{suffix}" for graph in ("naive", "nst") for suffix in (".plan", ".rtx.plan")),
    }
    assert {lane.file(SIZE, 8) for lane in gpu.LANES if lane.engine == "rtx"} == {"naive.8.rtx.plan", "nst.8.rtx.plan"}
    for name, above, below in gpu.RATIOS:
        for engine in ("tensorrt", "rtx"):
            assert {above.format(engine=engine), below.format(engine=engine)} <= set(names), name
    assert [lane.engine for lane in gpu.LANES if lane.late] == ["compile"]
    assert [name for name in names if "=" in name] == [
        "onnxruntime nst fp16 use_tf32=0",
        "onnxruntime nst fp16 prefer_nhwc=1",
        "onnxruntime nst fp16 cudnn_conv_algo_search=HEURISTIC",
    ]
    from gpu_lanes import only

    assert [lane.name for lane in only(gpu.LANES, ("eager", "rtx"), ("graph", "naive"))] == [
        "eager pytorch fp32",
        "eager pytorch fp16",
        "rtx nst fp16",
    ]


class Here:
    """A worker without a process, which would take seconds to load torch."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.asked = bench, []

    def ask(self, method: str, *arguments: object, patience: float) -> dict[str, Any]:
        assert patience > 0
        self.asked.append(method)
        try:
            return dict(getattr(self.bench, method)(*arguments))
        except Exception as error:  # noqa: BLE001
            return {"not_run": str(error)}

    def close(self) -> None: ...


def test_lanes_that_cannot_run_say_why_and_stop_no_other(gpu: ModuleType, folder: Path, tmp_path: Path) -> None:
    lanes = [gpu.REFERENCE, gpu.GpuLane("rtx", "nst"), gpu.GpuLane("tensorrt", "nst"), gpu.GpuLane("eager", "pytorch")]
    (folder / "nst.plan.missing").write_text("tensorrt is not installed. Install it")
    workers = {lane: Here(gpu.Bench(lane, "cpu")) for lane in lanes}
    bench = gpu.Benchmark(folder, tmp_path, workers, gpu.Settings(6, (1, 2)))
    bench.measure(SIZE, late=False)
    rows = bench.rows[SIZE]
    assert list(rows) == ["eager pytorch fp32", "rtx nst fp16", "tensorrt nst fp16", "eager pytorch fp16"]
    assert rows["rtx nst fp16"]["not_run"] == "there is no nst.rtx.plan"
    assert rows["tensorrt nst fp16"] == {"not_run": "tensorrt is not installed. Install it"}
    reference, half = rows["eager pytorch fp32"], rows["eager pytorch fp16"]
    assert (reference["psnr_db"], reference["max_levels"]) == (None, 0)
    assert half["max_levels"] <= 3
    assert set(reference["batches"]) == {"1", "2"}
    assert reference["best_ms"] == min(reference["batches"].values())
    assert 0 < reference["ms"] <= reference["p95_ms"]
    assert reference["runs"] == 10  # 6, in whole rounds
    assert workers[lanes[0]].asked == ["prepare", *["time"] * gpu.ROUNDS, "many", "release"]
    assert workers[lanes[2]].asked == []


class Canned:
    """A worker that answers at once, and notes when it was asked."""

    def __init__(self, name: str, log: list[str], answers: int = 99) -> None:
        self.name, self.log, self.answers = name, log, answers

    def ask(self, method: str, *arguments: Any, patience: float) -> dict[str, Any]:
        self.answers -= 1
        if self.answers < 0:
            return {"not_run": "its process ended with code 3"}
        if method == "prepare":
            np.save(arguments[0].styled, np.zeros((1, *SIZE, 3), np.uint8))
            return {"device_bytes": 0, "ready_s": 0.1}
        if method == "time":
            self.log.append(self.name)
            return {"device": [0.002] * arguments[0], "called": [0.001], "copied": [0.004]}
        return {"batches": {"4": 0.0015}} if method == "many" else {}

    def close(self) -> None: ...


def test_rows_take_turns_and_one_that_dies_keeps_what_it_has(gpu: ModuleType, tmp_path: Path) -> None:
    first, second, third, late = gpu.REFERENCE, gpu.LANES[1], gpu.LANES[2], gpu.LANES[-1]
    log: list[str] = []
    workers = {
        first: Canned("1", log),
        second: Canned("2", log, answers=3),
        third: Canned("3", log, answers=1),
        late: Canned("late", log),
    }
    bench = gpu.Benchmark(tmp_path, tmp_path, workers, gpu.Settings(10, (1, 4)))
    bench.measure(SIZE, late=False)
    assert log == ["1", "2"] * 2 + ["1"] * (gpu.ROUNDS - 2)
    rows = bench.rows[SIZE]
    assert (rows[first.name]["ms"], rows[first.name]["best_ms"], rows[first.name]["best_batch"]) == (2.0, 1.5, 4)
    assert (rows[second.name]["runs"], rows[second.name]["stopped"]) == (4, "its process ended with code 3")
    assert rows[second.name]["batches"]["beyond"] == "its process ended with code 3"
    assert rows[third.name]["not_run"] == "its process ended with code 3"
    bench.measure(SIZE, late=True)
    assert log[-gpu.ROUNDS :] == ["late"] * gpu.ROUNDS
    assert "batches" not in rows[late.name]
    result: dict[str, Any] = {"sizes": {}}
    gpu.report(bench, SIZE, 1.0, result)
    assert list(result["sizes"]["16x24"]["rows"]) == [first.name, second.name, third.name, late.name]


def test_when_the_time_is_over_nothing_more_is_begun(gpu: ModuleType, tmp_path: Path) -> None:
    budget = gpu.Budget(1e-9)
    assert budget.left(5.0) == 0
    assert gpu.Budget(0).left(5.0) == 5.0
    workers = {lane: Canned(lane.name, []) for lane in gpu.LANES[:2]}
    bench = gpu.Benchmark(tmp_path, tmp_path, workers, gpu.Settings(10, (1,), budget))
    bench.measure(SIZE, late=False)
    assert [row["not_run"] for row in bench.rows[SIZE].values()] == ["the time was over"] * 2
    assert all(worker.answers == 99 for worker in workers.values())


class Fatal(str):
    """A path that ends the process which reads it from another one."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


def test_a_process_that_dies_and_one_that_is_silent(gpu: ModuleType) -> None:
    import time

    from gpu_workers import Apart, run_apart

    dead = Apart(str, Fatal())
    for _ in range(2):
        assert dead.ask("upper", patience=60) == {"not_run": "its process ended with code 3"}
    assert run_apart(time.sleep, 60, patience=0.1) == {"not_run": "no answer in 0 s"}
    assert run_apart(int, "7", patience=60) == 7
    assert run_apart(int, "x", patience=60)["not_run"].startswith("ValueError: invalid literal")


def test_what_was_prepared_is_used(gpu: ModuleType, tmp_path: Path) -> None:
    from gpu_models import read_costs, write_costs
    from graph_cost import LayerCost

    costs = {SIZE: [LayerCost(3, 4), LayerCost(5, 6)], (8, 9): []}
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path) == costs
    assert read_costs(tmp_path / "nowhere") == {}


def test_a_plan_that_cannot_be_built_says_why(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_models

    def save(model: Path, path: Path, flavor: str, batch: int) -> None:
        if flavor == "tensorrt":
            raise ValueError("no kernel image\nsecond line")
        if batch == 1:
            path.touch()

    monkeypatch.setattr(gpu_models, "_save_plan", save)
    assert gpu_models.save_plans(tmp_path, 4) == {}
    assert (tmp_path / "nst.4.plan.missing").read_text() == "ValueError: no kernel image"
    assert [path.name for path in gpu_models.missing_plans(tmp_path, 4)] == ["naive.4.rtx.plan", "nst.4.rtx.plan"]


def test_a_reason_is_one_short_line(gpu: ModuleType) -> None:
    from gpu_lanes import reason

    from nst_common.errors import UserError

    assert reason(UserError("It has no wheels", "Buy some")) == "It has no wheels"
    assert reason(ValueError("first\nsecond")) == "ValueError: first"
    long = reason(UserError("word " * 100, "Read less"))
    assert long.endswith("word …")
    assert len(long) <= 202


# --- the report ------------------------------------------------------------------------------------------------------


def row(ms: float, **more: object) -> dict[str, Any]:
    times = {"p95_ms": 1.1 * ms, "call_ms": 0.1, "with_copies_ms": 2 * ms, "best_ms": ms, "device_bytes": 2**20}
    return {"ms": ms, **times, "psnr_db": 60.0, "max_levels": 2, **more}


def test_ratios_and_table(gpu: ModuleType) -> None:
    rows = {
        "eager pytorch fp32": row(8.0, psnr_db=None, max_levels=0),
        "compile pytorch fp16": row(3.0),
        "tensorrt naive fp16": row(3.0),
        "tensorrt nst fp16": row(2.0),
        "tensorrt nst fp16 cuda-graph": row(1.5),
        "rtx nst fp16": {"not_run": "tensorrt-rtx is not installed"},
    }
    gpu.add_ratios(rows, floor=0.5)
    assert rows["tensorrt nst fp16"]["speedup"] == 4.0
    assert rows["tensorrt nst fp16"]["over_floor"] == 4.0
    assert gpu.ratios(rows) == {
        "tensorrt: nst over eager fp32": 8 / 1.5,
        "tensorrt: nst over torch.compile": 2.0,
        "tensorrt: nst over naive": 1.5,
    }
    lines = gpu.table(SIZE, rows)
    assert lines[0].startswith("24x16")
    assert any(line.startswith("eager pytorch fp32") and "equal" in line for line in lines)
    assert lines[-1].split(maxsplit=3)[3] == "not run: tensorrt-rtx is not installed"
    without = {"eager pytorch fp32": {"not_run": "x"}, "tensorrt nst fp16": row(2.0)}
    gpu.add_ratios(without, floor=0.5)
    assert without["tensorrt nst fp16"]["speedup"] is None
    assert len(gpu.table(SIZE, without)) == 3


def test_the_json_is_written_whole(gpu: ModuleType, tmp_path: Path) -> None:
    result = {"machine": gpu.describe(), "sizes": {}}
    gpu.write(tmp_path / "new" / "gpu.json", result)
    content = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert gpu.versions()["torch"] == torch.__version__
    assert content["machine"]["onnx"] == onnx.__version__
    assert content["machine"]["gpus"]
