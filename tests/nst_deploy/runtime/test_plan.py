"""Plans on a simulated GPU: what they make, what is freed, what is refused."""

import dataclasses
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nst_common.errors import UserError
from nst_deploy import Stylizer
from nst_deploy.errors import (
    BackendFailedError,
    BackendMissingError,
    CannotCaptureError,
    DriverTooOldError,
    EngineNotFoundError,
    EngineUnreadableError,
    GpuUnavailableError,
    NotADeviceArrayError,
    NotAnEngineError,
    OutOfDeviceMemoryError,
    PictureSizeError,
    PlanElsewhereError,
    PlanMismatchError,
    PlanWeightsMissingError,
    SidecarMalformedError,
    SidecarMissingError,
    WrongKindOfEngineError,
)
from nst_deploy.plan_sidecar import Flavor, Profile, sidecar_path
from nst_deploy.runtime import plan as plan_module
from nst_deploy.runtime.backend import open_backend
from nst_deploy.runtime.plan import PlanBackend
from nst_deploy.runtime.plan_session import GRAPHS_KEPT
from tests.engines import CONTRACT, negative, write_engine
from tests.nst_deploy.runtime.cuda_simulator import FakeRuntime, Simulator, _Stream, install_bindings, memory
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary, install_library, write_plan
from tests.nst_deploy.runtime.pycuda_simulator import install_pycuda

NOTHING = {"device": 0, "pinned": 0, "streams": 0, "events": 0, "graphs": 0, "contexts": 0}
SIZES = ((1, 8, 8), (1, 33, 17), (2, 64, 96), (1, 9, 11))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Simulator:
    return Simulator()


