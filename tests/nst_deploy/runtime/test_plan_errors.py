"""Plans on a simulated GPU: all that is refused, and how a failure is told."""

import dataclasses
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nst_common.errors import UserError
from nst_deploy.errors import (
    BackendFailedError,
    BackendMissingError,
    DriverTooOldError,
    EngineNotFoundError,
    EngineUnreadableError,
    GpuUnavailableError,
    NotAnEngineError,
    OutOfDeviceMemoryError,
    PictureSizeError,
    PlanElsewhereError,
    PlanMismatchError,
    RtxUnsupportedError,
    SidecarMalformedError,
    SidecarMissingError,
    WrongKindOfEngineError,
)
from nst_deploy.plan_sidecar import Flavor, Profile, sidecar_path
from nst_deploy.runtime.backend import Device, open_backend
from nst_deploy.runtime.plan import PlanBackend
from nst_deploy.runtime.trt import rtx_runs_on
from tests.engines import CONTRACT, negative, write_engine
from tests.nst_deploy.runtime.cuda_simulator import FakeRuntime, Simulator, install_bindings
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary, install_library, write_plan
from tests.nst_deploy.runtime.pycuda_simulator import install_pycuda
from tests.nst_deploy.runtime.simulated_plans import NOTHING, backend, cache, cuda, gpu, plan, random_batch, trt

__all__ = ["backend", "cache", "cuda", "gpu", "plan", "trt"]  # fixtures


# --- errors ----------------------------------------------------------------------------------------------------------


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError):
        PlanBackend(tmp_path / "no.plan")


@pytest.mark.parametrize("kept", [0, 3, 20])
def test_a_plan_cut_short(plan: Path, kept: int) -> None:
    plan.write_bytes(plan.read_bytes()[:kept])
    with pytest.raises(PlanMismatchError, match="replaced or cut short"):
        PlanBackend(plan)


def test_a_plan_that_the_library_does_not_take(tmp_path: Path, trt: FakeLibrary) -> None:
    trt.fail["deserialize_cuda_engine"] = "Serialization assertion failed\nat line 7"
    with pytest.raises(
        EngineUnreadableError, match=r"a\.plan as an engine: Serialization assertion failed\. "
    ) as caught:
        PlanBackend(write_plan(tmp_path / "a.plan"))
    one_line(caught)


def test_without_its_sidecar(plan: Path) -> None:
    sidecar_path(plan).unlink()
    with pytest.raises(SidecarMissingError, match=r"negative\.plan\.json beside it"):
        PlanBackend(plan)


def test_a_malformed_sidecar(plan: Path) -> None:
    sidecar_path(plan).write_text("{")
    with pytest.raises(SidecarMalformedError, match="not JSON"):
        PlanBackend(plan)


def test_another_model_of_the_same_kind(tmp_path: Path) -> None:
    with pytest.raises(NotAnEngineError, match=r"its tensors are image .* logits .*expected uint8 image and styled"):
        PlanBackend(write_plan(tmp_path / "a.plan", tensors=("image", "logits")))


@pytest.mark.parametrize(
    ("sidecar", "built_for", "here"),
    [
        ({"library_version": "10.12.0.1"}, "TensorRT 10.12.0.1", "TensorRT 10.13.3.9"),
        ({"library_version": "10.14.0.1", "portable": True}, "TensorRT 10.14.0.1", "TensorRT 10.13.3.9"),
        ({"library_version": "9.1.0.1", "portable": True}, "TensorRT 9.1.0.1", "TensorRT 10.13.3.9"),
        (
            {"compute_capabilities": ("9.0", "12.0"), "gpu_name": "Big GPU"},
            "GPUs of compute capability 9.0, 12.0 on Big GPU",
            "Simulated GPU (compute capability 8.9)",
        ),
        ({"gpu_name": "Big GPU"}, "Big GPU", "Simulated GPU (compute capability 8.9)"),
        (
            {"gpu_name": "Big GPU", "compute_capabilities": ()},
            "Big GPU",
            "Simulated GPU (compute capability 8.9)",
        ),
    ],
)
def test_built_for_something_else(tmp_path: Path, sidecar: dict[str, object], built_for: str, here: str) -> None:
    with pytest.raises(PlanElsewhereError) as caught:
        PlanBackend(write_plan(tmp_path / "a.plan", **sidecar))
    command = "nst-export --format plan --trt-flavor tensorrt --ckpt CHECKPOINT"
    assert (
        one_line(caught) == f"{tmp_path / 'a.plan'} was built for {built_for}, here is {here}. Build it here: {command}"
    )


