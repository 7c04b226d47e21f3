"""Arrays of other libraries, by the two protocols that all of them speak."""

import gc
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nst_deploy.errors import NotADeviceArrayError
from nst_deploy.runtime import dlpack
from nst_deploy.runtime.device_array import DeviceArray, stream_handle, view_device_array

PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
ADDRESS = PIXELS.ctypes.data


def with_interface(**changes: object) -> Any:
    interface = {"shape": PIXELS.shape, "typestr": "|u1", "data": (ADDRESS, True), "version": 3} | changes
    return SimpleNamespace(__cuda_array_interface__=interface)


class Producer:
    """An array of another library, which says that ordinary memory is a GPU's."""

    def __init__(self, array: Any, kind: int = dlpack.CUDA) -> None:
        self.array, self.kind, self.streams = array, kind, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, *, stream: int) -> object:
        self.streams.append(stream)
        return self.array.__dlpack__()


# --- taken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [None, (60, 15, 3, 1)])
def test_cuda_array_interface(strides: tuple[int, ...] | None) -> None:
    view = view_device_array(with_interface(strides=strides, stream=7), 5)
    assert (view.address, view.shape, view.has_batch, view.stream) == (ADDRESS, (2, 4, 5, 3), True, 7)
    assert view_device_array(with_interface(), 5).stream is None
    single = view_device_array(with_interface(shape=(4, 5, 3)), 5)
    assert (single.shape, single.has_batch) == ((1, 4, 5, 3), False)
    # A dimension of one element has any stride.
    assert view_device_array(with_interface(shape=(1, 4, 5, 3), strides=(999, 15, 3, 1)), 5).shape == (1, 4, 5, 3)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"typestr": "<f4"}, r"<f4 \[2, 4, 5, 3\]"),
        ({"shape": (2, 3, 4, 5)}, r"uint8 \[2, 3, 4, 5\]"),
        ({"shape": (5, 3)}, r"uint8 \[5, 3\]"),
        ({"shape": (0, 5, 3)}, r"uint8 \[0, 5, 3\]"),
        ({"strides": (60, 1, 12, 4)}, r"uint8 .* with strides \[60, 1, 12, 4\]"),
    ],
)
def test_other_arrays_are_refused(changes: dict[str, object], given: str) -> None:
    with pytest.raises(NotADeviceArrayError, match=f"C-contiguous uint8 array.*got {given}") as caught:
        view_device_array(with_interface(**changes), 5)
    assert caught.value.exit_code == 2


def test_dlpack() -> None:
    producer = Producer(PIXELS)
    before = sys.getrefcount(PIXELS)
    view = view_device_array(producer, 5)
    assert (view.address, view.shape, view.has_batch, view.stream) == (ADDRESS, (2, 4, 5, 3), True, 5)
    assert producer.streams == [5]  # the producer lets our stream wait
    assert sys.getrefcount(PIXELS) > before
    view.release()
    assert sys.getrefcount(PIXELS) == before


def test_dlpack_of_torch() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(60, dtype=torch.uint8).reshape(4, 5, 3)
    view = view_device_array(Producer(tensor), 5)
    assert (view.address, view.shape, view.has_batch) == (tensor.data_ptr(), (1, 4, 5, 3), False)
    view.release()
    with pytest.raises(NotADeviceArrayError, match="strides"):
        view_device_array(Producer(torch.zeros(3, 4, 5, dtype=torch.uint8).permute(1, 2, 0)), 5)
    with pytest.raises(NotADeviceArrayError, match=r"kind 2 with 32 bits, \[4, 5, 3\]"):
        view_device_array(Producer(tensor.float()), 5)
    with pytest.raises(NotADeviceArrayError, match="the processor's memory"):
        view_device_array(tensor, 5)


def test_what_is_no_device_array() -> None:
    for given, name in ((PIXELS, "the processor's memory"), ("picture", "str"), (None, "NoneType")):
        with pytest.raises(NotADeviceArrayError, match=name):
            view_device_array(given, 5)
    with pytest.raises(NotADeviceArrayError, match="did not return a DLPack capsule"):
        view_device_array(Producer(SimpleNamespace(__dlpack__=lambda: "capsule")), 5)


def test_a_capsule_is_taken_once() -> None:
    capsule = PIXELS.__dlpack__()
    dlpack.take(capsule).release()
    with pytest.raises(ValueError, match="DLPack"):
        dlpack.take(capsule)


# --- given -----------------------------------------------------------------------------------------------------------


class Given:
    """Ordinary memory given as an array on the CPU, so that NumPy and torch can take it."""

    def __init__(self, owner: object) -> None:
        self.owner = owner

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, **_: object) -> object:
        return dlpack.give(ADDRESS, PIXELS.shape, dlpack.CPU, 0, self.owner)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_others_take_ours_and_let_it_go(library: str) -> None:
    consumer = pytest.importorskip(library)
    taken = consumer.from_dlpack(Given(owner=object()))
    assert len(dlpack._given) == 1
    np.testing.assert_array_equal(np.asarray(taken), PIXELS)
    del taken
    gc.collect()
    assert not dlpack._given


def test_what_nobody_takes_is_freed() -> None:
    capsule = Given(owner=object()).__dlpack__()
    assert len(dlpack._given) == 1
    del capsule
    assert not dlpack._given


def test_a_device_array_says_where_and_when() -> None:
    joined: list[int] = []
    array = DeviceArray(4096, (2, 4, 5, 3), owner=None, ordinal=1, stream=0, join=joined.append)
    interface = array.__cuda_array_interface__
    assert interface == {
        "shape": (2, 4, 5, 3),
        "typestr": "|u1",
        "data": (4096, False),
        "version": 3,
        "strides": None,
        "stream": 1,  # the default stream's other name: 0 is not allowed
    }
    assert array.__dlpack_device__() == (dlpack.CUDA, 1)
    for stream in (9, None, -1):
        taken = dlpack.take(array.__dlpack__(stream=stream, max_version=(1, 0)))
        assert (taken.address, taken.shape, taken.strides, taken.kind) == (4096, (2, 4, 5, 3), None, dlpack.CUDA)
        taken.release()
    assert joined == [9, 1]  # None is the default stream, -1 wants no waiting
    view_device_array(array, 5).release()
    assert joined == [9, 1, 5]


def test_dlpack_comes_first() -> None:
    """torch has both, and says only there on which stream an array is being made."""
    producer = Producer(PIXELS)
    producer.__cuda_array_interface__ = None  # type: ignore[attr-defined]
    view_device_array(producer, 5).release()
    assert producer.streams == [5]


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        4096,
        SimpleNamespace(__cuda_stream__=lambda: (0, 4096)),
        SimpleNamespace(cuda_stream=4096),
        SimpleNamespace(ptr=4096),
        SimpleNamespace(handle=4096),
    ],
)
def test_streams_of_every_library(stream: object) -> None:
    assert stream_handle(stream) == 4096


@pytest.mark.parametrize("stream", [-1, True, "0", 1.5])
def test_what_is_no_stream(stream: object) -> None:
    with pytest.raises(NotADeviceArrayError, match="the stream"):
        stream_handle(stream)
