"""Plans on a simulated GPU: pictures that lie in its memory, and the streams of other libraries."""

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nst_common.errors import UserError
from nst_deploy import Stylizer
from nst_deploy.errors import (
    NotADeviceArrayError,
    PictureSizeError,
)
from nst_deploy.runtime.plan import PlanBackend
from tests.engines import negative, write_engine
from tests.nst_deploy.runtime.cuda_simulator import Simulator, _Stream, memory
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary
from tests.nst_deploy.runtime.pycuda_simulator import install_pycuda
from tests.nst_deploy.runtime.simulated_plans import NOTHING, backend, cache, cuda, gpu, plan, random_batch, trt

__all__ = ["backend", "cache", "cuda", "gpu", "plan", "trt"]  # fixtures


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


def test_the_run_before_a_capture_comes_after_what_is_under_way(plan: Path, gpu: Simulator) -> None:
    """It is made on a stream of our own, in buffers that the caller's stream may still be using."""
    backend, handle = PlanBackend(plan, cuda_graph=True), gpu.handle()
    gpu.streams[handle] = _Stream()
    first = Foreign(gpu, random_batch(1, 32, 32))
    styled = backend.run_device(first, stream=handle)
    later = backend.run_device(Foreign(gpu, random_batch(1, 16, 16)), stream=handle)  # smaller: nothing is freed for it
    np.testing.assert_array_equal(pixels_of(styled), negative(first.pixels()))
    del later


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