@pytest.mark.parametrize(
    "sidecar",
    [
        {"library_version": "10.12.0.1", "portable": True},
        {"gpu_name": "Big GPU", "portable": True},
        {"gpu_name": None},
        {"compute_capabilities": ()},
    ],
)
def test_built_elsewhere_but_for_here(tmp_path: Path, sidecar: dict[str, object]) -> None:
    PlanBackend(write_plan(tmp_path / "a.plan", **sidecar))


def test_portable_plans_need_an_ampere(tmp_path: Path, cuda: FakeRuntime) -> None:
    plan = write_plan(tmp_path / "a.plan", portable=True, compute_capabilities=())
    PlanBackend(plan)
    cuda.capability = (7, 5)
    with pytest.raises(PlanElsewhereError, match=r"capability 8\.0 and later, here is .*\(compute capability 7\.5\)"):
        PlanBackend(plan)


def test_an_rtx_plan_is_not_tied_to_the_gpu_that_built_it(
    tmp_path: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_library(monkeypatch, gpu, "rtx")
    PlanBackend(write_plan(tmp_path / "a.rtx.plan", "rtx", gpu_name="Big GPU"))


@pytest.mark.parametrize("capabilities", [(), ("9.0",), ("8.0", "8.6", "8.9", "12.0", "12.1")])
@pytest.mark.parametrize("device", ["auto", "tensorrt"])
def test_an_rtx_plan_on_a_gpu_that_rtx_does_not_run_on(
    tmp_path: Path,
    gpu: Simulator,
    cuda: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: tuple[str, ...],
    device: Device,
) -> None:
    # Whatever it was built for: building it anew would help as little as copying it anew.
    install_library(monkeypatch, gpu, "rtx")
    cuda.capability = (9, 0)
    plan = write_plan(tmp_path / "a.rtx.plan", "rtx", compute_capabilities=capabilities)
    with pytest.raises(RtxUnsupportedError) as caught:
        open_backend(plan, device)
    assert one_line(caught) == (
        f"{plan} cannot run on Simulated GPU: TensorRT-RTX 1.7.1.116 runs on GPUs of compute capability 7.5, 8.0, 8.6, "
        "8.9, 12.0, 12.1, not 9.0. Run the FP16 engine there (nst-export --precision fp16) with --device cuda, or a "
        "plan of TensorRT itself: nst-export --format plan --trt-flavor tensorrt --ckpt CHECKPOINT"
    )


def test_a_later_gpu_that_rtx_itself_refuses(
    tmp_path: Path, gpu: Simulator, cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = install_library(monkeypatch, gpu, "rtx")
    library.fail["deserialize_cuda_engine"] = (
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
        "compute capability 13.0. Supported compute capabilities: None. TensorRT-RTX does not support this compute "
        "capability, so the engine cannot be rebuilt for it. In throwUnlessComputeCapSupported)"
    )
    cuda.capability = (13, 0)
    with pytest.raises(RtxUnsupportedError, match=r"12\.1, not 13\.0\. Run the FP16 engine"):
        PlanBackend(write_plan(tmp_path / "a.rtx.plan", "rtx", compute_capabilities=()))


def test_an_rtx_plan_for_other_gpus_than_this_one(
    tmp_path: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_library(monkeypatch, gpu, "rtx")
    with pytest.raises(PlanElsewhereError, match=r"capability 12\.0, here is .*8\.9\)\. .* --trt-flavor rtx"):
        PlanBackend(write_plan(tmp_path / "a.rtx.plan", "rtx", compute_capabilities=("12.0",), gpu_name=None))


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 0), False), ((7, 5), True), ((8, 7), False), ((9, 0), False), ((10, 0), False), ((12, 1), True)],
)
def test_which_gpus_rtx_runs_on(gpu: Simulator, capability: tuple[int, int], runs: bool) -> None:
    fake = FakeLibrary(gpu, "rtx")
    assert rtx_runs_on(fake, capability) == runs
    assert rtx_runs_on(fake, (13, 0))  # what comes later is the library's to refuse


