"""Plans and ONNX engines on a real GPU, and what a machine without one says of a real plan."""

import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nst_deploy.errors import BackendMissingError, GpuUnavailableError, RtxUnsupportedError
from nst_deploy.plan_sidecar import Flavor
from nst_deploy.runtime.backend import open_backend
from nst_deploy.runtime.device_memory import open_driver
from nst_deploy.runtime.gpu_probe import why_no_gpu
from nst_deploy.runtime.plan import PlanBackend
from nst_deploy.runtime.trt import RTX_REFUSAL, new_logger, rtx_capabilities, rtx_runs_on
from tests.engines import write_engine

torch = pytest.importorskip("torch")
SIZES = ((64, 96), (61, 97), (256, 256))
STATIC = (64, 96)
ENGINES = "NST_TEST_ENGINES"  # an environment variable: a folder, where exporting anew would take too long
FLAVORS: tuple[Flavor, ...] = ("tensorrt", "rtx")
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def build(model: Path, folder: Path, flavor: Flavor, **options: Any) -> Path:
    """The plan of an ONNX file, by the library itself."""
    pytest.importorskip("tensorrt_rtx" if flavor == "rtx" else "tensorrt")
    from nst_deploy.export.build_options import BuildOptions
    from nst_deploy.export.engine import build_plan
    from nst_deploy.export.engine_builder import EngineBuilder
    from nst_deploy.plan_sidecar import write_plan
    from nst_deploy.runtime.onnx_metadata import read_engine
    from nst_deploy.runtime.trt import load_library

    content, contract = read_engine(model)
    builder = EngineBuilder(flavor, load_library(flavor))
    built = build_plan(content, contract, builder, BuildOptions(max_size=(512, 512), **options), folder)
    write_plan(folder / built.name, built.content, built.sidecar)
    return folder / built.name


def photographs(folder: Path, height: int, width: int, count: int = 1) -> np.ndarray:
    files = sorted((folder / "content").glob("*.jpg"))[:count]
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((width, height))) for file in files])


# --- without a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU")
def test_a_real_plan_where_no_gpu_is(tmp_path: Path) -> None:
    plan = build(write_engine(tmp_path / "negative.onnx", precision="fp16"), tmp_path, "rtx")
    assert plan.name == "negative.rtx.plan"
    with pytest.raises((GpuUnavailableError, BackendMissingError)) as caught:
        open_backend(plan)
    assert "\n" not in str(caught.value)


# --- with one --------------------------------------------------------------------------------------------------------


def exported(data: Path, fresh: Path, static: tuple[int, int] | None = None) -> Path:
    """A folder with the published wave in both precisions: that of an earlier run, where ENGINES says where."""
    from nst_deploy.export.exporter import export

    kept = os.environ.get(ENGINES)
    folder = Path(kept) / ("any" if static is None else "{}x{}".format(*static)) if kept else fresh
    if not (folder / "wave.fp16.onnx").exists():
        checkpoint = data / "lengstrom/wave.npz"
        export(checkpoint, folder, formats=["onnx"], precisions=["fp32", "fp16"], static_size=static, verify=False)
    return folder


