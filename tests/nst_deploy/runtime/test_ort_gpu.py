"""ONNX Runtime on GPUs: the binding of pictures, run for real on the CPU, and everything that can be refused."""

import dataclasses
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nst_common.errors import UserError
from nst_deploy.errors import (
    BackendFailedError,
    BackendMissingError,
    EngineUnreadableError,
    GpuUnavailableError,
    NoCudaGraphError,
    NotADeviceArrayError,
    OutOfDeviceMemoryError,
    PackagesCollideError,
    PictureSizeError,
    ProviderPrecisionError,
    ProviderUnavailableError,
)
from nst_deploy.plan_sidecar import Profile
from nst_deploy.runtime import backend as backend_module
from nst_deploy.runtime import dlpack, ort_gpu, ort_providers
from nst_deploy.runtime.backend import choose_device, likely_device, open_backend
from nst_deploy.runtime.onnx_metadata import read_engine
from nst_deploy.runtime.ort_gpu import IDLE_KEPT, OrtGpuBackend
from nst_deploy.runtime.ort_providers import provider_list
from tests.engines import CONTRACT, negative, write_engine

CALL = "/src/cuda_call.cc:154 std::conditional_t<THRW, void> onnxruntime::CudaCall(ERRTYPE, const char*) "
PROFILE = Profile((1, 8, 8), (1, 16, 16), (2, 64, 64))


class OnCpu(OrtGpuBackend):
    """The same session, bindings and runs with pictures in ordinary memory and ONNX Runtime's CPU kernels."""

    def __init__(self, engine: Path, *, cuda_graph: bool = False, profile: Profile | None = None) -> None:
        _, self.contract = read_engine(engine)
        self._profile = profile
        providers = [("CPUExecutionProvider", {})]
        self._start(onnxruntime, engine, "onnxruntime-bound", providers, where="cpu", cuda_graph=cuda_graph)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "negative.onnx")


def random_batch(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def as_device_array(pixels: np.ndarray) -> Any:
    interface = {"shape": pixels.shape, "typestr": "|u1", "data": (pixels.ctypes.data, False), "version": 3}
    return SimpleNamespace(__cuda_array_interface__=interface)


# --- bindings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("profile", [None, PROFILE])
def test_pictures_of_many_sizes(engine: Path, cuda_graph: bool, profile: Profile | None) -> None:
    backend = OnCpu(engine, cuda_graph=cuda_graph, profile=profile)
    kept = []
    for seed, shape in enumerate([(1, 8, 8), (3, 9, 17), (1, 8, 8), (5, 33, 8), (3, 9, 17)]):
        batch = random_batch(*shape, seed=seed)
        batch.flags.writeable = False
        kept.append((batch, backend.run(batch)))
    for batch, styled in kept:  # what came later is not written over what came first
        np.testing.assert_array_equal(styled, negative(batch))
        assert styled.flags.writeable
        assert styled.flags.c_contiguous
    backend.close()


def test_a_size_that_tensorrt_was_not_prepared_for(engine: Path) -> None:
    backend = OnCpu(engine, profile=PROFILE)
    with pytest.raises(PictureSizeError, match=r"expected 8x8 to 64x64 px, .*--format plan --max-size 65x8"):
        backend.run(random_batch(1, 65, 8))
    with pytest.raises(NotADeviceArrayError, match="3 pictures, of which 2 can be styled at once"):
        backend.run_device(as_device_array(random_batch(3, 8, 8)))


def test_bindings_are_used_again(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnCpu(engine)
    made: list[tuple[int, ...]] = []
    original = OrtGpuBackend._bind
    monkeypatch.setattr(
        OrtGpuBackend, "_bind", lambda self, shape, graph: made.append(shape) or original(self, shape, graph=graph)
    )
    for width in (8, 8, 9, 9, 8):
        backend.run(random_batch(1, 8, width))
    assert [shape[2] for shape in made] == [8, 9, 8]
    assert len(backend._idle) == 1


def test_threads_share_one(engine: Path) -> None:
    backend = OnCpu(engine)
    batches = [random_batch(1, 24 + 4 * (i % 3), 31, seed=i) for i in range(40)]
    with ThreadPoolExecutor(6) as pool:
        for batch, styled in zip(batches, pool.map(backend.run, batches), strict=True):
            np.testing.assert_array_equal(styled, negative(batch))
    assert len(backend._idle) <= IDLE_KEPT


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 17), (9, 17)])
def test_arrays_by_their_address(engine: Path, shape: tuple[int, ...], cuda_graph: bool) -> None:
    backend = OnCpu(engine, cuda_graph=cuda_graph)
    pixels, target = random_batch(*shape), np.zeros((*shape, 3), np.uint8)
    out = as_device_array(target)
    assert backend.run_device(as_device_array(pixels), out=out) is out
    np.testing.assert_array_equal(target, negative(pixels))
    made = backend.run_device(as_device_array(pixels))
    assert made.shape == (*shape, 3)
    view = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * pixels.size).from_address(made.address))
    np.testing.assert_array_equal(view.reshape(made.shape), negative(pixels))
    with pytest.raises(NotADeviceArrayError, match="out "):
        backend.run_device(as_device_array(pixels), out=as_device_array(np.zeros((8, 8, 3), np.uint8)))