@pytest.mark.parametrize(("flavor", "package"), [("tensorrt", "tensorrt"), ("rtx", "tensorrt-rtx")])
def test_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavor: Flavor, package: str) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(BackendMissingError, match=rf"{package} is not installed.*pip install 'nst\[{flavor}\]'"):
        PlanBackend(write_plan(tmp_path / "a.plan", flavor))


def test_no_cuda_bindings(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendMissingError, match=r"cuda-bindings is not installed.*pip install 'nst\[tensorrt\]'"):
        PlanBackend(plan)


@pytest.mark.parametrize(
    ("set_up", "expected", "message"),
    [
        (lambda cuda: cuda.simulator.fail.update(cudaGetDeviceCount=100), GpuUnavailableError, "the driver finds none"),
        (lambda cuda: cuda.answers.update(GetDeviceCount=(0,)), GpuUnavailableError, "the driver finds none"),
        (
            lambda cuda: (
                cuda.simulator.fail.update(cudaGetDeviceCount=35),
                cuda.answers.update(DriverGetVersion=(0,)),
            ),
            GpuUnavailableError,
            "the NVIDIA driver is not installed",
        ),
        (
            lambda cuda: (
                cuda.simulator.fail.update(cudaGetDeviceCount=35),
                cuda.answers.update(DriverGetVersion=(12040,)),
            ),
            DriverTooOldError,
            r"supports CUDA 12\.4 at most, the installed packages need 13\.2\. Update the driver",
        ),
        (
            lambda cuda: cuda.simulator.fail.update(cudaGetDeviceCount=46),
            GpuUnavailableError,
            r"\(cudaErrorDevicesUnavailable\)",
        ),
    ],
)
def test_no_usable_gpu(
    plan: Path,
    cuda: FakeRuntime,
    set_up: Callable[[FakeRuntime], object],
    expected: type[UserError],
    message: str,
) -> None:
    set_up(cuda)
    with pytest.raises(expected, match=message) as caught:
        PlanBackend(plan)
    one_line(caught)