@pytest.fixture(autouse=True)
def cuda(gpu: Simulator, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    return install_bindings(monkeypatch, gpu)


@pytest.fixture(autouse=True)
def trt(gpu: Simulator, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    return install_library(monkeypatch, gpu)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan_module, "user_cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "negative.plan")


@pytest.fixture
def backend(plan: Path, gpu: Simulator) -> Iterator[PlanBackend]:
    backend = PlanBackend(plan)
    yield backend
    backend.close()
    assert gpu.alive() == NOTHING


def random_batch(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavor", ["tensorrt", "rtx"])
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("driver", ["cuda-bindings", "pycuda"])
def test_pictures_of_many_sizes_then_nothing_left(
    tmp_path: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch, flavor: Flavor, cuda_graph: bool, driver: str
) -> None:
    library = install_library(monkeypatch, gpu, flavor)
    if driver == "pycuda":
        install_pycuda(monkeypatch, gpu)
    path = write_plan(tmp_path / "a.plan", flavor)
    backend = PlanBackend(path, cuda_graph=cuda_graph)
    for seed, shape in enumerate([*SIZES, *SIZES]):
        batch = random_batch(*shape, seed=seed)
        batch.flags.writeable = False  # as arrays made from a picture are
        styled = backend.run(batch)
        np.testing.assert_array_equal(styled, negative(batch))
        assert styled.flags.writeable
        assert styled.flags.c_contiguous
    own_graphs = cuda_graph and flavor == "tensorrt"
    assert library.made == (len(SIZES) if own_graphs else 1)
    assert gpu.alive()["graphs"] == (len(SIZES) if own_graphs else 0)
    assert backend.name == ("tensorrt" if flavor == "tensorrt" else "tensorrt-rtx")
    assert backend.contract == CONTRACT
    # pycuda cannot capture graphs: those that we make ourselves need cuda-bindings.
    assert backend._driver.name == ("cuda-bindings" if own_graphs else driver)
    backend.close()
    backend.close()
    assert gpu.alive() == NOTHING


def test_results_stay_the_callers(backend: PlanBackend) -> None:
    first, second = random_batch(1, 16, 16), np.zeros((1, 16, 16, 3), np.uint8)
    styled = backend.run(first)
    backend.run(second)
    np.testing.assert_array_equal(styled, negative(first))


@pytest.mark.parametrize(("least", "count"), [(1, 5), (1, 4), (2, 5), (2, 2)])
def test_more_pictures_than_the_plan_takes_at_once(tmp_path: Path, least: int, count: int) -> None:
    profile = Profile((least, 8, 8), (2, 16, 16), (2, 32, 32))
    backend = PlanBackend(write_plan(tmp_path / "a.plan", profiles=(profile,)))
    batch = random_batch(count, 12, 9)
    np.testing.assert_array_equal(backend.run(batch), negative(batch))


def test_each_profile_has_its_context(tmp_path: Path, trt: FakeLibrary) -> None:
    small, large = Profile((1, 8, 8), (1, 16, 16), (1, 32, 32)), Profile((1, 33, 8), (1, 64, 64), (1, 64, 64))
    backend = PlanBackend(write_plan(tmp_path / "a.plan", profiles=(small, large)))
    for height in (16, 64, 20, 40):
        batch = random_batch(1, height, 12)
        np.testing.assert_array_equal(backend.run(batch), negative(batch))
    assert trt.made == 2


def test_threads_have_a_context_each_and_share_the_rest(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    threads, rounds = 4, 6
    start = threading.Barrier(threads)
    backend = PlanBackend(plan)
    inside: set[int] = set()
    original = plan_module.PlanSession.run_host

    def run_together(session: object, *arguments: object) -> None:
        inside.add(id(session))
        start.wait(10)
        original(session, *arguments)  # type: ignore[arg-type]

    def work(thread: int) -> bool:
        good = True
        for i in range(rounds):
            batch = random_batch(1, 8 + 5 * thread, 8 + i, seed=thread)
            good &= bool((backend.run(batch) == negative(batch)).all())
        return good

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(threads) as pool:
        patch.setattr(plan_module.PlanSession, "run_host", run_together)
        assert all(pool.map(work, range(threads)))
    assert trt.made == len(inside) == threads
    backend.close()
    assert gpu.alive() == NOTHING


def test_buffers_are_kept_and_grown(backend: PlanBackend, gpu: Simulator) -> None:
    backend.run(random_batch(1, 32, 32))
    made = gpu.calls["cudaMalloc"], gpu.calls["cudaMallocHost"]
    assert made == (3, 2)  # input, output and working memory; input and output on the host
    for shape in ((1, 32, 32), (1, 8, 8), (1, 16, 64)):
        backend.run(random_batch(*shape))
    assert (gpu.calls["cudaMalloc"], gpu.calls["cudaMallocHost"]) == made
    backend.run(random_batch(2, 64, 64))
    assert (gpu.calls["cudaMalloc"], gpu.calls["cudaMallocHost"]) == (6, 4)
    assert gpu.alive()["device"] == 3


def test_closing_while_it_runs_frees_it_in_the_end(plan: Path, gpu: Simulator) -> None:
    backend = PlanBackend(plan)
    with backend._session():
        backend.close()
        assert gpu.alive() != NOTHING
    assert gpu.alive() == NOTHING
    with pytest.raises(BackendFailedError, match="closed"):
        backend.run(random_batch(1, 8, 8))


def test_a_forgotten_one_is_freed_by_the_garbage_collector(plan: Path, gpu: Simulator) -> None:
    backend = PlanBackend(plan)
    backend.run(random_batch(1, 8, 8))
    del backend
    gc.collect()
    assert gpu.alive() == NOTHING


# --- CUDA graphs -----------------------------------------------------------------------------------------------------


def test_a_graph_for_each_shape(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    backend = PlanBackend(plan, cuda_graph=True)
    for _ in range(3):
        for shape in ((1, 64, 64), (1, 8, 8), (1, 8, 9)):
            batch = random_batch(*shape)
            np.testing.assert_array_equal(backend.run(batch), negative(batch))
    assert gpu.calls["cudaStreamBeginCapture"] == trt.made == 3
    assert gpu.calls["cudaGraphLaunch"] == 9


def test_a_graph_whose_buffers_have_grown_is_captured_again(plan: Path, gpu: Simulator) -> None:
    backend = PlanBackend(plan, cuda_graph=True)
    for shape in ((1, 8, 8), (1, 64, 64), (1, 8, 8), (1, 64, 64)):
        batch = random_batch(*shape)
        np.testing.assert_array_equal(backend.run(batch), negative(batch))
    assert gpu.calls["cudaStreamBeginCapture"] == 3
    backend.close()
    assert gpu.alive() == NOTHING


def test_the_longest_unused_graph_goes(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    backend = PlanBackend(plan, cuda_graph=True)
    backend.run(random_batch(1, 64, 64))
    for width in range(8, 8 + GRAPHS_KEPT + 2):
        backend.run(random_batch(1, 8, width))
    assert gpu.alive()["graphs"] == gpu.contexts == GRAPHS_KEPT
    made = trt.made
    backend.run(random_batch(1, 8, 8 + GRAPHS_KEPT))
    assert trt.made == made
    backend.run(random_batch(1, 64, 64))
    assert trt.made == made + 1


def test_rtx_makes_its_own_graphs(tmp_path: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    library = install_library(monkeypatch, gpu, "rtx")
    for cuda_graph in (False, True):
        PlanBackend(write_plan(tmp_path / "a.rtx.plan", "rtx"), cuda_graph=cuda_graph).run(random_batch(1, 8, 8))
    assert [strategy.name for strategy in library.strategies] == ["DISABLED", "WHOLE_GRAPH_CAPTURE"]  # type: ignore[attr-defined]
    assert gpu.calls["cudaStreamBeginCapture"] == 0


def test_what_cannot_be_captured_is_said_and_freed(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    trt.fail["capture"] = ""
    backend = PlanBackend(plan, cuda_graph=True)
    with pytest.raises(CannotCaptureError, match=r"CUDA graph: .*Invalidated\)\. Leave --cuda-graph away"):
        backend.run(random_batch(1, 8, 8))
    assert gpu.alive() == NOTHING | {"contexts": 0}


# --- pictures in the GPU's memory ------------------------------------------------------------------------------------


class Foreign:
    """Another library's array in the simulated GPU's memory."""

    def __init__(self, gpu: Simulator, pixels: np.ndarray, offset: int = 0, **interface: object) -> None:
        address = gpu.allocate(pixels.nbytes + offset)
        assert address is not None
        self.shape, self.address = pixels.shape, address + offset
        memory(self.address, pixels.nbytes)[:] = pixels.reshape(-1)
        self.__cuda_array_interface__ = {
            "shape": pixels.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": None,
            **interface,
        }

    def pixels(self) -> np.ndarray:
        return memory(self.address, int(np.prod(self.shape))).reshape(self.shape).copy()


def pixels_of(array: object) -> np.ndarray:
    interface = array.__cuda_array_interface__  # type: ignore[attr-defined]
    shape = interface["shape"]
    return memory(interface["data"][0], int(np.prod(shape))).reshape(shape).copy()


@pytest.mark.parametrize("driver", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("shape", [(5, 12, 9), (12, 9)])
def test_device_arrays_in_and_out(
    plan: Path,
    gpu: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    cuda_graph: bool,
    offset: int,
    shape: tuple[int, ...],
) -> None:
    if driver == "pycuda":
        install_pycuda(monkeypatch, gpu)
    backend = PlanBackend(plan, cuda_graph=cuda_graph)
    source, out = Foreign(gpu, random_batch(*shape), offset), Foreign(gpu, random_batch(*shape, seed=1), offset)
    styled = backend.run_device(source)
    assert backend.run_device(source, out=out) is out
    assert gpu.alive()["pinned"] == 0  # not through the host
    for result in (styled, out):
        np.testing.assert_array_equal(pixels_of(result), negative(source.pixels()))
    assert styled.__cuda_array_interface__["stream"] is None
    held = gpu.alive()["device"]
    del styled
    gc.collect()
    assert gpu.alive()["device"] == held - 1
    backend.close()
    assert gpu.alive() == NOTHING | {"device": 2}  # the foreign ones


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_callers_own_stream(plan: Path, gpu: Simulator, cuda_graph: bool) -> None:
    backend = PlanBackend(plan, cuda_graph=cuda_graph)
    backend.run(random_batch(1, 16, 16))
    handle = gpu.handle()
    gpu.streams[handle] = _Stream()
    source = Foreign(gpu, np.zeros((1, 16, 16, 3), np.uint8))
    wanted = random_batch(1, 16, 16)
    gpu.enqueue(handle, lambda: memory(source.address, wanted.size).__setitem__(slice(None), wanted.reshape(-1)))
    styled = backend.run_device(source, stream=SimpleNamespace(__cuda_stream__=lambda: (0, handle)))
    assert gpu.streams[handle].queue, "the call has waited for the stream"
    assert styled.__cuda_array_interface__["stream"] == handle
    gpu.synchronize(handle)
    np.testing.assert_array_equal(pixels_of(styled), negative(wanted))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_runs_on_several_streams_do_not_meet_in_the_same_buffers(plan: Path, gpu: Simulator, cuda_graph: bool) -> None:
    backend = PlanBackend(plan, cuda_graph=cuda_graph)
    handles = [gpu.handle() for _ in range(3)]
    runs = []
    for i, handle in enumerate([*handles, None, *handles]):
        if handle is not None:
            gpu.streams.setdefault(handle, _Stream())
        source = Foreign(gpu, random_batch(1, 16 + 8 * (i % 2), 16, seed=i))
        runs.append((source, backend.run_device(source, stream=handle)))
    batch = random_batch(1, 24, 16, seed=9)
    np.testing.assert_array_equal(backend.run(batch), negative(batch))
    for handle in reversed(handles):
        gpu.synchronize(handle)
    for source, styled in runs:
        np.testing.assert_array_equal(pixels_of(styled), negative(source.pixels()))


@pytest.mark.parametrize("driver", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("handle", [0, 1, 2])
def test_default_streams_are_waited_for(
    plan: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch, driver: str, handle: int
) -> None:
    if driver == "pycuda":
        install_pycuda(monkeypatch, gpu)
    source = Foreign(gpu, np.zeros((1, 16, 16, 3), np.uint8))
    wanted = random_batch(1, 16, 16)
    gpu.enqueue(handle, lambda: memory(source.address, wanted.size).__setitem__(slice(None), wanted.reshape(-1)))
    styled = PlanBackend(plan).run_device(source, stream=handle)
    np.testing.assert_array_equal(pixels_of(styled), negative(wanted))


@pytest.mark.parametrize("driver", ["cuda-bindings", "pycuda"])
def test_the_producers_stream_is_waited_for(
    plan: Path, gpu: Simulator, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    if driver == "pycuda":
        install_pycuda(monkeypatch, gpu)
    handle = gpu.handle()
    gpu.streams[handle] = _Stream()
    source = Foreign(gpu, np.zeros((16, 16, 3), np.uint8), stream=handle)
    wanted = random_batch(16, 16)
    gpu.enqueue(handle, lambda: memory(source.address, wanted.size).__setitem__(slice(None), wanted.reshape(-1)))
    styled = PlanBackend(plan).run_device(source)
    np.testing.assert_array_equal(pixels_of(styled), negative(wanted))


def test_a_consumers_stream_waits_for_ours(plan: Path, gpu: Simulator) -> None:
    backend = PlanBackend(plan)
    ours, theirs = gpu.handle(), gpu.handle()
    gpu.streams |= {ours: _Stream(), theirs: _Stream()}
    source = Foreign(gpu, random_batch(16, 16))
    styled = backend.run_device(source, stream=ours)
    capsule = styled.__dlpack__(stream=theirs)
    seen = []
    gpu.enqueue(theirs, lambda: seen.append(pixels_of(styled)))
    gpu.synchronize(theirs)
    np.testing.assert_array_equal(seen[0], negative(source.pixels()))
    assert styled.__dlpack_device__() == (2, 0)
    del capsule


def test_what_was_asked_wrongly_costs_no_context(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    backend = PlanBackend(plan)
    backend.run(random_batch(1, 8, 8))
    source, out = Foreign(gpu, random_batch(16, 16)), Foreign(gpu, random_batch(16, 17))
    with pytest.raises(NotADeviceArrayError, match=r"out \[1, 16, 17, 3\] for images \[1, 16, 16, 3\]"):
        backend.run_device(source, out=out)
    with pytest.raises(PictureSizeError):
        backend.run_device(Foreign(gpu, random_batch(65, 16)))
    with pytest.raises(NotADeviceArrayError, match="the stream 'fast'"):
        backend.run_device(source, stream="fast")
    backend.run(random_batch(1, 8, 8))
    assert trt.made == 1


def test_the_stylizer_gives_device_arrays_to_the_plan(plan: Path, gpu: Simulator, tmp_path: Path) -> None:
    source = Foreign(gpu, random_batch(16, 16))
    with Stylizer(plan) as stylize:
        assert stylize.on_gpu
        np.testing.assert_array_equal(pixels_of(stylize.style_device(source)), negative(source.pixels()))
        picture = random_batch(20, 20)
        np.testing.assert_array_equal(stylize(picture), negative(picture))
    with (
        Stylizer(write_engine(tmp_path / "a.onnx"), device="cpu") as stylize,
        pytest.raises(UserError, match=r"onnxruntime-cpu does not run on a GPU\. Open it with device='cuda'"),
    ):
        stylize.style_device(source)


# --- the cache of TensorRT-RTX ---------------------------------------------------------------------------------------


def test_what_rtx_compiled_is_kept(
    tmp_path: Path, gpu: Simulator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plan(tmp_path / "a.rtx.plan", "rtx")
    library = install_library(monkeypatch, gpu, "rtx")
    library.cache = b"kernels"
    PlanBackend(path).close()
    (blob,) = cache.iterdir()
    assert blob.read_bytes() == b"kernels"
    library.cache = b""
    PlanBackend(path).close()
    assert library.cache == b"kernels"
    blob.write_bytes(b"damaged")
    library.cache = b"kernels anew"
    PlanBackend(path).close()
    assert blob.read_bytes() == b"kernels anew"


def test_no_cache(tmp_path: Path, gpu: Simulator, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = install_library(monkeypatch, gpu, "rtx")
    library.cache = b"kernels"
    PlanBackend(write_plan(tmp_path / "a.rtx.plan", "rtx"), cache=False).close()
    assert not cache.exists()


# --- stripped plans --------------------------------------------------------------------------------------------------


def test_a_stripped_plan_takes_its_weights_from_the_engine_beside_it(
    tmp_path: Path, gpu: Simulator, trt: FakeLibrary
) -> None:
    plan = write_plan(tmp_path / "a.plan", weights_stripped=True)
    write_engine(tmp_path / "other.onnx", checkpoint_sha256="1" * 64)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(
        PlanWeightsMissingError, match=r"a\.plan holds no weights.*no fp32 ONNX engine.*--strip-weights"
    ):
        PlanBackend(plan)
    write_engine(tmp_path / "own.onnx")
    batch = random_batch(1, 8, 8)
    np.testing.assert_array_equal(PlanBackend(plan).run(batch), negative(batch))
    trt.fail["refit_from_file"] = ""
    with pytest.raises(PlanWeightsMissingError, match=r"own\.onnx does not give them: initializer conv1 has another"):
        PlanBackend(plan)
    gc.collect()
    assert gpu.alive() == NOTHING


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