@pytest.fixture(scope="module")
def engines(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(shared_data, tmp_path_factory.mktemp("wave"))


@pytest.fixture(scope="module")
def static_engines(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for one size, STATIC."""
    return exported(shared_data, tmp_path_factory.mktemp("static"), STATIC)


@pytest.fixture(scope="module", params=FLAVORS)
def plan(request: pytest.FixtureRequest, engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"compute_capabilities": ("current",)} if request.param == "rtx" else {}
    folder = tmp_path_factory.mktemp(request.param)
    try:
        return build(engines / "wave.fp16.onnx", folder, request.param, max_batch=2, **options)
    except RtxUnsupportedError as error:  # the test below proves that it is the library that refuses
        pytest.skip(error.problem)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.square(first.astype(float) - second).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def assert_alike(plan: Path, first: np.ndarray, second: np.ndarray) -> None:
    """The same pixels; but TensorRT-RTX changes its kernels while it runs, and other kernels round otherwise."""
    if plan.name.endswith(".rtx.plan"):
        assert psnr(first, second) >= 55
        assert np.abs(first.astype(int) - second).max() <= 3
    else:
        np.testing.assert_array_equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_rtx_runs_where_we_say_that_it_does(tmp_path: Path) -> None:
    """What the library says itself, with a plan for all GPUs that it builds for unless told otherwise."""
    trt = pytest.importorskip("tensorrt_rtx")
    gpu = open_driver().gpu
    runs = rtx_runs_on(trt, gpu.compute_capability)
    options = {"compute_capabilities": (gpu.capability,)} if gpu.compute_capability in rtx_capabilities(trt) else {}
    plan = build(write_engine(tmp_path / "negative.onnx", precision="fp16"), tmp_path, "rtx", **options)
    logger = new_logger(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
    assert (engine is not None) == runs, logger.last
    if not runs:
        assert RTX_REFUSAL in logger.last
        with pytest.raises(RtxUnsupportedError, match=r", not \d+\.\d\. Run the FP16 engine there"):
            open_backend(plan)


class TestPlan:
    pytestmark = on_gpu

    def test_parity_with_the_float32_engine(self, plan: Path, engines: Path, shared_data: Path) -> None:
        backend, reference = PlanBackend(plan), open_backend(engines / "wave.onnx", "cpu")
        for size in SIZES:
            batch = photographs(shared_data, *size, count=3)
            assert psnr(backend.run(batch), reference.run(batch)) >= 55

    def test_a_cuda_graph_changes_nothing(self, plan: Path, shared_data: Path) -> None:
        backend, captured = PlanBackend(plan), PlanBackend(plan, cuda_graph=True)
        made: dict[tuple[int, int], np.ndarray] = {}
        for size in (*SIZES, *SIZES):
            batch = photographs(shared_data, *size)
            styled = captured.run(batch)
            assert_alike(plan, backend.run(batch), styled)
            np.testing.assert_array_equal(made.setdefault(size, styled), styled)

    @pytest.mark.parametrize("cuda_graph", [False, True])
    def test_a_foreign_stream_and_device_arrays(self, plan: Path, shared_data: Path, cuda_graph: bool) -> None:
        backend = PlanBackend(plan, cuda_graph=cuda_graph)
        stream = torch.cuda.Stream()
        kept = []  # so that every array has an address of its own
        for size in (*SIZES, *SIZES):
            batch = photographs(shared_data, *size)
            expected = backend.run(batch)
            with torch.cuda.stream(stream):
                images = torch.from_numpy(batch).cuda(non_blocking=True)
                out = torch.empty_like(images)
                assert backend.run_device(images, stream=stream, out=out) is out
                made = torch.from_dlpack(backend.run_device(images, stream=stream.cuda_stream))
            stream.synchronize()
            assert_alike(plan, out.cpu().numpy(), expected)
            assert_alike(plan, made.cpu().numpy(), expected)
            assert_alike(plan, torch.as_tensor(backend.run_device(images)).cpu().numpy(), expected)
            kept.append((images, out, made))

    def test_nothing_stays_in_the_gpus_memory(self, plan: Path, shared_data: Path) -> None:
        batch = photographs(shared_data, 512, 512)
        used = []
        for _ in range(4):
            with torch.cuda.device(0):
                backend = PlanBackend(plan, cuda_graph=True)
                backend.run(batch)
                backend.close()
                used.append(torch.cuda.mem_get_info()[0])
        assert used[-1] >= used[1] - 2**21

    def test_p95_stays_near_the_median_under_a_graph(self, plan: Path, shared_data: Path) -> None:
        backend = PlanBackend(plan, cuda_graph=True)
        images = torch.from_numpy(photographs(shared_data, 512, 512)).cuda()
        out, stream = torch.empty_like(images), torch.cuda.Stream()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(250):
            start.record(stream)
            backend.run_device(images, stream=stream, out=out)
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end))
        warm = times[50:]
        assert np.percentile(warm, 95) <= 1.05 * statistics.median(warm)


class TestOnnxRuntime:
    pytestmark = on_gpu

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_parity(self, engines: Path, shared_data: Path, precision: str) -> None:
        name = "wave.onnx" if precision == "fp32" else "wave.fp16.onnx"
        backend = open_backend(engines / name, "cuda")
        reference = open_backend(engines / "wave.onnx", "cpu")
        for size in SIZES:
            batch = photographs(shared_data, *size)
            styled, expected = backend.run(batch), reference.run(batch)
            if precision == "fp32":
                assert np.abs(styled.astype(int) - expected).max() <= 1
            else:
                assert psnr(styled, expected) >= 55
            images = torch.from_numpy(batch).cuda()
            np.testing.assert_array_equal(torch.as_tensor(backend.run_device(images)).cpu().numpy(), styled)

    def test_no_node_falls_back_to_the_cpu(self, engines: Path, static_engines: Path) -> None:
        open_backend(engines / "wave.fp16.onnx", "cuda").close()  # says what is missing, where something is
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        # Of an engine for any size, the padding is computed there: a few numbers, of which no pixel passes through.
        allowed = {"Shape", "Squeeze", "Neg", "Mod", "Reshape", "Concat"}
        assert on_cpu(engines / "wave.fp16.onnx", providers) <= allowed
        for name in ("wave.onnx", "wave.fp16.onnx"):  # which a CUDA graph needs altogether
            assert on_cpu(static_engines / name, providers) == set(), name

    @pytest.mark.parametrize("name", ["wave.onnx", "wave.fp16.onnx"])
    def test_a_static_engine_captured(self, static_engines: Path, name: str) -> None:
        captured = open_backend(static_engines / name, "cuda", cuda_graph=True)
        plain = open_backend(static_engines / name, "cuda")
        for seed in range(3):
            batch = np.random.default_rng(seed).integers(0, 256, (1, *STATIC, 3), dtype=np.uint8)
            styled, expected = captured.run(batch), plain.run(batch)
            # cuDNN's search may settle on other algorithms in another session.
            assert np.abs(styled.astype(int) - expected).max() <= (1 if name == "wave.onnx" else 3)
            images = torch.from_numpy(batch).cuda()
            out = torch.empty_like(images)
            captured.run_device(images, out=out)
            np.testing.assert_array_equal(out.cpu().numpy(), styled)


def on_cpu(engine: Path, providers: list[str]) -> set[str]:
    """Operators that ONNX Runtime gives to the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(engine), options, providers=providers)
    return {
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    }


def test_what_runs_on_the_cpu_is_seen(tmp_path: Path) -> None:
    assert {"MatMul", "Cast", "Add"} <= on_cpu(write_engine(tmp_path / "a.onnx"), ["CPUExecutionProvider"])