def test_a_graph_reads_and_writes_its_own_pictures(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnCpu(engine, cuda_graph=True)
    runs: list[tuple[str, int]] = []
    original = backend._session.run_with_iobinding

    def run(binding: Any, options: Any) -> None:
        runs.append((options.get_run_config_entry("gpu_graph_id"), id(binding)))
        original(binding, options)

    monkeypatch.setattr(backend._session, "run_with_iobinding", run)
    for seed in range(3):
        pixels = random_batch(2, 9, 17, seed=seed)
        out = np.zeros_like(pixels)
        backend.run_device(as_device_array(pixels), out=as_device_array(out))
        np.testing.assert_array_equal(out, negative(pixels))
        np.testing.assert_array_equal(backend.run(pixels), negative(pixels))
    assert len(set(runs)) == 1
    backend.run_device(as_device_array(random_batch(1, 9, 17)))
    assert [graph for graph, _ in runs] == ["0"] * 6 + ["1"]


def test_arrays_wait_for_the_callers_stream(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []

    class Driver:
        def current(self) -> "Driver":
            return self

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def synchronize(self, stream: object) -> None:
            waited.append(stream)

    monkeypatch.setattr(ort_gpu, "open_driver", Driver)
    backend, pixels = OnCpu(engine), random_batch(8, 8)
    backend.run_device(as_device_array(pixels))
    assert waited == []
    backend.run_device(as_device_array(pixels), stream=77)
    assert waited == [None]

    class OnDefaultStream:
        """An array whose producer lets a stream wait for it, as torch does."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return dlpack.CUDA, 0

        def __dlpack__(self, *, stream: int) -> object:
            assert stream == 1
            return pixels.__dlpack__()

    backend.run_device(OnDefaultStream())
    assert waited == [None, None]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA failure 2: out of memory", OutOfDeviceMemoryError),
        ("Conv: cuDNN is not available. Install cuDNN, update the system library", ProviderUnavailableError),
        ("something else\nat line 3", BackendFailedError),
        (f"{CALL}CUDA failure 700: an illegal memory access ; GPU=0 ; expr=cudaMemcpy\n\n", BackendFailedError),
    ],
)
def test_a_run_that_fails_is_one_line(engine: Path, message: str, expected: type[UserError]) -> None:
    backend = OnCpu(engine)

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    backend._session = SimpleNamespace(io_binding=backend._session.io_binding, run_with_iobinding=fail)
    for run in (
        lambda: backend.run(random_batch(1, 8, 8)),
        lambda: backend.run_device(as_device_array(random_batch(8, 8))),
    ):
        with pytest.raises(expected) as caught:
            run()
        assert "\n" not in str(caught.value)
        assert "std::" not in str(caught.value)


def test_a_provider_that_is_left_out(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["Another"])
    with pytest.raises(
        ProviderUnavailableError, match=r"CPUExecutionProvider cannot be used: ONNX Runtime left it out"
    ):
        OnCpu(engine)


def test_a_damaged_model(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes().replace(b"MatMul", b"MutMal"))
    with pytest.raises(EngineUnreadableError, match=r"negative\.onnx"):
        OnCpu(engine)


# --- options ---------------------------------------------------------------------------------------------------------


def test_float32_stays_float32_on_cuda() -> None:
    (name, options), last = provider_list("cuda", b"", CONTRACT, cuda_graph=True, cache=True)
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["use_tf32"], options["enable_cuda_graph"]) == ("0", "1")


def test_fp16_keeps_the_tensor_cores() -> None:
    # To ONNX Runtime use_tf32=0 means no kernel for Tensor Cores at all, not even for FP16.
    half = dataclasses.replace(CONTRACT, precision="fp16")
    for provider in ort_providers.NAMES:
        cuda = dict(provider_list(provider, b"", half, cuda_graph=False, cache=False)[:-1])["CUDAExecutionProvider"]
        assert cuda["use_tf32"] == "1"


def test_options_that_are_given_go_before_ours() -> None:
    given = {"use_tf32": "1", "prefer_nhwc": "1"}
    (_, options), _ = provider_list("cuda", b"", CONTRACT, cuda_graph=False, cache=False, cuda_options=given)
    assert options.items() >= given.items()
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_tensorrt_computes_what_the_file_says(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = dataclasses.replace(CONTRACT, precision="fp16")
    (name, options), (second, cuda), _ = provider_list("tensorrt", b"m", half, cuda_graph=True, cache=True)
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert "trt_fp16_enable" not in options
    assert options["trt_profile_min_shapes"] == "image:1x8x8x3"
    assert options["trt_profile_max_shapes"] == "image:1x2160x3840x3"
    assert (options["trt_cuda_graph_enable"], cuda["enable_cuda_graph"]) == ("1", "0")
    for key in ("trt_engine_cache_path", "trt_timing_cache_path"):
        assert Path(options[key]).is_dir()
        assert Path(options[key]).is_relative_to(own_cache)
    other = provider_list("tensorrt", b"n", half, cuda_graph=False, cache=True)[0][1]
    assert other["trt_engine_cache_path"] != options["trt_engine_cache_path"]
    assert "trt_engine_cache_path" not in provider_list("tensorrt", b"n", half, cuda_graph=False, cache=False)[0][1]
    static = dataclasses.replace(half, static_size=(480, 640))
    options = provider_list("tensorrt", b"n", static, cuda_graph=False, cache=False)[0][1]
    assert {options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")} == {"image:1x480x640x3"}

    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(ProviderPrecisionError, match=r"TF32.*--precision fp16.*NVIDIA_TF32_OVERRIDE=0.*--device cuda"):
        provider_list("tensorrt", b"n", CONTRACT, cuda_graph=False, cache=False)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    provider_list("tensorrt", b"n", CONTRACT, cuda_graph=False, cache=False)


# --- what can be missing ---------------------------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, *wheels: str) -> None:
    def version(wheel: str) -> str:
        if wheel not in wheels:
            raise ort_providers.PackageNotFoundError(wheel)
        return "1.31"

    monkeypatch.setattr(ort_providers, "version", version)


def gpu_wheel(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """An onnxruntime that has been built for GPUs, in place of the one that is here."""
    module = ModuleType("onnxruntime")
    module.__file__ = str(folder / "onnxruntime" / "__init__.py")
    module.get_available_providers = lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    module.preload_dlls = lambda: print("Failed to load libcudart.so.13")
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_the_wheel_for_cpus(engine: Path, monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    installed(monkeypatch, "onnxruntime")
    with pytest.raises(ProviderUnavailableError, match=r"the one for CPUs\. .*pip install 'nst\[gpu\]'"):
        open_backend(engine, device)


def test_both_wheels(engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    for set_up in (lambda: None, lambda: gpu_wheel(monkeypatch, tmp_path)):
        set_up()
        with pytest.raises(
            PackagesCollideError, match=r"Both onnxruntime and onnxruntime-gpu are installed.*uninstall"
        ):
            open_backend(engine, "cuda")


def test_no_wheel(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r"onnxruntime-gpu is not installed.*pip install 'nst\[gpu\]'"):
        open_backend(engine, "cuda")


def test_what_the_provider_needs_is_missing(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gpu_wheel(monkeypatch, tmp_path)
    installed(monkeypatch, "onnxruntime-gpu")
    with pytest.raises(ProviderUnavailableError, match=r"No such file.*onnxruntime-gpu\[cuda,cudnn\]"):
        open_backend(engine, "cuda")
    asked: list[Path] = []
    needed = ("libm.so.6", "libcuda.so.1", "libcublas.so.99")
    monkeypatch.setattr(ort_providers, "needed_libraries", lambda library: asked.append(library) or needed)
    with pytest.raises(ProviderUnavailableError, match=r"libcublas\.so\.99: cannot open shared object"):
        open_backend(engine, "cuda")
    assert asked == [tmp_path / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"]
    monkeypatch.setattr(ort_providers, "_why_not_loaded", lambda *_: "libnvinfer.so.10: cannot open shared object file")
    with pytest.raises(ProviderUnavailableError, match=r"libnvinfer.*pip install 'nst\[tensorrt\]'"):
        open_backend(engine, "tensorrt")
    assert capfd.readouterr() == ("", "")


def test_no_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_gpu, "load_onnxruntime", lambda _: onnxruntime)
    monkeypatch.setattr(ort_gpu, "why_no_gpu", lambda: "the driver finds none")
    with pytest.raises(GpuUnavailableError, match=r"the driver finds none\. Look at what nvidia-smi shows"):
        open_backend(engine, "cuda")


@pytest.mark.parametrize("device", ["cpu", "openvino", "cuda"])
def test_no_graph_for_engines_of_any_size(engine: Path, device: Any) -> None:
    with pytest.raises(NoCudaGraphError, match="Leave --cuda-graph away") as caught:
        open_backend(engine, device, cuda_graph=True)
    assert caught.value.exit_code == 2


# --- auto ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is a GPU, and onnxruntime is the wheel for it."""
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_cuda.so").touch()
    spec = SimpleNamespace(submodule_search_locations=[str(capi.parent)])
    monkeypatch.setattr(backend_module, "find_spec", lambda _: spec)
    monkeypatch.setattr(backend_module, "why_no_gpu", lambda: None)


@pytest.mark.usefixtures("cuda_machine")
def test_auto_takes_a_gpu_that_can_be_used(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert likely_device(engine) == "cuda"
    assert likely_device(engine.with_suffix(".plan")) == "tensorrt"
    monkeypatch.setattr(ort_gpu, "OrtGpuBackend", lambda engine, **_: OnCpu(engine))
    backend = open_backend(engine)
    assert backend.name == "onnxruntime-bound"
    assert open_backend(engine, precision=None, device="cpu").name == "onnxruntime-cpu"


@pytest.mark.usefixtures("cuda_machine")
def test_auto_goes_on_where_the_gpu_cannot_be_used_after_all(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "onnxruntime")
    batch = random_batch(1, 8, 8)
    backend = open_backend(engine)
    assert backend.name in ("openvino-cpu", "onnxruntime-cpu")
    np.testing.assert_array_equal(backend.run(batch), negative(batch))


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "why_no_gpu", lambda: "the driver finds none")


def for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=None))


@pytest.mark.usefixtures("cuda_machine")
@pytest.mark.parametrize("spoil", [without_gpu, for_cpus])
def test_auto_without_gpu_or_wheel(
    engine: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    spoil(monkeypatch)
    assert likely_device(engine) == choose_device("auto") == "openvino"


def test_no_gpu_is_found_here_or_there_is_one() -> None:
    from nst_deploy.runtime.gpu_probe import why_no_gpu

    torch = pytest.importorskip("torch")
    assert (why_no_gpu() is None) == torch.cuda.is_available()