def test_pycuda_without_a_gpu(plan: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    install_pycuda(monkeypatch, gpu, devices=0)
    with pytest.raises(GpuUnavailableError, match="finds none"):
        PlanBackend(plan)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 65, 16), r"16x65 px .*expected 8x8 to 96x64 px, for which .*--format plan --max-size 65x16"),
        ((1, 16, 97), r"--max-size 16x97"),
        ((1, 7, 16), r"--min-size 7x16"),
    ],
)
def test_a_size_outside_the_profile(backend: PlanBackend, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(PictureSizeError, match=message) as caught:
        backend.run(random_batch(*shape))
    one_line(caught)


def test_fewer_pictures_than_the_profile_needs(tmp_path: Path) -> None:
    profile = Profile((2, 8, 8), (2, 16, 16), (4, 32, 32))
    backend = PlanBackend(write_plan(tmp_path / "a.plan", profiles=(profile,)))
    with pytest.raises(PictureSizeError, match=r"at least 2 at once, got 1\. Give more pictures"):
        backend.run(random_batch(1, 8, 8))


def test_a_static_plan_names_its_one_size(tmp_path: Path) -> None:
    size = (1, 16, 24)
    contract = dataclasses.replace(CONTRACT, static_size=(16, 24))
    backend = PlanBackend(write_plan(tmp_path / "a.plan", profiles=(Profile(size, size, size),), contract=contract))
    with pytest.raises(PictureSizeError, match="24x16 px, the one size that the plan was built for"):
        backend.run(random_batch(1, 16, 25))


@pytest.mark.parametrize("driver", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_out_of_device_memory_and_on(
    plan: Path, monkeypatch: pytest.MonkeyPatch, driver: str, cuda_graph: bool
) -> None:
    small = Simulator(size=50_000)  # bytes; a picture of 64x64 px needs 3 + 3 + 7 for each pixel
    install_bindings(monkeypatch, small)
    install_library(monkeypatch, small)
    if driver == "pycuda":
        install_pycuda(monkeypatch, small)
    backend = PlanBackend(plan, cuda_graph=cuda_graph)
    with pytest.raises(OutOfDeviceMemoryError, match=r"0\.00 GiB needed, .* were free\. Make .* smaller \(--size\)"):
        backend.run(random_batch(1, 64, 64))
    assert small.alive() == NOTHING
    batch = random_batch(1, 32, 32)
    np.testing.assert_array_equal(backend.run(batch), negative(batch))
    backend.close()
    assert small.alive() == NOTHING


def test_the_library_runs_out_of_memory(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    trt.fail["execute_async_v3"] = "Requested amount of GPU memory (12 bytes) could not be allocated"
    backend = PlanBackend(plan)
    with pytest.raises(OutOfDeviceMemoryError, match=r"more needed, 0\.25 GiB of 0\.25 GiB were free"):
        backend.run(random_batch(1, 8, 8))
    assert gpu.alive() == NOTHING


@pytest.mark.parametrize("method", ["create_execution_context", "set_input_shape", "execute_async_v3"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_run_that_fails_is_one_line_and_leaves_nothing(
    plan: Path, gpu: Simulator, trt: FakeLibrary, method: str, cuda_graph: bool
) -> None:
    backend = PlanBackend(plan, cuda_graph=cuda_graph)
    trt.fail[method] = "Error Code 1: Internal Error\nin a file"
    with pytest.raises(BackendFailedError, match=r"tensorrt failed: Error Code 1: Internal Error\. ") as caught:
        backend.run(random_batch(1, 8, 8))
    one_line(caught)
    del caught  # its frames hold the context
    gc.collect()
    assert gpu.alive() == NOTHING
    trt.fail.clear()
    batch = random_batch(1, 8, 8)
    np.testing.assert_array_equal(backend.run(batch), negative(batch))


@pytest.mark.parametrize(
    "name", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaMallocHost", "cudaStreamCreateWithFlags"]
)
def test_a_cuda_call_that_fails(plan: Path, gpu: Simulator, name: str) -> None:
    backend = PlanBackend(plan)
    gpu.fail[name] = 700
    with pytest.raises(BackendFailedError, match=r"CUDA failed: .*\(cudaErrorIllegalAddress\)"):
        backend.run(random_batch(1, 8, 8))
    gpu.fail.clear()
    assert gpu.alive() == NOTHING


# --- plans and ONNX engines ------------------------------------------------------------------------------------------


def test_auto_runs_a_plan_on_the_gpu(plan: Path) -> None:
    batch = random_batch(1, 8, 8)
    for device in ("auto", "tensorrt"):
        np.testing.assert_array_equal(open_backend(plan, device).run(batch), negative(batch))


@pytest.mark.parametrize("device", ["cpu", "openvino", "cuda"])
def test_a_plan_where_onnx_is_needed(plan: Path, device: str) -> None:
    with pytest.raises(
        WrongKindOfEngineError, match=r"a plan, and this runs ONNX engines\. Give the \.onnx, or"
    ) as caught:
        open_backend(plan, device)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_files_of_one_kind_named_as_the_other(plan: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "onnx.plan")
    with pytest.raises(WrongKindOfEngineError, match=r"an ONNX model named as a plan\. Name it \.onnx"):
        open_backend(engine)
    with pytest.raises(WrongKindOfEngineError, match=r"a plan named as an ONNX model\. Name it \.plan"):
        open_backend(plan.rename(tmp_path / "plan.onnx"))
