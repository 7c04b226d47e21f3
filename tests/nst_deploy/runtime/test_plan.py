"""Plans on a simulated GPU: what they make and what is freed."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nst_deploy.errors import (
    BackendFailedError,
    CannotCaptureError,
    PlanWeightsMissingError,
)
from nst_deploy.plan_sidecar import Flavor, Profile
from nst_deploy.runtime import plan as plan_module
from nst_deploy.runtime.plan import PlanBackend
from nst_deploy.runtime.plan_session import GRAPHS_KEPT
from tests.engines import CONTRACT, negative, write_engine
from tests.nst_deploy.runtime.cuda_simulator import Simulator
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary, install_library, write_plan
from tests.nst_deploy.runtime.pycuda_simulator import install_pycuda
from tests.nst_deploy.runtime.simulated_plans import NOTHING, backend, cache, cuda, gpu, plan, random_batch, trt

__all__ = ["backend", "cache", "cuda", "gpu", "plan", "trt"]  # fixtures
SIZES = ((1, 8, 8), (1, 33, 17), (2, 64, 96), (1, 9, 11))


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
    assert library.strategies == [("DISABLED", "LAZY"), ("WHOLE_GRAPH_CAPTURE", "EAGER")]
    assert gpu.calls["cudaStreamBeginCapture"] == 0


def test_what_cannot_be_captured_is_said_and_freed(plan: Path, gpu: Simulator, trt: FakeLibrary) -> None:
    trt.fail["capture"] = ""
    backend = PlanBackend(plan, cuda_graph=True)
    with pytest.raises(CannotCaptureError, match=r"CUDA graph: .*Invalidated\)\. Leave --cuda-graph away"):
        backend.run(random_batch(1, 8, 8))
    assert gpu.alive() == NOTHING | {"contexts": 0}


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


def test_who_waits_for_the_whole_gpu_waits_for_a_capture_first(gpu: Simulator) -> None:
    """CUDA refuses it while another thread captures."""
    from nst_deploy.runtime.cuda_bindings import BindingsDriver

    driver = BindingsDriver()
    stream = driver.new_stream()
    waiting = threading.Thread(target=driver.synchronize, args=(None,))
    seen: list[int] = []

    def enqueue() -> None:
        waiting.start()
        waiting.join(0.2)
        seen.append(gpu.calls["cudaDeviceSynchronize"])

    driver.capture(stream, enqueue)
    waiting.join(5)
    assert [*seen, gpu.calls["cudaDeviceSynchronize"]] == [0, 1]
